// Work shared by several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

namespace wsn {

// Calls work(0) … work(count - 1) on this thread and on those of `schedule`. No thread waits for work that has not begun,
// so calls that share a pool cannot block each other. After all have ended, rethrows an exception of any of them.
template <class Schedule>
void run_all(int64_t count, std::function<void(int64_t)> work, int64_t threads, const Schedule& schedule) {
  struct Shared {
    std::function<void(int64_t)> work;
    int64_t count;
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::exception_ptr failed;
    std::mutex mutex;
    std::condition_variable all;
  };
  auto shared = std::make_shared<Shared>();
  shared->work = std::move(work), shared->count = count;
  auto take = [shared] {
    for (int64_t i; (i = shared->next++) < shared->count;) {
      std::exception_ptr failed;
      try {
        shared->work(i);
      } catch (...) {
        failed = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (failed) shared->failed = failed;
      if (++shared->done == shared->count) shared->all.notify_all();
    }
  };
  try {
    for (int64_t i = 1; i < std::min(threads, count); ++i) schedule(take);
  } catch (...) {  // continue with fewer threads
  }
  take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all.wait(lock, [&] { return shared->done == shared->count; });
  if (shared->failed) std::rethrow_exception(shared->failed);
}

}  // namespace wsn
