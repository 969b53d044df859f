// Loops over the register blocks of a product, for plain products and for those fused with SwiGLU.
#pragma once

#include <algorithm>

#include "core/cpu/pairs.h"
#if defined(TRM_FAST_AMX)
#include "core/cpu/tiles.h"
#endif

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
  int64_t most() const { return rows_ + (larger_ > 0); }

  const int64_t count;

 private:
  const int64_t rows_, larger_;  // the first `larger_` blocks have one more row
};

#if !defined(TRM_FAST_AMX)
// The blocks of a product in vector registers.
class BlockMultiplier {
 public:
  BlockMultiplier(const Left& left, int64_t) : left_(left) {}

  // Selects slots [k0, k0 + depth) of the factors. k0 is a multiple of the left factor's chunk.
  void select(int64_t k0, int64_t depth) { first_slot_ = k0, depth_ = depth; }

  // Computes one block of the product, (height, kWidth), and writes it to c or adds it to c. Unless `wide`, computes
  // only the first kLanes columns. Rows of c are `ldc` floats apart.
  void compute(int64_t first, int64_t height, const float* panel, bool wide, bool add, float* c, int64_t ldc) const {
    const auto block = left_.row ? block_function<false>(height, wide) : block_function<true>(height, wide);
    block(rows_at(first, height), depth_, panel + first_slot_ * kWidth, add, c, ldc);
  }

 private:
  Rows rows_at(int64_t first, int64_t height) const {
    if (!left_.row) return {left_.data + first * left_.jump + first_slot_ * height, 0, 0, 0};
    const float* data =
        left_.data + first * left_.row + (left_.chunk ? first_slot_ / left_.chunk * left_.jump : first_slot_);
    return {data, left_.row, left_.chunk ? left_.chunk : depth_, left_.jump};
  }

  const Left& left_;
  int64_t first_slot_ = 0, depth_ = 0;
};
#endif

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
  BlockMultiplier multiplier(left.left, blocks.most() * interleave);
  multiplier.select(0, slots(k));
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t first = blocks.start(b), rows = blocks.rows(b);
      float* c = target(first, rows, panel);
      const int64_t ld = c ? ldc : kWidth;
      if (!c) c = memory;
      multiplier.compute(first * interleave, rows * interleave, right.data + panel * right.stride, true, false, c, ld);
      finish(first, rows, panel, c, ld);
    }
  }
}

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
