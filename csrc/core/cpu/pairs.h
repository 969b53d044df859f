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
inline __m256i rounded_to_bfloat16(const float* from) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from)); }

// Stores kLanes slots, each from an even and an odd step.
inline void store_pairs(const float* even, const float* odd, float* to) {
  const __m512i low = _mm512_cvtepu16_epi32(rounded_to_bfloat16(even));
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded_to_bfloat16(odd)), 16);
  _mm512_storeu_si512(to, _mm512_or_si512(low, high));
}

inline void store_pair(float even, float odd, float* to) {
  BFloat16 steps[2];
  store(steps, even), store(steps + 1, odd);
  std::memcpy(to, steps, sizeof(steps));
}

// Stores `count` neighboring elements of a row as slots. `count` may be odd only at the end of the row.
inline void store_row(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i / 2), rounded_to_bfloat16(from + i));
  }
  for (; i < count; i += 2) store_pair(from[i], i + 1 < count ? from[i + 1] : 0, to + i / 2);
}

// The left factor in slots. If it is not packed, this is a converted copy, made once for all columns of the product.
class LeftSlots {
 public:
  LeftSlots(const Left& from, int64_t m, int64_t k) : left{from.data, 0, 0, slots(from.jump)} {
    if (!from.row) return;
    memory_ = acquire_memory(size_t(m * slots(k)));
    const int64_t chunk = from.chunk ? from.chunk : k;
    for (int64_t i = 0; i < m; ++i) {
      const float* row = from.data + i * from.row;
      float* to = memory_ + i * slots(k);
      for (int64_t first = 0; first < k; first += chunk, row += from.jump) {
        store_row(row, chunk < k - first ? chunk : k - first, to + first / 2);
      }
    }
    left = {memory_, slots(k), 0, 0};
  }
  LeftSlots(const LeftSlots&) = delete;
  LeftSlots& operator=(const LeftSlots&) = delete;
  ~LeftSlots() {
    if (memory_) release_memory(memory_);
  }

  Left left;

 private:
  float* memory_ = nullptr;
};
#else
struct LeftSlots {
  LeftSlots(const Left& from, int64_t, int64_t) : left(from) {}
  const Left& left;
};
#endif

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
