// Sums over windows: what a sparse kernel does to its inputs, for dense layers and for convolutions of any stride.
//
// Inputs are planes x[plane, row, column, batch], of one pixel where the layer is dense. A kept weight of an output unit
// is a term: value * x[plane, row + dy, column + dx], zero outside the plane; the sum of a unit's terms is its output
// plane. Terms are lists by unit, as `wsn/sparsity/lists.py` makes and checks them. The gradient of the inputs is the
// same sum with the lists of the transposed kernel; that of a value is the inner product of a window and a slope plane.
// The batch is innermost, so a window is a run of floats. Every sum is taken by one thread, in an order that depends on
// the shapes alone: the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace wsn {

#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 16;  // floats of a register; registers that accumulate at once
#elif defined(__AVX__)
constexpr int LANES = 8, WIDE = 8;
#else
constexpr int LANES = 4, WIDE = 8;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Lanes load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
inline void store(float* to, Lanes value) { *reinterpret_cast<Lanes*>(to) = value; }

template <int N>
float total(const float* lanes) {  // halves are added as vectors
  if constexpr (N == 2) return lanes[0] + lanes[1];
  typedef float Half __attribute__((vector_size(2 * N), aligned(4), may_alias));
  Half sum = *reinterpret_cast<const Half*>(lanes) + *reinterpret_cast<const Half*>(lanes + N / 2);
  return total<std::max(N / 2, 2)>(reinterpret_cast<const float*>(&sum));
}

struct Planes {
  int64_t count, height, width;
};

struct Lists {  // of one member
  const int32_t *start, *plane, *tap, *index;  // terms of unit u: start[u] <= t < start[u + 1]; index: of its value
  int64_t terms(int64_t units) const { return start[units] - start[0]; }
};

struct Layer {
  Planes in, out;  // of the sum: those of the gradient of the inputs are the other way round
  int64_t batch, size, stride;  // size: pixels along a side of the kernel, size / 2 of them padding
  int64_t first_plane;          // of the lists, that x begins with: terms of planes that x lacks are left out
  bool transposed;              // whether this is the gradient of the inputs
};

struct Term {
  int32_t offset;  // of the window of pixel (0, 0) from the first pixel of the first plane
  float value;
  int16_t dy, dx;
  int32_t index;
};

// Pixels row * out_step + row_first, … of the output, whose windows are at row * in_step + dy: all of them, or for the
// gradient of a strided layer those of one of stride² classes, in which the same taps meet whole pixels.
struct Grid {
  int64_t rows, columns, in_step, out_step, row_first, column_first;
};

inline Grid grid(const Layer& layer, int64_t row_class, int64_t column_class) {
  if (!layer.transposed) return {layer.out.height, layer.out.width, layer.stride, 1, 0, 0};
  int64_t s = layer.stride;
  return {(layer.out.height - row_class + s - 1) / s, (layer.out.width - column_class + s - 1) / s, 1, s, row_class,
          column_class};
}

// The terms of units first … last - 1 on a grid; start[u - first] is where those of unit u begin.
inline void terms_of(const Layer& layer, const Grid& grid, const Lists& lists, const float* values, int64_t first,
                     int64_t last, std::vector<Term>& terms, std::vector<int64_t>& start) {
  terms.clear();
  start.clear();
  int64_t area = layer.in.height * layer.in.width, pad = layer.size / 2;
  for (int64_t unit = first; unit < last; ++unit) {
    start.push_back(terms.size());
    for (int32_t t = lists.start[unit]; t < lists.start[unit + 1]; ++t) {
      int64_t plane = lists.plane[t] - layer.first_plane, dy = 0, dx = 0;
      if (uint64_t(plane) >= uint64_t(layer.in.count)) continue;
      if (layer.size > 1 || layer.stride > 1) {
        dy = lists.tap[t] / layer.size - pad, dx = lists.tap[t] % layer.size - pad;
        if (layer.transposed) {
          dy = grid.row_first - dy, dx = grid.column_first - dx;
          if (dy % layer.stride || dx % layer.stride) continue;
          dy /= layer.stride, dx /= layer.stride;
        }
      }
      int32_t index = lists.index[t];
      int64_t offset = plane * area + dy * layer.in.width + dx;
      terms.push_back({int32_t(offset), values ? values[index] : 0, int16_t(dy), int16_t(dx), index});
    }
  }
  start.push_back(terms.size());
}

