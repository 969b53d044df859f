// Packs matrix factors in the order in which the register blocks read them. Transposes if needed, and fills panels with
// zeros beyond the edge of the matrix.
#pragma once

#include <algorithm>
#include <utility>

#include "core/cpu/blocks.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

#if defined(__clang__)
#define TRM_FAST_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int Indices __attribute__((vector_size(kLanes * sizeof(int))));
#define TRM_FAST_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Indices{__VA_ARGS__})
#endif

// One step of a transposition: swaps the off-diagonal elements of two rows, in groups of kStep.
template <int kStep, int... kLane>
inline void swap_blocks(Vector& a, Vector& b, std::integer_sequence<int, kLane...>) {
  const Vector low = TRM_FAST_SHUFFLE(a, b, ((kLane & kStep) ? kLane - kStep + kLanes : kLane)...);
  b = TRM_FAST_SHUFFLE(a, b, ((kLane & kStep) ? kLane + kLanes : kLane + kStep)...);
  a = low;
}

// Transposes a square matrix in place. The caller starts with kStep = kLanes / 2.
template <int kStep>
inline void transpose(Vector (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (!(i & kStep)) swap_blocks<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kLanes>{});
  }
  if constexpr (kStep > 1) transpose<kStep / 2>(rows);
}

// Packs half a panel, (k, kLanes), in float32: `count` columns of b, then zeros. Rows of `to` are kWidth floats apart.
inline void pack_half_steps(const Strided& b, int64_t k, int64_t count, float* to) {
  int64_t row = 0;
  if (count == kLanes && b.column == 1) {
    for (; row < k; ++row) store_vector(to + row * kWidth, load_vector(b.data + row * b.row));
  } else if (count == kLanes && b.row == 1) {
    for (; row + kLanes <= k; row += kLanes) {
      Vector tile[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) tile[i] = load_vector(b.data + i * b.column + row);
      transpose<kLanes / 2>(tile);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_vector(to + (row + i) * kWidth, tile[i]);
    }
  }
  for (; row < k; ++row) {
    const float* from = b.data + row * b.row;
    for (int64_t i = 0; i < count; ++i) to[row * kWidth + i] = from[i * b.column];
    for (int64_t i = count; i < kLanes; ++i) to[row * kWidth + i] = 0;
  }
}

// Packs half a panel in slots: in bfloat16 products each float of `to` holds two rows of b.
inline void pack_half(const Strided& b, int64_t k, int64_t count, float* to) {
#if defined(TRM_FAST_PAIRS)
  alignas(64) float steps[(kLanes + 1) * kWidth];
  for (int64_t first = 0; first < k; first += kLanes, to += kLanes / 2 * kWidth) {
    const int64_t depth = std::min<int64_t>(kLanes, k - first);
    pack_half_steps({b.data + first * b.row, b.row, b.column}, depth, count, steps);
    store_vector(steps + depth * kWidth, Vector{});
    for (int64_t i = 0; i < depth; i += 2) {
      store_pairs(steps + i * kWidth, steps + (i + 1) * kWidth, to + i / 2 * kWidth);
    }
  }
#else
  pack_half_steps(b, k, count, to);
#endif
}

// b without its first `first` columns.
inline Strided columns_from(const Strided& b, int64_t first) { return {b.data + first * b.column, b.row, b.column}; }

// The number of columns from `first` to n: 0 to kLanes.
inline int64_t lanes_left(int64_t n, int64_t first) {
  return std::max<int64_t>(0, std::min<int64_t>(kLanes, n - first));
}

// Interleaves rows [0, count) of a, `step` floats per slot. `rows_after` more rows follow in a. If there are enough to
// fill the last vector, whole vectors are copied. The caller must write the floats beyond `count` later.
inline void pack_rows(const Strided& a, int64_t count, int64_t rows_after, int64_t k, int64_t step, float* to) {
  constexpr int kVectors = (kRows + kLanes - 1) / kLanes;
  const bool whole_vectors = a.row == 1 && count + rows_after >= kVectors * kLanes;
#if defined(TRM_FAST_PAIRS)
  if (whole_vectors) {
    alignas(64) const float zeros[kVectors * kLanes] = {};
    for (int64_t d = 0; d < k; d += 2) {
      const float *even = a.data + d * a.column, *odd = d + 1 < k ? even + a.column : zeros;
      for (int v = 0; v < kVectors * kLanes; v += kLanes) store_pairs(even + v, odd + v, to + d / 2 * step + v);
    }
    return;
  }
  for (int64_t d = 0; d < k; d += 2) {
    for (int64_t i = 0; i < count; ++i) {
      const float* from = a.data + i * a.row + d * a.column;
      store_pair(from[0], d + 1 < k ? from[a.column] : 0, to + d / 2 * step + i);
    }
  }
#else
  if (whole_vectors) {
    for (int64_t d = 0; d < k; ++d) {
      for (int v = 0; v < kVectors; ++v) {
        store_vector(to + d * step + v * kLanes, load_vector(a.data + d * a.column + v * kLanes));
      }
    }
    return;
  }
  for (int64_t d = 0; d < k; ++d) {
    for (int64_t i = 0; i < count; ++i) to[d * step + i] = a.data[i * a.row + d * a.column];
  }
#endif
}

#if defined(TRM_FAST_AMX)
// Packs a (m, k) in slots, in rows slots(k) floats apart, as tiles read a left factor.
inline void pack_whole_rows(const Strided& a, int64_t m, int64_t k, float* to) {
  const int64_t row = slots(k), block = 2 * kLanes;  // steps of a block of kLanes x kLanes slots
  int64_t i = 0;
  for (; a.row == 1 && i + kLanes <= m; i += kLanes) {
    const float* from = a.data + i;
    int64_t d = 0;
    for (; d + block <= k; d += block) {
      Vector tile[kLanes];
#pragma GCC unroll 16
      for (int s = 0; s < kLanes; ++s) {
        const float* even = from + (d + 2 * s) * a.column;
        alignas(64) float pairs[kLanes];
        store_pairs(even, even + a.column, pairs);
        tile[s] = load_vector(pairs);
      }
      transpose<kLanes / 2>(tile);
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) store_vector(to + (i + r) * row + d / 2, tile[r]);
    }
    for (; d < k; d += 2) {
      for (int r = 0; r < kLanes; ++r) {
        const float* even = from + d * a.column + r;
        store_pair(even[0], d + 1 < k ? even[a.column] : 0, to + (i + r) * row + d / 2);
      }
    }
  }
  for (; i < m; ++i) {
    const float* from = a.data + i * a.row;
    if (a.column == 1) {
      store_row(from, k, to + i * row);
      continue;
    }
    for (int64_t d = 0; d < k; d += 2) {
      store_pair(from[d * a.column], d + 1 < k ? from[(d + 1) * a.column] : 0, to + i * row + d / 2);
    }
  }
}
#endif

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
