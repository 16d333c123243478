// Work for several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

namespace wsn {

// Calls work(0) … work(count - 1), on the threads that `schedule` has and on this one. No thread waits for a call that
// has not begun, so calls that share a pool cannot block each other.
template <class Schedule>
void run_all(int64_t count, std::function<void(int64_t)> work, int64_t threads, const Schedule& schedule) {
  struct Shared {
    std::function<void(int64_t)> work;
    int64_t count;
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all;
  };
  auto shared = std::make_shared<Shared>();
  shared->work = std::move(work), shared->count = count;
  auto take = [shared] {
    for (int64_t i; (i = shared->next++) < shared->count;) {
      shared->work(i);
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->done == shared->count) shared->all.notify_all();
    }
  };
  for (int64_t i = 1; i < std::min(threads, count); ++i) schedule(take);
  take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all.wait(lock, [&] { return shared->done == shared->count; });
}

}  // namespace wsn
