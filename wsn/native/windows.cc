// The entry points for XLA: buffers of one or several members → the loops of windows.h.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "windows.h"
#include "work.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats = ffi::AnyBuffer;
using Ints = ffi::AnyBuffer;

namespace {

constexpr int64_t MOST_TERMS = 1 << 22;      // in memory at once, for each tile
constexpr size_t MOST_KEPT = 1 << 22;        // floats of thread memory kept between calls
constexpr size_t LARGE = 1 << 22;            // bytes of a result from which it requests large pages
constexpr int64_t LEAST_PRODUCTS = 1 << 18;  // of a job: about 10 µs

// A buffer with an optional leading axis of members; without it all members share the buffer.
struct Members {
  int64_t members, size;
  Members(ffi::AnyBuffer buffer, size_t own) : members(1), size(1) {
    auto dimensions = buffer.dimensions();
    for (size_t i = 0; i < dimensions.size(); ++i) (i + own < dimensions.size() ? members : size) *= dimensions[i];
  }
  int64_t at(int64_t member) const { return members == 1 ? 0 : member * size; }
};

wsn::Planes planes(ffi::AnyBuffer buffer) {
  auto d = buffer.dimensions();
  return {d[d.size() - 4], d[d.size() - 3], d[d.size() - 2]};
}

int64_t batch_of(ffi::AnyBuffer buffer) { return buffer.dimensions().back(); }

struct Call {
  Members start, plane, tap, index;
  const int32_t *starts, *planes, *taps, *indices;
  Call(Ints start, Ints plane, Ints tap, Ints index)
      : start(start, 1), plane(plane, 1), tap(tap, 1), index(index, 1), starts(start.typed_data<int32_t>()),
        planes(plane.typed_data<int32_t>()), taps(tap.typed_data<int32_t>()), indices(index.typed_data<int32_t>()) {}
  wsn::Lists of(int64_t member) const {
    return {starts + start.at(member), planes + plane.at(member), taps + tap.at(member), indices + index.at(member)};
  }
  int64_t units() const { return start.size - 1; }
};

bool fits(std::initializer_list<Members> arrays, int64_t members) {
  for (const Members& array : arrays)
    if (array.members != 1 && array.members != members) return false;
  return true;
}

ffi::Error mismatch() { return ffi::Error::InvalidArgument("wsn: arrays of different members or shapes"); }

// A range of units of one member, whose terms are made together.
struct Job {
  int64_t member, first, last, units;
};

// Thread memory, kept between calls unless it is large, aligned so that no register crosses a cache line.
struct Scratch {
  std::vector<float> memory;
  float* get(size_t floats) {
    if (memory.size() < floats + wsn::LANES) memory.resize(floats + wsn::LANES);
    auto beyond = reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float) % wsn::LANES;
    return memory.data() + (wsn::LANES - beyond) % wsn::LANES;
  }
  void release() {
    if (memory.size() > MOST_KEPT) std::vector<float>().swap(memory);
  }
};
thread_local Scratch scratch_of_inputs, scratch_of_slopes;

// One call: the jobs of all members, in rounds whose terms are in memory at once.
struct Plan {
  ffi::ThreadPool& pool;
  wsn::Layer layer;
  wsn::Packing packing;
  int64_t threads, tiles;
  std::vector<std::vector<Job>> rounds;

