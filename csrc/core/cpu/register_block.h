// The innermost loop of every matrix product: a block of C stays in registers for the whole depth. GCC's vector types
// let one source serve every instruction set. The numbers of rows and vectors are compile-time constants, so that the
// accumulators stay in registers.
#pragma once

#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(TRM_FAST_NEON)
#include <arm_neon.h>
#endif

#include "core/cpu/simd.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

// kRows x 2 accumulators, two vectors of the right factor and a broadcast value fill the registers. On AVX-512, blocks
// of 14 rows divide 97 or 81 rows with little waste. On NEON, g++ loads many values of the left factor ahead, and with
// more than 10 of the 12 rows that would fit, it moves accumulators to memory. Emulated products have the blocks of
// AVX-512.
#if defined(TRM_FAST_AMX)
constexpr int kLanes = 16, kRows = 32;  // see tiles.h
#elif defined(__AVX512F__) || defined(TRM_FAST_EMULATED)
constexpr int kLanes = 16, kRows = 14;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 6;
#elif defined(TRM_FAST_NEON)
constexpr int kLanes = 4, kRows = 10;
#else
constexpr int kLanes = 4, kRows = 6;
#endif
constexpr int kWidth = 2 * kLanes;  // columns of a block, and of a panel of the right factor

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vector load_vector(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store_vector(float* to, Vector x) { *reinterpret_cast<Vector*>(to) = x; }

// The steps per slot; see pairs.h. A product of two bfloat16 numbers is exact in float32.
#if defined(TRM_FAST_PAIRS)
constexpr int64_t kSteps = 2;
typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t)), aligned(4), may_alias));
#if defined(__AVX512BF16__)
inline Vector multiply_add(Vector sum, float a, Vector b) {
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)b, (__m512bh)_mm512_set1_ps(a));
}
#elif defined(TRM_FAST_NEON)
// g++ loads the lower lane of a pair of floats without a further instruction.
inline Vector multiply_add(Vector sum, float a, Vector b) {
  const float32x2_t lower = {a, 0};
  return (Vector)vbfdotq_lane_f32((float32x4_t)sum, (bfloat16x8_t)b, vreinterpret_bf16_f32(lower), 0);
}
#else
inline Vector multiply_add(Vector sum, float a, Vector b) {
  const uint32_t bits = bits_as<uint32_t>(a);
  const Vector even = (Vector)((Bits)b << 16), odd = (Vector)((Bits)b & 0xffff0000u);
  return sum + bits_as<float>(bits & 0xffff0000u) * odd + bits_as<float>(bits << 16) * even;
}
#endif
#else
constexpr int64_t kSteps = 1;
inline Vector multiply_add(Vector sum, float a, Vector b) { return sum + a * b; }
#endif

// The slots per iteration if the left factor is packed. With two slots of pairs, g++ loads the pairs of all rows first,
// and moves accumulators to memory.
constexpr int kUnroll = kSteps == 1 ? 2 : 1;

// Rows of the left factor, with distances in floats. Each row is split into chunks of `chunk` elements, and chunks are
// `jump` floats apart. Element (i, k) of the first chunk is a[i * row + k]; in a packed factor, a[k * kHeight + i].
struct Rows {
  const float* a;
  int64_t row, chunk, jump;
};

// c (kHeight, kVectors * kLanes) = rows * b, or c += rows * b if `add`. b is a panel (depth, kWidth); `depth` is in
// slots. Rows of c are `ldc` floats apart.
template <int kHeight, int kVectors, bool kPacked>
void register_block(const Rows& rows, int64_t depth, const float* b, bool add, float* c, int64_t ldc) {
  Vector sum[kHeight][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[i][v] = Vector{};
  }
  if constexpr (kPacked) {
    const float* a = rows.a;
#pragma GCC unroll kUnroll
    for (int64_t k = 0; k < depth; ++k, a += kHeight, b += kWidth) {
      Vector right[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) right[v] = load_vector(b + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(sum[i][v], a[i], right[v]);
      }
    }
  } else {
    // One pointer per three rows: an addressing mode reaches the other two rows from it.
    constexpr int kPointers = (kHeight + 2) / 3;
    const int64_t row = rows.row;
    const float* p[kPointers];
#pragma GCC unroll 8
    for (int g = 0; g < kPointers; ++g) p[g] = rows.a + 3 * g * row;
    for (int64_t left = depth; left > 0; left -= rows.chunk) {
      const int64_t steps = left < rows.chunk ? left : rows.chunk;
      for (int64_t k = 0; k < steps; ++k, b += kWidth) {
        Vector right[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) right[v] = load_vector(b + v * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < kHeight; ++i) {
          const float x = p[i / 3][i % 3 * row];
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(sum[i][v], x, right[v]);
        }
#pragma GCC unroll 8
        for (int g = 0; g < kPointers; ++g) {
          ++p[g];
          __asm__("" : "+r"(p[g]));  // keeps GCC from merging the pointers into one index
        }
      }
#pragma GCC unroll 8
      for (int g = 0; g < kPointers; ++g) p[g] += rows.jump - rows.chunk;
    }
  }
  // C is added last. If a sum started with a large C, each term would be rounded at the magnitude of C.
#pragma GCC unroll 16
  for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + i * ldc + v * kLanes;
      store_vector(to, add ? load_vector(to) + sum[i][v] : sum[i][v]);
    }
  }
}

using BlockFunction = void (*)(const Rows&, int64_t depth, const float* b, bool add, float* c, int64_t ldc);

// The functions for blocks of 1 to kRows rows. They are static, because the smallest products would spend a tenth of
// their time on building the table.
template <int kVectors, bool kPacked, class Heights>
struct BlockFunctions;
template <int kVectors, bool kPacked, int... kHeight>
struct BlockFunctions<kVectors, kPacked, std::integer_sequence<int, kHeight...>> {
  static constexpr BlockFunction of_height[] = {register_block<kHeight + 1, kVectors, kPacked>...};
};

template <bool kPacked>
inline BlockFunction block_function(int64_t height, bool wide) {
  using Heights = std::make_integer_sequence<int, kRows>;
  return wide ? BlockFunctions<2, kPacked, Heights>::of_height[height - 1]
              : BlockFunctions<1, kPacked, Heights>::of_height[height - 1];
}

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
