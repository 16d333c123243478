// Memory layout of pixels: in planes, and packed into tiles for the sums over windows.
//
// A tile holds a few examples of the batch, with a border of zeros. Pixels of a strided layer are sorted by the remainder
// of their position, so a row of any window is contiguous. A tile is small, so it stays in the cache and planes whose size
// is a power of two do not evict each other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "registers.h"

namespace wsn {

constexpr int64_t ROW = 256;              // approximate floats of a packed row, if the batch is large enough
constexpr int64_t MOST_PACKED = 1 << 22;  // floats packed at a time, unless one tile needs more

struct Planes {
  int64_t count, height, width;
  int64_t pixels() const { return height * width; }
};

struct Layer {
  Planes in, out;  // of the sum; exchanged for the gradient of the inputs
  int64_t batch, size, stride;  // size: of the kernel, in pixels; padding is size / 2
  int64_t first_plane;          // plane of the lists at which x begins; terms of planes outside x are left out
  bool transposed;              // whether this is the gradient of the inputs
  int64_t pad() const { return size / 2; }
  int64_t classes() const { return transposed ? stride : 1; }  // classes of output pixels along a side, by the taps that reach them
};

// Output pixels row * step + row_class, …: for the gradient of a strided layer one of stride² classes.
struct Grid {
  int64_t rows, columns, step, row_class, column_class;
};

inline Grid grid(const Layer& layer, int64_t number) {
  int64_t s = layer.classes(), row = number / s, column = number % s;
  return {(layer.out.height - row + s - 1) / s, (layer.out.width - column + s - 1) / s, s, row, column};
}

// Position of a pixel in a tile, in cells of `lanes` floats, one per example.
struct Packing {
  int64_t lanes, classes, before;  // examples; classes of input pixels along a side; zeros before the first pixel
  int64_t rows, columns;           // of one class
  bool packed;                     // else planes are read in place, the whole batch as one tile
  int64_t plane() const { return classes * classes * rows * columns; }
};

inline Packing packing(const Layer& layer) {
  int64_t s = layer.stride, pad = layer.pad(), columns = grid(layer, 0).columns;
  Packing at{layer.batch, layer.transposed ? 1 : s, layer.transposed ? pad / s : pad, 0, 0, true};
  auto length = [&](int64_t out) {  // to the last pixel of any window
    return layer.transposed ? at.before + (out - 1 + pad) / s + 1 : out + (layer.size - 1) / s;
  };
  at.rows = length(layer.out.height), at.columns = length(layer.out.width);
  if (layer.size == 1 && s == 1 && (columns > 1 || layer.batch <= ROW)) {
    at.packed = false;
    return at;
  }
  int64_t cells = std::max({int64_t(1), layer.in.count * at.plane(), layer.out.count * layer.out.pixels()});
  int64_t lanes = std::min({ROW / columns, layer.batch + LANES - 1, MOST_PACKED / cells});
  at.lanes = std::max<int64_t>(lanes / LANES, 1) * LANES;
  return at;
}

// The same for output gradients, which need no border.
inline Packing packing_of_slopes(const Layer& layer, const Packing& at) {
  return {at.lanes, 1, 0, layer.out.height, layer.out.width, at.packed};
}

// `n` floats, then zeros up to `lanes`. Both are whole registers in most calls.
inline void fill_cell(float* to, const float* from, int64_t n, int64_t lanes) {
  if (lanes == LANES && n % LANES == 0) return store(to, n ? load(from) : Lanes{});
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, load(from + i));
  if (i < n) {
    std::fill_n(to + i, LANES, 0.0f);
    std::copy(from + i, from + n, to + i);
    i += LANES;
  }
  for (; i < lanes; i += LANES) store(to + i, Lanes{});
}

// Packs examples b … of all planes, with zeros where no pixel is.
inline void pack(const Planes& planes, int64_t batch, const Packing& at, const float* x, int64_t b, float* to) {
  int64_t most = std::min(at.lanes, batch - b);
  for (int64_t plane = 0; plane < planes.count; ++plane, x += planes.pixels() * batch)
    for (int64_t cls = 0; cls < at.classes * at.classes; ++cls)
      for (int64_t row = 0; row < at.rows; ++row) {
        int64_t r = row * at.classes + cls / at.classes - at.before;
        int64_t width = uint64_t(r) < uint64_t(planes.height) ? planes.width : 0;  // existing pixels
        int64_t c = cls % at.classes - at.before, from = (r * planes.width + c) * batch + b;
        for (int64_t column = 0; column < at.columns; ++column, to += at.lanes) {
          bool inside = uint64_t(c) < uint64_t(width);
          fill_cell(to, inside ? x + from : nullptr, inside ? most : 0, at.lanes);
          c += at.classes, from += at.classes * batch;
        }
      }
}

}  // namespace wsn
