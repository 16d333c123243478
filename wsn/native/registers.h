// Vector registers: loads, sums over lanes, and runs of registers.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace wsn {

#if defined(__AVX512F__)
constexpr int LANES = 16, SUMS = 16;  // floats of a register; registers that accumulate at once
#elif defined(__AVX__)
constexpr int LANES = 8, SUMS = 8;
#else
constexpr int LANES = 4, SUMS = 8;
#endif
#define WSN_INLINED __attribute__((always_inline))
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Lanes load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
inline void store(float* to, Lanes value) { *reinterpret_cast<Lanes*>(to) = value; }

// The first n floats, then zeros.
inline Lanes load_some(const float* from, int64_t n) {
  Lanes some{};
  std::memcpy(&some, from, n * sizeof(float));
  return some;
}

// Merges two registers of LANES / SEGMENT sums each, in segments of partial sums, into one register of both.
template <int SEGMENT, int... I>
WSN_INLINED inline Lanes folded(Lanes a, Lanes b, std::integer_sequence<int, I...>) {
  constexpr int HALF = SEGMENT / 2;
#ifdef __clang__
  return __builtin_shufflevector(a, b, I / HALF * SEGMENT + I % HALF...) +
         __builtin_shufflevector(a, b, I / HALF * SEGMENT + I % HALF + HALF...);
#else
  typedef int32_t Places __attribute__((vector_size(4 * LANES)));
  return __builtin_shuffle(a, b, Places{I / HALF * SEGMENT + I % HALF...}) +
         __builtin_shuffle(a, b, Places{I / HALF * SEGMENT + I % HALF + HALF...});
#endif
}

// to[i] += the sum of the lanes of sums[i], i < COUNT, a power of two up to LANES.
template <int COUNT, int N = COUNT, int SEGMENT = LANES>
WSN_INLINED inline void add_totals(const Lanes* sums, float* to) {
  if constexpr (SEGMENT == 1) {
    for (int i = 0; i < COUNT; ++i) to[i] += sums[0][i];
  } else {
    constexpr int HALF = N > 1 ? N / 2 : 1;
    Lanes half[HALF];
    for (int i = 0; i < HALF; ++i)
      half[i] = folded<SEGMENT>(sums[2 * i], sums[N > 1 ? 2 * i + 1 : 0], std::make_integer_sequence<int, LANES>());
    add_totals<COUNT, HALF, SEGMENT / 2>(half, to);
  }
}

// N registers of a row; N = 0: less than one register, padded with zeros.
template <int N>
struct Row {
  static constexpr int COUNT = N ? N : 1;
  int64_t at, floats;  // start in the row, and number of floats from there
  WSN_INLINED Lanes get(const float* row, int i) const {
    return N ? load(row + i * LANES) : load_some(row, floats);
  }
};

// Calls f(Row) for runs of N registers, then of N / 2, … for the remainder, and for the last floats.
template <int N, class F>
WSN_INLINED inline void for_rows(int64_t floats, const F& f, int64_t at = 0) {
  if constexpr (N == 0) {
    if (at < floats) f(Row<0>{at, floats - at});
  } else {
    for (; at + N * LANES <= floats; at += N * LANES) f(Row<N>{at, floats - at});
    for_rows<N / 2>(floats, f, at);
  }
}

}  // namespace wsn
