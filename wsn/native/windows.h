// Sums over windows: what a sparse kernel does to its inputs, for dense layers and for convolutions of any stride.
//
// Inputs are planes x[plane, row, column, batch], of one pixel where the layer is dense. A kept weight of an output unit
// is a term: value * x[plane, row + dy, column + dx], zero outside the plane; the sum of a unit's terms is its output
// plane. Terms are lists by unit, as `wsn/sparsity/lists.py` makes and checks them. The gradient of the inputs is the
// same sum with the lists of the transposed kernel; that of a value is the inner product of a window and a slope plane.
//
// Where units keep much, several are summed at once, with zeros for what one of them lacks: a window is loaded once for
// all. Every sum is taken in an order that follows from shapes and lists: the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "packing.h"

namespace wsn {

constexpr int64_t TOGETHER = 4;       // units that are summed at once where they keep much,
constexpr double MUCH = 0.5;          // which is this share of what they could keep
constexpr int64_t ROWS_TOGETHER = 4;  // of slopes of such units
constexpr int ALONE = 4;              // registers that sum up one unit: as many as hide the time of a product

struct Lists {  // of one member
  const int32_t *start, *plane, *tap, *index;  // terms of unit u: start[u] <= t < start[u + 1]; index: of its value
  int64_t terms(int64_t units) const { return start[units] - start[0]; }
};

// Of a layer that reads some planes of its lists, as if all terms were theirs: the same for every part of it.
inline int64_t units_at_once(const Layer& layer, const Lists& lists) {
  double most = double(layer.out.count) * layer.in.count * layer.size * layer.size;
  return lists.terms(layer.out.count) >= MUCH * most ? TOGETHER : 1;
}

// The terms of units first … last - 1 on a grid, `units` of them at once. Those of a block of units: start[block] <= t <
// start[block + 1]. A term is one cell of a packed tile, that of its window at pixel (0, 0), and for each of the units a
// value, or the place of one; 0 or -1 where a unit does not have it.
struct Terms {
  int64_t units, first, last;
  std::vector<int64_t> start;
  std::vector<int32_t> cell, index;
  std::vector<float> value;
  int64_t blocks() const { return int64_t(start.size()) - 1; }
};

// Of every tap the cell of its window from the first one of a plane; -1 for one that pixels of the grid do not meet.
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
  int64_t count = 0, most = 1;  // one more than can be kept: the next term is put down before it is
  for (int32_t t = lists.start[first]; t < lists.start[last]; ++t) most += cells[tap(t)] >= 0;
  Terms found{units, first, last, {}, std::vector<int32_t>(most), {}, {}};
  (values ? found.value.resize(most * units) : found.index.resize(most * units));
  auto put = [&](int64_t u, int32_t t) {  // that unit u of the block has list entry t, or -1
    if (values) found.value[count * units + u] = t < 0 ? 0 : values[lists.index[t]];
    else found.index[count * units + u] = t < 0 ? -1 : lists.index[t];
  };
  auto meets = [&](int32_t t) {  // the window of an entry, put down as that of the next term
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
    for (;;) {  // the sorted lists of the units are merged
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

// The sums of a block of U units, of a row of their windows that begins at `x`: register i belongs at to[i] of a plane of
// the output, with as many floats as floats[i].
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

// The outputs y of `terms` on their grid, of examples b … that are packed in x.
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

// sums[t] += the inner product of a row of one unit's slopes and that at the window of each of its terms.
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
  for (; t + 2 <= end; t += 2) {  // two share their additions
    Lanes two[2] = {product(t), product(t + 1)};
    add_totals<2>(two, sums + t);
  }
  if (t < end) {
    Lanes one = product(t);
    add_totals<1>(&one, sums + t);
  }
}

// The same of TOGETHER units and whole rows: those of slopes follow each other, those of windows are `step` apart.
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

// The gradients of the values of `terms` over examples that are packed, the slopes of its units too, added to `sums`.
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
      for (int64_t u = 0; u < TOGETHER; ++u)  // of a unit that there is not, another's
        slope[u] = slopes + std::min(block * TOGETHER + u, last) * plane + row * floats;
      int64_t t = terms.start[block], end = terms.start[block + 1];
      for (; t + K <= end; t += K)
        dot_rows<K>(&terms.cell[t], from, at.lanes, slope, rows, floats, step, sums + t * TOGETHER);
      for (; t < end; ++t)
        dot_rows<1>(&terms.cell[t], from, at.lanes, slope, rows, floats, step, sums + t * TOGETHER);
    }
}

// Blocks of units, of a multiple of `together` and of about equally many terms.
inline std::vector<int64_t> blocks(const Lists& lists, int64_t units, int64_t most_terms, int64_t together) {
  std::vector<int64_t> ends{0};
  for (int64_t unit = together; unit < units; unit += together)
    if (lists.start[std::min(unit + together, units)] - lists.start[ends.back()] > most_terms) ends.push_back(unit);
  ends.push_back(units);
  return ends;
}

}  // namespace wsn
