// The calls that XLA makes: buffers of one or several members → the loops of windows.h.
#include "windows.h"

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats = ffi::AnyBuffer;
using Ints = ffi::AnyBuffer;

namespace {

constexpr int64_t MOST_TERMS = 1 << 15;      // of a block of units: their copies stay in the cache
constexpr int64_t LEAST_PRODUCTS = 1 << 18;  // of a piece of work for a thread: about 10 µs

// An array of members: its own dimensions are the last ones; one member alone stands for all.
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

ffi::Error run(ffi::ThreadPool& pool, std::vector<wsn::Work> works) {
  wsn::run_all(std::move(works), pool.num_threads(), [&](auto take) { pool.Schedule(std::move(take)); });
  return ffi::Error::Success();
}

bool fits(std::initializer_list<Members> arrays, int64_t members) {
  for (const Members& array : arrays)
    if (array.members != 1 && array.members != members) return false;
  return true;
}

ffi::Error mismatch() { return ffi::Error::InvalidArgument("wsn: arrays of different members or shapes"); }

ffi::Error Sum(ffi::ThreadPool pool, int64_t size, int64_t stride, int64_t first_plane, bool transposed, Floats values,
               Ints start, Ints plane, Ints tap, Ints index, Floats x, ffi::Result<ffi::AnyBuffer> y) {
  wsn::Layer layer{planes(x), planes(*y), batch_of(x), size, stride, first_plane, transposed};
  Call call(start, plane, tap, index);
  Members own(values, 1), from(x, 4), to(*y, 4);
  if (!fits({own, from, call.start, call.plane, call.tap, call.index}, to.members) || batch_of(*y) != layer.batch ||
      call.units() != layer.out.count || from.size / layer.batch > INT32_MAX)
    return mismatch();
  std::vector<wsn::Work> works;
  int64_t rows = (layer.out.height + (transposed ? stride - 1 : 0)) / (transposed ? stride : 1);
  for (int64_t member = 0; member < to.members; ++member) {
    wsn::Lists lists = call.of(member);
    int64_t products = lists.terms(call.units()) * layer.out.height * layer.out.width * layer.batch;
    int64_t parts = std::clamp<int64_t>(products / LEAST_PRODUCTS, 1, 4 * pool.num_threads());
    int64_t row_parts = std::min(parts, rows), unit_parts = (parts + row_parts - 1) / row_parts;
    int64_t most = std::min<int64_t>(MOST_TERMS, lists.terms(call.units()) / unit_parts + 1);
    auto ends = wsn::blocks(lists, call.units(), most);
    const float *w = values.typed_data<float>() + own.at(member), *in = x.typed_data<float>() + from.at(member);
    float* out = y->typed_data<float>() + to.at(member);
    for (int64_t part = 0; part < row_parts; ++part)
      for (size_t i = 0; i + 1 < ends.size(); ++i)
        works.push_back([=, first = ends[i], last = ends[i + 1], top = part * rows / row_parts,
                         bottom = (part + 1) * rows / row_parts] {
          wsn::sum_windows(layer, lists, w, in, out, first, last, top, bottom);
        });
  }
  return run(pool, std::move(works));
}

ffi::Error ValueGradient(ffi::ThreadPool pool, int64_t size, int64_t stride, int64_t first_plane, Ints start, Ints plane,
                         Ints tap, Ints index, Floats x, Floats slope, ffi::Result<ffi::AnyBuffer> gradient) {
  wsn::Layer layer{planes(x), planes(slope), batch_of(x), size, stride, first_plane, false};
  Call call(start, plane, tap, index);
  Members from(x, 4), slopes(slope, 4), to(*gradient, 1);
  if (!fits({from, slopes, call.start, call.plane, call.tap, call.index}, to.members) ||
      batch_of(slope) != layer.batch || call.units() != layer.out.count || from.size / layer.batch > INT32_MAX)
    return mismatch();
  std::vector<wsn::Work> works;
  std::memset(gradient->untyped_data(), 0, gradient->size_bytes());
  for (int64_t member = 0; member < to.members; ++member) {
    wsn::Lists lists = call.of(member);
    int64_t terms = lists.terms(call.units());
    int64_t products = terms * layer.out.height * layer.out.width * layer.batch;
    int64_t parts = std::clamp<int64_t>(products / LEAST_PRODUCTS, 1, 4 * pool.num_threads());
    auto ends = wsn::blocks(lists, call.units(), std::min<int64_t>(MOST_TERMS, terms / parts + 1));
    const float *in = x.typed_data<float>() + from.at(member), *g = slope.typed_data<float>() + slopes.at(member);
    float* out = gradient->typed_data<float>() + to.at(member);
    for (size_t i = 0; i + 1 < ends.size(); ++i)
      works.push_back([=, first = ends[i], last = ends[i + 1]] {
        wsn::value_gradient(layer, lists, in, g, out, first, last);
      });
  }
  return run(pool, std::move(works));
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