  Plan(ffi::ThreadPool& pool, const wsn::Layer& layer, const Call& call, int64_t pixels, int64_t members)
      : pool(pool), layer(layer), packing(wsn::packing(layer)),
        tiles((layer.batch + packing.lanes - 1) / packing.lanes), rounds(1) {
    int64_t all = 0, held = 0, pool_threads = std::max<int64_t>(1, pool.num_threads());
    for (int64_t member = 0; member < members; ++member) {
      wsn::Lists lists = call.of(member);
      int64_t terms = lists.terms(call.units()), products = terms * pixels * layer.batch;
      int64_t few = (4 * pool_threads + members * tiles - 1) / (members * tiles);
      int64_t pieces = std::clamp<int64_t>(products / (LEAST_PRODUCTS * tiles), 1, few);
      int64_t units = wsn::units_at_once(layer, lists), most = std::min(MOST_TERMS / tiles, terms / pieces + 1);
      auto ends = wsn::blocks(lists, call.units(), most, units);
      for (size_t i = 0; i + 1 < ends.size(); ++i) {
        int64_t own = (lists.start[ends[i + 1]] - lists.start[ends[i]]) * tiles;
        if (held && held + own > MOST_TERMS) rounds.emplace_back(), held = 0;
        rounds.back().push_back({member, ends[i], ends[i + 1], units}), held += own;
      }
      all += products;
    }
    threads = std::clamp<int64_t>(all / LEAST_PRODUCTS, 1, pool_threads);
  }

  void run(int64_t count, std::function<void(int64_t)> work) const {
    wsn::run_all(count, std::move(work), threads, [&](auto take) { pool.Schedule(std::move(take)); });
  }

  // Terms of every job of a round, on all grids.
  std::vector<std::vector<wsn::Terms>> terms(const std::vector<Job>& jobs, const Call& call, const float* values,
                                             const Members& own) const {
    std::vector<std::vector<wsn::Terms>> found(jobs.size());
    run(jobs.size(), [&](int64_t i) {
      auto [member, first, last, units] = jobs[i];
      const float* of_member = values ? values + own.at(member) : nullptr;
      for (int64_t cls = 0; cls < layer.classes() * layer.classes(); ++cls)
        found[i].push_back(wsn::terms_of(layer, packing, wsn::grid(layer, cls), call.of(member), of_member, first, last,
                                         units));
    });
    return found;
  }

  // Planes of examples b … in the layout of `packing`, or in place if that is the same.
  const float* packed(const wsn::Planes& planes, const wsn::Packing& at, const float* x, int64_t b, Scratch& scratch) const {
    if (!at.packed) return x;
    float* to = scratch.get(planes.count * at.plane() * at.lanes);
    wsn::pack(planes, layer.batch, at, x, b, to);
    return to;
  }
};

