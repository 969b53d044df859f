// The loop over the register blocks of a product, for plain and fused products.
#pragma once

#include <algorithm>

#include "core/cpu/pairs.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

// Slots of the depth in one pass, so few that the panel of the right factor and the rows of the left stay in cache.
constexpr int64_t kDepth = 512;

inline int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Divides rows into blocks of about equal height, without a small last one.
inline int64_t row_blocks(int64_t m, int64_t most = kRows) { return divided(m, most); }
inline int64_t block_start(int64_t m, int64_t blocks, int64_t block) { return m * block / blocks; }

// Rows from `first` on, at depths from k0 on (a multiple of the chunk).
inline Rows rows_at(const Left& left, int64_t first, int64_t height, int64_t k0, int64_t depth) {
  if (!left.row) return {left.at + first * left.jump + k0 * height, 0, 0, 0};
  const float* at = left.at + first * left.row + (left.chunk ? k0 / left.chunk * left.jump : k0);
  return {at, left.row, left.chunk ? left.chunk : depth, left.jump};
}

// Computes one block into c. `wide`: both vectors of the panel, not only the first.
inline void compute_block(const Left& left, int64_t first, int64_t height, int64_t k0, int64_t depth,
                          const float* panel, bool wide, bool add, float* c, int64_t ldc) {
  const auto block = left.row ? block_function<false>(height, wide) : block_function<true>(height, wide);
  block(rows_at(left, first, height, k0, depth), depth, panel + k0 * kWidth, add, c, ldc);
}

// For products with more work on each block: calls finish(first row, height, panel, block, its row step) while the
// block is in cache. target(first row, panel) returns where the block is stored, or null for temporary memory.
template <class Target, class Finish>
inline void for_blocks(const Left& factor, const Right& right, int64_t m, int64_t panels, int64_t k, int64_t most,
                       int64_t pair, const Target& target, int64_t ldc, const Finish& finish) {
  const LeftSlots left(factor, m * pair, k);
  alignas(64) float memory[kRows * kWidth];
  const int64_t blocks = row_blocks(m, most);
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = block_start(m, blocks, b), rows = block_start(m, blocks, b + 1) - first;
      float* c = target(first, panel);
      const int64_t ld = c ? ldc : kWidth;
      if (!c) c = memory;
      compute_block(left.left, first * pair, rows * pair, 0, slots(k), right.at + panel * right.stride, true, false, c,
                    ld);
      finish(first, rows, panel, c, ld);
    }
  }
}

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
