// The walk over a product's register blocks, which the plain and the fused products share.
#pragma once

#include <algorithm>

#include "core/cpu/pairs.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

// Slots of the depth that one pass takes: the panel of the right factor and the rows of the left stay in cache.
constexpr int64_t kDepth = 512;

inline int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of about equal height: 97 rows are 6 x 14 + 13, not 6 x 14 + 12 + 1.
inline int64_t row_blocks(int64_t m, int64_t most = kRows) { return divided(m, most); }
inline int64_t block_start(int64_t m, int64_t blocks, int64_t block) { return m * block / blocks; }

// Rows from `first` on, from the depth k0 on (a multiple of the chunk).
inline Rows rows_at(const Left& left, int64_t first, int64_t height, int64_t k0, int64_t depth) {
  if (!left.row) return {left.at + first * left.jump + k0 * height, 0, 0, 0};
  const float* at = left.at + first * left.row + (left.chunk ? k0 / left.chunk * left.jump : k0);
  return {at, left.row, left.chunk ? left.chunk : depth, left.jump};
}

// Computes a block into c; `wide`: both vectors of the panel.
inline void compute_block(const Left& left, int64_t first, int64_t height, int64_t k0, int64_t depth,
                          const float* panel, bool wide, bool add, float* c, int64_t ldc) {
  const auto block = left.row ? block_function<false>(height, wide) : block_function<true>(height, wide);
  block(rows_at(left, first, height, k0, depth), depth, panel + k0 * kWidth, add, c, ldc);
}

// For products with something to do on each block: calls finish(first row, height, panel, block, its row step) with the
// block in cache. place(first row, panel) says where a block goes, null for memory that is reused.
template <class Place, class Finish>
inline void for_blocks(const Left& factor, const Right& right, int64_t m, int64_t panels, int64_t k, int64_t most,
                       int64_t pair, const Place& place, int64_t ldc, const Finish& finish) {
  const LeftSlots left(factor, m * pair, k);
  alignas(64) float memory[kRows * kWidth];
  const int64_t blocks = row_blocks(m, most);
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = block_start(m, blocks, b), rows = block_start(m, blocks, b + 1) - first;
      float* c = place(first, panel);
      const int64_t ld = c ? ldc : kWidth;
      if (!c) c = memory;
      compute_block(left.left, first * pair, rows * pair, 0, slots(k), right.at + panel * right.stride, true, false, c, ld);
      finish(first, rows, panel, c, ld);
    }
  }
}

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