// Runs of pixels of a row that can be treated as one run of floats: f(first column, pixels, whether all windows of all
// taps lie inside the planes).
template <class F>
void for_runs(const Layer& layer, const Grid& grid, int64_t row, const F& f) {
  int64_t reach = layer.size / 2, low = row * grid.in_step - reach, high = row * grid.in_step + reach;
  bool inside = low >= 0 && high < layer.in.height;
  bool merge = grid.in_step == 1 && grid.out_step == 1;
  for (int64_t column = 0; column < grid.columns;) {
    int64_t at = column * grid.in_step;
    bool in = inside && at - reach >= 0 && at + reach < layer.in.width;
    int64_t pixels = in && merge ? std::min(grid.columns, layer.in.width - reach) - column : 1;
    f(column, pixels, in);
    column += pixels;
  }
}

// The terms whose window at a pixel lies inside.
inline void inside_of(const Layer& layer, const Term* term, const Term* end, int64_t row, int64_t column,
                      std::vector<Term>& found) {
  found.clear();
  for (; term != end; ++term)
    if (uint64_t(row + term->dy) < uint64_t(layer.in.height) && uint64_t(column + term->dx) < uint64_t(layer.in.width))
      found.push_back(*term);
}

// Tiles of n floats: f(first, registers, lanes that an earlier tile has). 0 registers: n < LANES single floats.
template <class F>
void for_tiles(int64_t n, const F& f) {
  int64_t at = 0;
  for (int registers = WIDE; registers; registers /= 2)
    for (; n - at >= registers * LANES; at += registers * LANES) f(at, registers, 0);
  if (at < n && n < LANES) f(0, 0, 0);
  if (at < n && n >= LANES) f(n - LANES, 1, int(LANES - (n - at)));
}

template <int N>
void sum_registers(const Term* term, const Term* end, const float* x, int64_t batch, float* y) {
  Lanes sum[N] = {};
  for (; term != end; ++term) {
    const float* window = x + term->offset * batch;
    for (int i = 0; i < N; ++i) sum[i] += term->value * load(window + i * LANES);
  }
  for (int i = 0; i < N; ++i) store(y + i * LANES, sum[i]);
}

inline void sum_tile(int registers, int64_t n, const Term* term, const Term* end, const float* x, int64_t batch,
                     float* y) {
  switch (registers) {
    case 16: return sum_registers<16>(term, end, x, batch, y);
    case 8: return sum_registers<8>(term, end, x, batch, y);
    case 4: return sum_registers<4>(term, end, x, batch, y);
    case 2: return sum_registers<2>(term, end, x, batch, y);
    case 1: return sum_registers<1>(term, end, x, batch, y);
  }
  std::fill(y, y + n, 0.0f);
  for (; term != end; ++term)
    for (int64_t i = 0; i < n; ++i) y[i] += term->value * x[term->offset * batch + i];
}

// out[index] += slope · window, for every term.
template <int N>
void dot_registers(const Term* term, const Term* end, const float* x, int64_t batch, const float* slope, int had,
                   float* out) {
  Lanes g[N];
  for (int i = 0; i < N; ++i) g[i] = load(slope + i * LANES);
  for (int i = 0; i < had; ++i) g[0][i] = 0;
  for (; term != end; ++term) {
    const float* window = x + term->offset * batch;
    Lanes sum[4] = {};
    for (int i = 0; i < N; ++i) sum[i % 4] += g[i] * load(window + i * LANES);
    Lanes lanes = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    out[term->index] += total<LANES>(reinterpret_cast<const float*>(&lanes));
  }
}

inline void dot_tile(int registers, int64_t n, const Term* term, const Term* end, const float* x, int64_t batch,
                     const float* slope, int had, float* out) {
  switch (registers) {
    case 16: return dot_registers<16>(term, end, x, batch, slope, had, out);
    case 8: return dot_registers<8>(term, end, x, batch, slope, had, out);
    case 4: return dot_registers<4>(term, end, x, batch, slope, had, out);
    case 2: return dot_registers<2>(term, end, x, batch, slope, had, out);
    case 1: return dot_registers<1>(term, end, x, batch, slope, had, out);
  }
  for (; term != end; ++term)
    for (int64_t i = 0; i < n; ++i) out[term->index] += slope[i] * x[term->offset * batch + i];
}

