// Packs factors in the order in which the register blocks read them. Packing also transposes, and fills a panel beyond
// the matrix with zeros.
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

// One step of a transposition: swaps the off-diagonal blocks of size kStep of two rows.
template <int kStep, int... kLane>
inline void swap_blocks(Vector& a, Vector& b, std::integer_sequence<int, kLane...>) {
  const Vector low = TRM_FAST_SHUFFLE(a, b, ((kLane & kStep) ? kLane - kStep + kLanes : kLane)...);
  b = TRM_FAST_SHUFFLE(a, b, ((kLane & kStep) ? kLane + kLanes : kLane + kStep)...);
  a = low;
}

template <int kStep>
inline void transpose(Vector (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (!(i & kStep)) swap_blocks<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kLanes>{});
  }
  if constexpr (kStep > 1) transpose<kStep / 2>(rows);
}

// Packs half a panel: columns [0, count) of b, then zeros, to (k, kLanes) with rows kWidth apart.
inline void pack_half_steps(const Strided& b, int64_t k, int64_t count, float* to) {
  int64_t done = 0;
  if (count == kLanes && b.column == 1) {
    for (; done < k; ++done) store_vector(to + done * kWidth, load_vector(b.at + done * b.row));
  } else if (count == kLanes && b.row == 1) {
    for (; done + kLanes <= k; done += kLanes) {
      Vector tile[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) tile[i] = load_vector(b.at + i * b.column + done);
      transpose<kLanes / 2>(tile);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_vector(to + (done + i) * kWidth, tile[i]);
    }
  }
  for (; done < k; ++done) {
    const float* from = b.at + done * b.row;
    for (int64_t i = 0; i < count; ++i) to[done * kWidth + i] = from[i * b.column];
    for (int64_t i = count; i < kLanes; ++i) to[done * kWidth + i] = 0;
  }
}

// The same in slots.
inline void pack_half(const Strided& b, int64_t k, int64_t count, float* to) {
#if defined(TRM_FAST_PAIRS)
  alignas(64) float steps[(kLanes + 1) * kWidth];
  for (int64_t first = 0; first < k; first += kLanes, to += kLanes / 2 * kWidth) {
    const int64_t depth = std::min<int64_t>(kLanes, k - first);
    pack_half_steps({b.at + first * b.row, b.row, b.column}, depth, count, steps);
    store_vector(steps + depth * kWidth, Vector{});
    for (int64_t i = 0; i < depth; i += 2) {
      store_pairs(steps + i * kWidth, steps + (i + 1) * kWidth, to + i / 2 * kWidth);
    }
  }
#else
  pack_half_steps(b, k, count, to);
#endif
}

inline Strided columns_from(const Strided& b, int64_t first) { return {b.at + first * b.column, b.row, b.column}; }

inline int64_t lanes_of(int64_t n, int64_t first) { return std::max<int64_t>(0, std::min<int64_t>(kLanes, n - first)); }

// Packs rows [0, count) of a, side by side for every slot of the depth, `step` floats a slot. It may write up to
// `spare` more rows, because whole vectors are faster; the next block overwrites them.
inline void pack_rows(const Strided& a, int64_t count, int64_t spare, int64_t k, int64_t step, float* to) {
#if defined(TRM_FAST_PAIRS)
  (void)spare;
  for (int64_t d = 0; d < k; d += 2) {
    for (int64_t i = 0; i < count; ++i) {
      const float* from = a.at + i * a.row + d * a.column;
      store_pair(from[0], d + 1 < k ? from[a.column] : 0, to + d / 2 * step + i);
    }
  }
#else
  constexpr int kVectors = (kRows + kLanes - 1) / kLanes;
  if (a.row == 1 && count + spare >= kVectors * kLanes) {
    for (int64_t d = 0; d < k; ++d) {
      for (int v = 0; v < kVectors; ++v) {
        store_vector(to + d * step + v * kLanes, load_vector(a.at + d * a.column + v * kLanes));
      }
    }
    return;
  }
  for (int64_t d = 0; d < k; ++d) {
    for (int64_t i = 0; i < count; ++i) to[d * step + i] = a.at[i * a.row + d * a.column];
  }
#endif
}

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
