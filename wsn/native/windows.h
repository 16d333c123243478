// Sums over windows: the linear map of a sparse kernel, for dense layers and for convolutions of any stride.
//
// Inputs are planes x[plane, row, column, batch]; those of a dense layer have one pixel. Each kept weight of an output unit
// is a term: value * x[plane, row + dy, column + dx], zero outside the plane. The sum of a unit's terms is its output
// plane. Terms are listed by unit, made and checked by `wsn/sparsity/storage.py`. The gradient of the inputs is the same
// sum with the lists of the transposed kernel; that of a value is the inner product of its window and an output gradient.
//
// Units with many terms are summed several at once, with zeros for terms that one of them lacks: each window is loaded
// once for all. The order of every sum follows from shapes and lists: the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "packing.h"

namespace wsn {

constexpr int64_t TOGETHER = 4;       // units that are summed at once if they keep much:
constexpr double MUCH = 0.5;          // at least this fraction of their inputs
constexpr int64_t ROWS_TOGETHER = 4;  // rows of output gradients of such units
constexpr int ALONE = 4;              // registers that accumulate one unit: enough to hide the latency of a product

struct Lists {  // the lists of one member
  const int32_t *start, *plane, *tap, *index;  // terms of unit u: start[u] <= t < start[u + 1]; index: of the value
  int64_t terms(int64_t units) const { return start[units] - start[0]; }
};

// Estimated for a layer that reads a range of planes as if all terms were in it, so that all parts agree.
inline int64_t units_at_once(const Layer& layer, const Lists& lists) {
  double most = double(layer.out.count) * layer.in.count * layer.size * layer.size;
  return lists.terms(layer.out.count) >= MUCH * most ? TOGETHER : 1;
}

// The terms of units first … last - 1 on a grid, in blocks of `units` units. The terms of a block: start[block] <= t <
// start[block + 1]. A term is a cell of a packed tile (its window at pixel (0, 0)), and for each unit of the block a value
// or the index of one; 0 or -1 if the unit lacks the term.
struct Terms {
  int64_t units, first, last;
  std::vector<int64_t> start;
  std::vector<int32_t> cell, index;
  std::vector<float> value;
  int64_t blocks() const { return int64_t(start.size()) - 1; }
};

// For every tap, the offset of its window from the first cell of a plane; -1 if no pixel of the grid reaches the tap.
inline std::vector<int64_t> cells_of_taps(const Layer& layer, const Packing& at, const Grid& grid) {
  std::vector<int64_t> cells;
  int64_t s = layer.stride;
  for (int64_t tap = 0; tap < layer.size * layer.size; ++tap) {
    int64_t row = tap / layer.size, column = tap % layer.size, cls = 0;
    bool meets = true;
    if (layer.transposed) {
      row = grid.row_class + layer.pad() - row, column = grid.column_class + layer.pad() - column;
      meets = row % s == 0 && column % s == 0;
      row = row / s + at.before, column = column / s + at.before;
    } else {
      cls = row % s * s + column % s, row /= s, column /= s;
    }
    cells.push_back(meets ? (cls * at.rows + row) * at.columns + column : -1);
  }
  return cells;
}

inline Terms terms_of(const Layer& layer, const Packing& at, const Grid& grid, const Lists& lists, const float* values,
                      int64_t first, int64_t last, int64_t units) {
  std::vector<int64_t> cells = cells_of_taps(layer, at, grid);
  auto tap = [&](int32_t t) { return layer.size > 1 ? lists.tap[t] : 0; };
  int64_t count = 0, most = 1;  // one more than the terms: the next one is written before it is counted
  for (int32_t t = lists.start[first]; t < lists.start[last]; ++t) most += cells[tap(t)] >= 0;
  Terms found{units, first, last, {}, std::vector<int32_t>(most), {}, {}};
  (values ? found.value.resize(most * units) : found.index.resize(most * units));
  auto put = [&](int64_t u, int32_t t) {  // records that unit u of the block has list entry t, or -1
    if (values) found.value[count * units + u] = t < 0 ? 0 : values[lists.index[t]];
    else found.index[count * units + u] = t < 0 ? -1 : lists.index[t];
  };
  auto meets = [&](int32_t t) {  // writes the window of an entry as that of the next term; false if there is none
    int64_t plane = lists.plane[t] - layer.first_plane, cell = cells[tap(t)];
    found.cell[count] = plane * at.plane() + cell;
    return cell >= 0 && uint64_t(plane) < uint64_t(layer.in.count);
  };
  for (int64_t unit = first; unit < last; unit += units) {
    found.start.push_back(count);
    if (units == 1) {
      for (int32_t t = lists.start[unit]; t < lists.start[unit + 1]; ++t) put(0, t), count += meets(t);
      continue;
    }
    int32_t next[TOGETHER] = {}, end[TOGETHER] = {};
    for (int64_t u = 0; u < units && unit + u < last; ++u)
      next[u] = lists.start[unit + u], end[u] = lists.start[unit + u + 1];
    for (;;) {  // merge of the units' sorted lists
      auto place = [&](int32_t t) { return lists.plane[t] * layer.size * layer.size + tap(t); };
      int32_t least = -1;
      for (int64_t u = 0; u < units; ++u)
        if (next[u] < end[u] && (least < 0 || place(next[u]) < place(least))) least = next[u];
      if (least < 0) break;
      for (int64_t u = 0; u < units; ++u) {
        bool has = next[u] < end[u] && place(next[u]) == place(least);
        put(u, has ? next[u] : -1), next[u] += has;
      }
      count += meets(least);
    }
  }
  found.start.push_back(count);
  found.cell.resize(count), found.value.resize(values ? count * units : 0), found.index.resize(values ? 0 : count * units);
  return found;
}

// The sums of a block of U units for one row of windows that begins at `x`. Register i is stored at to[i] of an output
// plane, with floats[i] floats.
template <int U, int N>
void sum_block(const Terms& terms, int64_t block, const Row<N>& row, const float* x, int64_t lanes, const int64_t* to,
               const int64_t* floats, float* y, int64_t plane) {
  constexpr int R = Row<N>::COUNT;
  Lanes sum[U][R] = {};
  for (int64_t t = terms.start[block]; t < terms.start[block + 1]; ++t) {
    const float *window = x + terms.cell[t] * lanes, *value = &terms.value[t * U];
    Lanes in[R];
    for (int i = 0; i < R; ++i) in[i] = row.get(window, i);
    for (int u = 0; u < U; ++u)
      for (int i = 0; i < R; ++i) sum[u][i] += value[u] * in[i];
  }
  for (int64_t u = 0, unit = terms.first + block * U; u < U && unit + u < terms.last; ++u)
    for (int i = 0; i < R; ++i) {
      float* plane_of_unit = y + (unit + u) * plane;
      if (floats[i] >= LANES) store(plane_of_unit + to[i], sum[u][i]);
      else for (int j = 0; j < floats[i]; ++j) plane_of_unit[to[i] + j] = sum[u][i][j];
    }
}

// The outputs y of `terms` on their grid, for the examples b … that are packed in x.
template <int U>
void sum_windows(const Layer& layer, const Packing& at, const Grid& grid, const Terms& terms, const float* x, int64_t b,
                 float* y) {
  for (int64_t r = 0; r < grid.rows; ++r)
    for_rows<U == 1 ? ALONE : SUMS / U>(grid.columns * at.lanes, [&](auto row) {
      int64_t to[row.COUNT], floats[row.COUNT];
      for (int64_t i = 0; i < row.COUNT; ++i) {
        int64_t column = (row.at + i * LANES) / at.lanes, lane = (row.at + i * LANES) % at.lanes;
        int64_t pixel = (r * grid.step + grid.row_class) * layer.out.width + column * grid.step + grid.column_class;
        to[i] = pixel * layer.batch + b + lane;
        floats[i] = at.packed ? layer.batch - b - lane : row.floats - i * LANES;
      }
      for (int64_t block = 0; block < terms.blocks(); ++block)
        sum_block<U>(terms, block, row, x + r * at.columns * at.lanes + row.at, at.lanes, to, floats, y,
                     layer.out.pixels() * layer.batch);
    });
}

// sums[t] += the inner product of a row of one unit's output gradient and the window row of its term t.
template <int N>
void dot_block(const Terms& terms, int64_t block, const Row<N>& row, const float* x, int64_t lanes, const float* slope,
               float* sums) {
  Lanes g[Row<N>::COUNT];
  for (int i = 0; i < Row<N>::COUNT; ++i) g[i] = row.get(slope, i);
  auto product = [&](int64_t t) WSN_INLINED {
    const float* window = x + terms.cell[t] * lanes;
    Lanes sum = g[0] * row.get(window, 0);
    for (int i = 1; i < Row<N>::COUNT; ++i) sum += g[i] * row.get(window, i);
    return sum;
  };
  int64_t t = terms.start[block], end = terms.start[block + 1];
  for (; t + 2 <= end; t += 2) {  // two terms share their horizontal additions
    Lanes two[2] = {product(t), product(t + 1)};
    add_totals<2>(two, sums + t);
  }
  if (t < end) {
    Lanes one = product(t);
    add_totals<1>(&one, sums + t);
  }
}

// The same for TOGETHER units and whole rows: gradient rows are contiguous, window rows `step` apart.
template <int K>
void dot_rows(const int32_t* cell, const float* x, int64_t lanes, const float* const* slope, int64_t rows, int64_t floats,
              int64_t step, float* sums) {
  Lanes sum[K][TOGETHER] = {};
  const float* window[K];
  for (int k = 0; k < K; ++k) window[k] = x + cell[k] * lanes;
  for (int64_t row = 0; row < rows; ++row) {
    for_rows<1>(floats, [&](auto part) WSN_INLINED {
      Lanes g[TOGETHER];
      for (int u = 0; u < TOGETHER; ++u) g[u] = part.get(slope[u] + row * floats + part.at, 0);
      for (int k = 0; k < K; ++k) {
        Lanes in = part.get(window[k] + part.at, 0);
        for (int u = 0; u < TOGETHER; ++u) sum[k][u] += g[u] * in;
      }
    });
    for (int k = 0; k < K; ++k) window[k] += step;
  }
  for (int k = 0; k < K; ++k) add_totals<TOGETHER>(sum[k], sums + k * TOGETHER);
}

// Adds to `sums` the gradients of the values of `terms` over packed examples and packed output gradients.
inline void dot_windows(const Layer& layer, const Packing& at, const Terms& terms, const float* x, const float* slopes,
                        float* sums) {
  int64_t floats = layer.out.width * at.lanes, step = at.columns * at.lanes, plane = layer.out.height * floats;
  if (terms.units == 1) {
    for (int64_t r = 0; r < layer.out.height; ++r)
      for_rows<SUMS>(floats, [&](auto row) {
        for (int64_t block = 0; block < terms.blocks(); ++block)
          dot_block(terms, block, row, x + r * step + row.at, at.lanes, slopes + block * plane + r * floats + row.at, sums);
      });
    return;
  }
  constexpr int64_t K = SUMS / TOGETHER;
  for (int64_t row = 0; row < layer.out.height; row += ROWS_TOGETHER)
    for (int64_t block = 0; block < terms.blocks(); ++block) {
      int64_t rows = std::min(ROWS_TOGETHER, layer.out.height - row), last = terms.last - terms.first - 1;
      const float *from = x + row * step, *slope[TOGETHER];
      for (int64_t u = 0; u < TOGETHER; ++u)  // missing units repeat another one
        slope[u] = slopes + std::min(block * TOGETHER + u, last) * plane + row * floats;
      int64_t t = terms.start[block], end = terms.start[block + 1];
      for (; t + K <= end; t += K)
        dot_rows<K>(&terms.cell[t], from, at.lanes, slope, rows, floats, step, sums + t * TOGETHER);
      for (; t < end; ++t)
        dot_rows<1>(&terms.cell[t], from, at.lanes, slope, rows, floats, step, sums + t * TOGETHER);
    }
}

// Cuts the units into parts of about equally many terms, each a multiple of `together` units.
inline std::vector<int64_t> blocks(const Lists& lists, int64_t units, int64_t most_terms, int64_t together) {
  std::vector<int64_t> ends{0};
  for (int64_t unit = together; unit < units; unit += together)
    if (lists.start[std::min(unit + together, units)] - lists.start[ends.back()] > most_terms) ends.push_back(unit);
  ends.push_back(units);
  return ends;
}

}  // namespace wsn
