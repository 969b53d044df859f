// Loops over the register blocks of a product, for plain products and for those fused with SwiGLU.
#pragma once

#include <algorithm>

#include "core/cpu/pairs.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

// Slots of k per pass, few enough that a panel of the right factor and the rows of the left one stay in cache.
constexpr int64_t kDepth = 512;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Splits m rows into blocks of at most `max_rows` rows. Their sizes differ by at most one row, so that no block is
// small.
struct RowBlocks {
  explicit RowBlocks(int64_t m, int64_t max_rows = kRows)
      : count(ceil_div(m, max_rows)), rows_(count ? m / count : 0), larger_(m - count * rows_) {}
  // The first row of a block, and its number of rows.
  int64_t start(int64_t block) const { return block * rows_ + std::min(block, larger_); }
  int64_t rows(int64_t block) const { return rows_ + (block < larger_); }

  const int64_t count;

 private:
  const int64_t rows_, larger_;  // the first `larger_` blocks have one more row
};

// `height` rows of a left factor, starting at row `first` and slot k0, which is a multiple of the chunk.
inline Rows rows_at(const Left& left, int64_t first, int64_t height, int64_t k0, int64_t depth) {
  if (!left.row) return {left.data + first * left.jump + k0 * height, 0, 0, 0};
  const float* data = left.data + first * left.row + (left.chunk ? k0 / left.chunk * left.jump : k0);
  return {data, left.row, left.chunk ? left.chunk : depth, left.jump};
}

// Computes one block of the product, (height, kWidth), and writes it to c or adds it to c. Unless `wide`, computes only
// the first kLanes columns. Rows of c are `ldc` floats apart.
inline void compute_block(const Left& left, int64_t first, int64_t height, int64_t k0, int64_t depth,
                          const float* panel, bool wide, bool add, float* c, int64_t ldc) {
  const auto block = left.row ? block_function<false>(height, wide) : block_function<true>(height, wide);
  block(rows_at(left, first, height, k0, depth), depth, panel + k0 * kWidth, add, c, ldc);
}

// Computes a product block by block, and calls finish(first row, rows, panel, block, row distance) while the block is
// in cache. target(first row, rows, panel) returns the address for the block, whose rows are then `ldc` floats apart,
// or null for temporary memory. `factor` has `interleave` rows for each of the m rows: 2 if it holds gate and up,
// else 1. A block has at most `max_rows` * `interleave` rows.
template <class Target, class Finish>
inline void for_blocks(const Left& factor, const Right& right, int64_t m, int64_t panels, int64_t k, int64_t max_rows,
                       int64_t interleave, const Target& target, int64_t ldc, const Finish& finish) {
  const LeftSlots left(factor, m * interleave, k);
  alignas(64) float memory[kRows * kWidth];
  const RowBlocks blocks(m, max_rows);
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t first = blocks.start(b), rows = blocks.rows(b);
      float* c = target(first, rows, panel);
      const int64_t ld = c ? ldc : kWidth;
      if (!c) c = memory;
      compute_block(left.left, first * interleave, rows * interleave, 0, slots(k), right.data + panel * right.stride,
                    true, false, c, ld);
      finish(first, rows, panel, c, ld);
    }
  }
}

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