// XLA allocates a program's temporaries anew at every call, and each fresh page is a fault: a quarter of a ResNet's step.
// Large pages cause fewer. Requests them for the whole mapping that contains `result`.
void ask_for_large_pages(const ffi::AnyBuffer& result) {
#ifdef __linux__
  static std::mutex mutex;
  static uintptr_t begin = 0, end = 0;
  auto first = reinterpret_cast<uintptr_t>(result.untyped_data()), last = first + result.size_bytes();
  if (last - first < LARGE) return;
  std::lock_guard<std::mutex> lock(mutex);
  if (first < begin || last > end) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line) && !(begin <= first && last <= end);)
      if (sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2) begin = end = 0;
  }
  if (begin <= first && last <= end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

bool too_large(const Plan& plan) { return plan.layer.in.count * plan.packing.plane() > INT32_MAX; }

ffi::Error too_many() { return ffi::Error::InvalidArgument("wsn: planes of more pixels than a number of 32 bits counts"); }

ffi::Error Sum(ffi::ThreadPool pool, int64_t size, int64_t stride, int64_t first_plane, bool transposed, Floats values,
               Ints start, Ints plane, Ints tap, Ints index, Floats x, ffi::Result<ffi::AnyBuffer> y) {
  wsn::Layer layer{planes(x), planes(*y), batch_of(x), size, stride, first_plane, transposed};
  Call call(start, plane, tap, index);
  Members own(values, 1), from(x, 4), to(*y, 4);
  if (!fits({own, from, call.start, call.plane, call.tap, call.index}, to.members) || batch_of(*y) != layer.batch ||
      call.units() != layer.out.count)
    return mismatch();
  if (to.members * to.size == 0) return ffi::Error::Success();
  ask_for_large_pages(*y);
  Plan plan(pool, layer, call, (transposed ? layer.in : layer.out).pixels(), to.members);
  if (too_large(plan)) return too_many();
  const float *in = x.typed_data<float>(), *weights = values.typed_data<float>();
  float* out = y->typed_data<float>();
  for (const auto& jobs : plan.rounds) {
    auto terms = plan.terms(jobs, call, weights, own);
    plan.run(jobs.size() * plan.tiles, [&](int64_t i) {
      int64_t member = jobs[i / plan.tiles].member, b = i % plan.tiles * plan.packing.lanes;
      const float* packed = plan.packed(layer.in, plan.packing, in + from.at(member), b, scratch_of_inputs);
      for (size_t cls = 0; cls < terms[i / plan.tiles].size(); ++cls) {
        const wsn::Terms& some = terms[i / plan.tiles][cls];
        auto function = some.units == 1 ? wsn::sum_windows<1> : wsn::sum_windows<wsn::TOGETHER>;
        function(layer, plan.packing, wsn::grid(layer, cls), some, packed, b, out + to.at(member));
      }
      scratch_of_inputs.release();
    });
  }
  return ffi::Error::Success();
}

ffi::Error ValueGradient(ffi::ThreadPool pool, int64_t size, int64_t stride, int64_t first_plane, Ints start, Ints plane,
                         Ints tap, Ints index, Floats x, Floats slope, ffi::Result<ffi::AnyBuffer> gradient) {
  wsn::Layer layer{planes(x), planes(slope), batch_of(x), size, stride, first_plane, false};
  Call call(start, plane, tap, index);
  Members from(x, 4), slopes(slope, 4), to(*gradient, 1);
  if (!fits({from, slopes, call.start, call.plane, call.tap, call.index}, to.members) ||
      batch_of(slope) != layer.batch || call.units() != layer.out.count)
    return mismatch();
  std::memset(gradient->untyped_data(), 0, gradient->size_bytes());
  if (from.size * slopes.size == 0) return ffi::Error::Success();
  Plan plan(pool, layer, call, layer.out.pixels(), to.members);
  if (too_large(plan)) return too_many();
  wsn::Packing of_slopes = wsn::packing_of_slopes(layer, plan.packing);
  const float *in = x.typed_data<float>(), *out = slope.typed_data<float>();
  float* result = gradient->typed_data<float>();
  for (const auto& jobs : plan.rounds) {
    auto terms = plan.terms(jobs, call, nullptr, to);
    std::vector<std::vector<float>> sums(jobs.size() * plan.tiles);  // added in the order of the tiles
    plan.run(sums.size(), [&](int64_t i) {
      int64_t member = jobs[i / plan.tiles].member, b = i % plan.tiles * plan.packing.lanes;
      const wsn::Terms& some = terms[i / plan.tiles][0];
      wsn::Planes units{some.last - some.first, layer.out.height, layer.out.width};
      const float* theirs = out + slopes.at(member) + some.first * units.pixels() * layer.batch;
      sums[i].resize(some.index.size());
      wsn::dot_windows(layer, plan.packing, some,
                       plan.packed(layer.in, plan.packing, in + from.at(member), b, scratch_of_inputs),
                       plan.packed(units, of_slopes, theirs, b, scratch_of_slopes), sums[i].data());
      scratch_of_inputs.release(), scratch_of_slopes.release();
    });
    plan.run(jobs.size(), [&](int64_t i) {
      const auto& index = terms[i][0].index;
      for (int64_t tile = 0; tile < plan.tiles; ++tile)
        for (size_t t = 0; t < index.size(); ++t)
          if (index[t] >= 0) result[to.at(jobs[i].member) + index[t]] += sums[i * plan.tiles + tile][t];
    });
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(WsnSum, Sum,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("size")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("first_plane")
                                  .Attr<bool>("transposed")
                                  .Arg<Floats>()
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Arg<Floats>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(WsnValueGradient, ValueGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("size")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("first_plane")
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<ffi::AnyBuffer>());