// y of units first … last - 1 and of rows top … bottom - 1 of every grid.
inline void sum_windows(const Layer& layer, const Lists& lists, const float* values, const float* x, float* y,
                        int64_t first, int64_t last, int64_t top, int64_t bottom) {
  std::vector<Term> terms, inside;
  std::vector<int64_t> start;
  int64_t area = layer.out.height * layer.out.width, classes = layer.transposed ? layer.stride : 1;
  for (int64_t cls = 0; cls < classes * classes; ++cls) {
    Grid at = grid(layer, cls / classes, cls % classes);
    terms_of(layer, at, lists, values, first, last, terms, start);
    for (int64_t row = top; row < std::min(bottom, at.rows); ++row)
      for_runs(layer, at, row, [&](int64_t column, int64_t pixels, bool in) {
        int64_t from = row * at.in_step * layer.in.width + column * at.in_step;
        int64_t to = (row * at.out_step + at.row_first) * layer.out.width + column * at.out_step + at.column_first;
        for_tiles(pixels * layer.batch, [&](int64_t b, int registers, int) {
          for (int64_t unit = first; unit < last; ++unit) {
            const Term *term = terms.data() + start[unit - first], *end = terms.data() + start[unit - first + 1];
            if (!in) {
              inside_of(layer, term, end, row * at.in_step, column * at.in_step, inside);
              term = inside.data(), end = term + inside.size();
            }
            sum_tile(registers, pixels * layer.batch, term, end, x + from * layer.batch + b, layer.batch,
                     y + (unit * area + to) * layer.batch + b);
          }
        });
      });
  }
}

// The gradients of the values of units first … last - 1, from the slopes of the output: out[index] += …
inline void value_gradient(const Layer& layer, const Lists& lists, const float* x, const float* slope, float* out,
                           int64_t first, int64_t last) {
  std::vector<Term> terms, inside;
  std::vector<int64_t> start;
  Grid at = grid(layer, 0, 0);
  terms_of(layer, at, lists, nullptr, first, last, terms, start);
  for (int64_t row = 0; row < at.rows; ++row)
    for_runs(layer, at, row, [&](int64_t column, int64_t pixels, bool in) {
      int64_t from = row * at.in_step * layer.in.width + column * at.in_step;
      for_tiles(pixels * layer.batch, [&](int64_t b, int registers, int had) {
        for (int64_t unit = first; unit < last; ++unit) {
          const Term *term = terms.data() + start[unit - first], *end = terms.data() + start[unit - first + 1];
          if (!in) {
            inside_of(layer, term, end, row * at.in_step, column * at.in_step, inside);
            term = inside.data(), end = term + inside.size();
          }
          const float* own = slope + ((unit * at.rows + row) * at.columns + column) * layer.batch + b;
          dot_tile(registers, pixels * layer.batch, term, end, x + from * layer.batch + b, layer.batch, own, had, out);
        }
      });
    });
}

// Units in blocks of about equally many terms.
inline std::vector<int64_t> blocks(const Lists& lists, int64_t units, int64_t most_terms) {
  std::vector<int64_t> ends{0};
  for (int64_t unit = 1; unit < units; ++unit)
    if (lists.start[unit + 1] - lists.start[ends.back()] > most_terms) ends.push_back(unit);
  ends.push_back(units);
  return ends;
}

using Work = std::function<void()>;

// Runs all works, on the threads that `schedule` has and on this one. No thread waits for a work that has not begun, so
// calls that share a pool cannot block each other.
template <class Schedule>
void run_all(std::vector<Work> works, int64_t threads, const Schedule& schedule) {
  struct Shared {
    std::vector<Work> works;
    std::atomic<size_t> next{0};
    size_t done = 0;
    std::mutex mutex;
    std::condition_variable all;
  };
  auto shared = std::make_shared<Shared>();
  shared->works = std::move(works);
  auto take = [shared] {
    for (size_t i; (i = shared->next++) < shared->works.size();) {
      shared->works[i]();
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->done == shared->works.size()) shared->all.notify_all();
    }
  };
  for (int64_t i = 1; i < std::min<int64_t>(threads, shared->works.size()); ++i) schedule(take);
  take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all.wait(lock, [&] { return shared->done == shared->works.size(); });
}

}  // namespace wsn
