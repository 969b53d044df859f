// Matrix products on a CPU, and their table. register_block.h has the innermost loop, pack.h the packed layouts.
#include "core/cpu/pack.h"
#include "core/cpu/swiglu_product.h"
#include "core/products.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

void pack_right(const Strided& b, int64_t k, int64_t n, float* to, int64_t stride) {
  for (int64_t first = 0; first < n; first += kWidth, to += stride) {
    for (int64_t half = 0; half < kWidth; half += kLanes) {
      pack_half(columns_from(b, first + half), k, lanes_left(n, first + half), to + half);
    }
  }
}

void pack_gate_up(const Strided& gate, const Strided& up, int64_t k, int64_t inner, int64_t padded, float* to) {
  for (int64_t first = 0; first < padded; first += kLanes, to += slots(k) * kWidth) {
    pack_half(columns_from(gate, first), k, lanes_left(inner, first), to);
    pack_half(columns_from(up, first), k, lanes_left(inner, first), to + kLanes);
  }
}

void pack_left(const Strided& a, int64_t m, int64_t k, float* to) {
#if defined(TRM_FAST_AMX)
  pack_whole_rows(a, m, k, to);
#else
  const RowBlocks blocks(m);
  for (int64_t b = 0; b < blocks.count; ++b) {
    const int64_t first = blocks.start(b), rows = blocks.rows(b);
    pack_rows({a.data + first * a.row, a.row, a.column}, rows, m - first - rows, k, rows, to + first * slots(k));
  }
#endif
}

void pack_gate_up_left(const Strided& gate, const Strided& up, int64_t inner, int64_t k, float* to) {
  const RowBlocks blocks(inner, kRows / 2);
  for (int64_t b = 0; b < blocks.count; ++b) {
    const int64_t first = blocks.start(b), rows = blocks.rows(b);
    float* block = to + 2 * first * slots(k);
    const Strided gate_rows{gate.data + first * gate.row, gate.row, gate.column};
    const Strided up_rows{up.data + first * up.row, up.row, up.column};
#if defined(TRM_FAST_AMX)
    pack_whole_rows(gate_rows, rows, k, block);
    pack_whole_rows(up_rows, rows, k, block + rows * slots(k));
#else
    pack_rows(gate_rows, rows, 0, k, 2 * rows, block);
    pack_rows(up_rows, rows, 0, k, 2 * rows, block + rows);
#endif
  }
}

// Works in place, because a slot only overwrites steps that were already read.
void pack_panels(float* to, int64_t k, int64_t count, int64_t stride) {
#if defined(TRM_FAST_PAIRS)
  alignas(64) const float zeros[kLanes] = {};
  for (int64_t panel = 0; panel < count; ++panel, to += stride) {
    for (int64_t i = 0; i < k; i += 2) {
      for (int64_t half = 0; half < kWidth; half += kLanes) {
        const float* even = to + i * kWidth + half;
        store_pairs(even, i + 1 < k ? even + kWidth : zeros, to + i / 2 * kWidth + half);
      }
    }
  }
#else
  (void)to, (void)k, (void)count, (void)stride;
#endif
}

// Computes a block whose last vector extends past the right edge of c, by way of temporary memory.
void edge_block(const BlockMultiplier& multiplier, int64_t first, int64_t height, const float* panel, int64_t columns,
                bool add, float* c, int64_t ldc) {
  alignas(64) float block[kRows * kWidth];
  if (add) {
    for (int64_t i = 0; i < height; ++i) std::copy_n(c + i * ldc, columns, block + i * kWidth);
  }
  multiplier.compute(first, height, panel, columns > kLanes, add, block, kWidth);
  for (int64_t i = 0; i < height; ++i) std::copy_n(block + i * kWidth, columns, c + i * ldc);
}

void multiply(const Left& factor, const Right& right, int64_t m, int64_t n, int64_t k, bool add, float* c,
              int64_t ldc) {
  const LeftSlots left(factor, m, k);
  const RowBlocks blocks(m);
  BlockMultiplier multiplier(left.left, blocks.most());
  for (int64_t k0 = 0; k0 < slots(k); k0 += kDepth) {
    multiplier.select(k0, std::min(kDepth, slots(k) - k0));
    const float* panel = right.data;
    for (int64_t column = 0; column < n; column += kWidth, panel += right.stride) {
      const int64_t columns = std::min<int64_t>(kWidth, n - column);
      for (int64_t b = 0; b < blocks.count; ++b) {
        const int64_t first = blocks.start(b), height = blocks.rows(b);
        float* to = c + first * ldc + column;
        if (columns % kLanes) {
          edge_block(multiplier, first, height, panel, columns, add || k0, to, ldc);
        } else {
          multiplier.compute(first, height, panel, columns > kLanes, add || k0, to, ldc);
        }
      }
    }
  }
}

}  // namespace

template <>
const GemmKernels Table<GemmKernels>::kernels = {
    kRows,    kWidth,      kSteps,   pack_right, pack_gate_up, pack_left,   pack_gate_up_left,
    to_slots, pack_panels, multiply, swiglu,     swiglu_bwd,   swiglu_left, swiglu_left_bwd};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
