// A matrix product for machines whose torch has no MKL: panels of both factors are packed (which also takes care of
// transposition and of ragged edges), and a block of C stays in registers while a panel's depth runs through.
#include <algorithm>
#include <vector>

#include "ops/cpu/simd.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16, kRows = 12, kVectors = 2;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8, kRows = 6, kVectors = 2;
#else
constexpr int64_t kLanes = 4, kRows = 4, kVectors = 2;
#endif
constexpr int64_t kWidth = kLanes * kVectors;        // columns of a register block
constexpr int64_t kDepth = 256, kPanel = 16 * kRows;  // a packed panel of A stays in L2, a strip of B in L1

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

// block (kRows, kWidth) = A B over `depth`; a is (depth, kRows), b (depth, kWidth).
void register_block(int64_t depth, const float* a, const float* b, float* block) {
  Vector sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k, a += kRows, b += kWidth) {
    Vector right[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) right[v] = *reinterpret_cast<const Vector*>(b + v * kLanes);
#pragma GCC unroll 12
    for (int64_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) sum[i][v] += a[i] * right[v];
    }
  }
#pragma GCC unroll 12
  for (int64_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) *reinterpret_cast<Vector*>(block + i * kWidth + v * kLanes) = sum[i][v];
  }
}

// Strips of `width` lines of op(X), each (depth, width); `across` is the step from line to line, `along` in depth.
void pack(const float* x, int64_t across, int64_t along, int64_t lines, int64_t depth, int64_t width, float* to) {
  for (int64_t first = 0; first < lines; first += width, to += depth * width) {
    const int64_t count = std::min(width, lines - first);
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = x + first * across + k * along;
      for (int64_t i = 0; i < count; ++i) to[k * width + i] = from[i * across];
      for (int64_t i = count; i < width; ++i) to[k * width + i] = 0;
    }
  }
}

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
              const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  static thread_local std::vector<float> left, right;
  const int64_t strips = (n + kWidth - 1) / kWidth, depth_step = std::min(k, kDepth);
  left.resize(std::max(left.size(), size_t(kPanel * depth_step)));
  right.resize(std::max(right.size(), size_t(strips * kWidth * depth_step)));
  for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
    const int64_t depth = std::min(kDepth, k - k0);
    const float keep = k0 ? 1 : beta;
    pack(b + (transpose_b ? k0 : k0 * ldb), transpose_b ? ldb : 1, transpose_b ? 1 : ldb, n, depth, kWidth,
         right.data());
    for (int64_t m0 = 0; m0 < m; m0 += kPanel) {
      const int64_t rows = std::min(kPanel, m - m0);
      pack(a + (transpose_a ? m0 + k0 * lda : m0 * lda + k0), transpose_a ? 1 : lda, transpose_a ? lda : 1, rows,
           depth, kRows, left.data());
      for (int64_t j = 0; j < n; j += kWidth) {
        for (int64_t i = 0; i < rows; i += kRows) {
          float block[kRows * kWidth];
          register_block(depth, left.data() + i * depth, right.data() + j * depth, block);
          const int64_t height = std::min(kRows, rows - i), width = std::min(kWidth, n - j);
          for (int64_t r = 0; r < height; ++r) {
            float* to = c + (m0 + i + r) * ldc + j;
            const float* from = block + r * kWidth;
            if (keep == 0) {
              for (int64_t s = 0; s < width; ++s) to[s] = from[s];
            } else {
              for (int64_t s = 0; s < width; ++s) to[s] = from[s] + keep * to[s];
            }
          }
        }
      }
    }
  }
}

}  // namespace

template <>
const GemmKernels<float> Table<GemmKernels<float>>::kernels = {multiply};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
