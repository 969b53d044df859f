// Slots: the floats of a packed factor along its depth. In float32 products a slot holds one step. In bfloat16 products
// (TRM_FAST_PAIRS) it holds two neighboring steps, rounded to nearest even; a zero follows an odd last step. All other
// code of a product is the same for both.
#pragma once

#include "core/cpu/register_block.h"
#include "core/memory.h"
#include "core/products.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

// The number of slots for k steps.
constexpr int64_t slots(int64_t k) { return (k + kSteps - 1) / kSteps; }

#if defined(TRM_FAST_PAIRS)
inline uint32_t bfloat16_bits(float x) {
  BFloat16 rounded;
  store(&rounded, x);
  return rounded.bits;
}
inline void store_pair(float even, float odd, float* to) {
  const uint32_t pair = bfloat16_bits(even) | bfloat16_bits(odd) << 16;
  std::memcpy(to, &pair, sizeof(pair));
}
// The steps of slots.
inline Vector even_steps(Vector slots) { return (Vector)((Bits)slots << 16); }
inline Vector odd_steps(Vector slots) { return (Vector)((Bits)slots & 0xffff0000u); }

#if defined(__AVX512BF16__)
inline __m256i rounded_to_bfloat16(const float* from) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from)); }

// Stores kLanes slots, each from an even and an odd step. `to` may be `even`.
inline void store_pairs(const float* even, const float* odd, float* to) {
  const __m512i low = _mm512_cvtepu16_epi32(rounded_to_bfloat16(even));
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded_to_bfloat16(odd)), 16);
  _mm512_storeu_si512(to, _mm512_or_si512(low, high));
}
// Stores kLanes neighboring steps as slots. `to` may be `from`.
inline void store_steps(const float* from, float* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded_to_bfloat16(from));
}
#elif defined(TRM_FAST_NEON)
inline uint16x4_t rounded_to_bfloat16(const float* from) {
  return vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(from)));
}
inline void store_pairs(const float* even, const float* odd, float* to) {
  const uint16x4x2_t pairs = vzip_u16(rounded_to_bfloat16(even), rounded_to_bfloat16(odd));
  vst1q_f32(to, vreinterpretq_f32_u16(vcombine_u16(pairs.val[0], pairs.val[1])));
}
inline void store_steps(const float* from, float* to) { vst1_f32(to, vreinterpret_f32_u16(rounded_to_bfloat16(from))); }
#else
inline void store_pairs(const float* even, const float* odd, float* to) {
  for (int i = 0; i < kLanes; ++i) store_pair(even[i], odd[i], to + i);
}
inline void store_steps(const float* from, float* to) {
  for (int i = 0; i < kLanes; i += 2) store_pair(from[i], from[i + 1], to + i / 2);
}
#endif

inline void store_steps(Vector steps, float* to) {
  alignas(64) float memory[kLanes];
  store_vector(memory, steps);
  store_steps(memory, to);
}

// Stores `count` neighboring elements of a row as slots. `count` may be odd only at the end of the row. `to` may be
// `from`.
inline void store_row(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_steps(from + i, to + i / 2);
  for (; i < count; i += 2) store_pair(from[i], i + 1 < count ? from[i + 1] : 0, to + i / 2);
}

// Converts a factor that is not packed to slots, in `to`, with rows slots(k) floats apart. `to` may be its data if its
// rows have one chunk.
inline Left to_slots(const Left& from, int64_t m, int64_t k, float* to) {
  const int64_t chunk = from.chunk ? from.chunk : k;
  for (int64_t i = 0; i < m; ++i) {
    const float* row = from.data + i * from.row;
    for (int64_t first = 0; first < k; first += chunk, row += from.jump) {
      store_row(row, chunk < k - first ? chunk : k - first, to + i * slots(k) + first / 2);
    }
  }
  return {to, slots(k), 0, 0, true};
}

// The left factor in slots. If it is neither packed nor in slots, this is a converted copy, made once for all columns
// of the product.
class LeftSlots {
 public:
  LeftSlots(const Left& from, int64_t m, int64_t k) : left(from) {
    if (!from.row) {
      left.jump = slots(from.jump);
#if defined(TRM_FAST_AMX)
      left.row = left.jump;  // the rows of a packed factor are not interleaved
#endif
    } else if (!from.in_slots) {
      memory_ = Memory(acquire_memory(size_t(m * slots(k))));
      left = to_slots(from, m, k, memory_.get());
    }
  }

  Left left;

 private:
  Memory memory_;
};
#else
inline Vector even_steps(Vector values) { return values; }
inline Vector odd_steps(Vector values) { return values; }
inline void store_steps(Vector steps, float* to) { store_vector(to, steps); }

inline Left to_slots(const Left& from, int64_t, int64_t, float*) { return from; }

struct LeftSlots {
  LeftSlots(const Left& from, int64_t, int64_t) : left(from) {}
  const Left& left;
};
#endif

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
