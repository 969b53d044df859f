// Matrix products that apply SwiGLU, or its gradient, to each block while the block is in cache.
#pragma once

#include "core/cpu/blocks.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

typedef float Values __attribute__((vector_size(kLanes * sizeof(float))));

// The processors' minimum and maximum return the second operand if one is NaN. Compilers do not use them for the
// expressions of Lanewise<float>.
template <>
struct Lanewise<Values> {
  typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));
#if defined(__AVX512F__)
  static constexpr __mmask16 kAll = 0xffff;  // with a mask, because g++ warns of its own header otherwise
  static Values at_most(Values x, float limit) {
    return (Values)_mm512_maskz_min_ps(kAll, _mm512_set1_ps(limit), (__m512)x);
  }
  static Values at_least(Values x, float limit) {
    return (Values)_mm512_maskz_max_ps(kAll, _mm512_set1_ps(limit), (__m512)x);
  }
  // A step of Newton's method on an estimate takes half the time of a division. It would make 0 for infinity NaN.
  static Values inverse(Values x) {
    const __m512 d = (__m512)x, estimate = _mm512_maskz_rcp14_ps(kAll, d);
    const __mmask16 finite = _mm512_cmp_ps_mask(d, _mm512_set1_ps(INFINITY), _CMP_NEQ_UQ);
    const __m512 error = _mm512_fnmadd_ps(d, estimate, _mm512_set1_ps(1.0f));
    return (Values)_mm512_maskz_fmadd_ps(finite, estimate, error, estimate);
  }
#elif defined(__AVX2__)
  static Values at_most(Values x, float limit) { return (Values)_mm256_min_ps(_mm256_set1_ps(limit), (__m256)x); }
  static Values at_least(Values x, float limit) { return (Values)_mm256_max_ps(_mm256_set1_ps(limit), (__m256)x); }
  static Values inverse(Values x) { return 1.0f / x; }
#else
  static Values at_most(Values x, float limit) { return x > limit ? Values{} + limit : x; }
  static Values at_least(Values x, float limit) { return x < limit ? Values{} + limit : x; }
  static Values inverse(Values x) { return 1.0f / x; }
#endif
};

namespace {

// The gate and up values that the forward keeps: the floats of a row of a panel, and the rows per hidden channel if
// gate is above up.
constexpr int64_t kKept = kWidth / kSteps, kKeptRows = 2 / kSteps;

// out = silu(gate) * up for `rows` rows of kColumns columns. Rows of gate and up are `ld` floats apart, those of `out`
// `ldo`. If kInSlots, `out` is in slots.
template <int kColumns, bool kInSlots>
inline void swiglu_rows(int64_t rows, const float* gate, const float* up, int64_t ld, float* out, int64_t ldo) {
  for (int64_t i = 0; i < rows; ++i, gate += ld, up += ld, out += ldo) {
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; c += kLanes) {
      const Values g = load_vector(gate + c), value = g * sigmoid(g) * load_vector(up + c);
      kInSlots ? store_steps(value, out + c / kSteps) : store_vector(out + c, value);
    }
  }
}

// Recomputes `out`, and computes the gradients of gate and up from dout. In bfloat16, gate and up are the same slots.
template <int kColumns>
inline void swiglu_rows_bwd(int64_t rows, const float* dout, int64_t ldd, const float* gate, const float* up,
                            int64_t ld, float* out, int64_t ldo, float* dgate, float* dup, int64_t ldg) {
  for (int64_t i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; c += kLanes) {
      const Values g = even_steps(load_vector(gate + c)), u = odd_steps(load_vector(up + c));
      const Values d = load_vector(dout + c), s = sigmoid(g);
      const Values silu = g * s;
      store_vector(out + c, silu * u);
      store_vector(dgate + c, d * u * s * (1.0f + g * (1.0f - s)));
      store_vector(dup + c, d * silu);
    }
    dout += ldd, gate += ld, up += ld, out += ldo, dgate += ldg, dup += ldg;
  }
}

// Adds the rows of `added` to a block of a product: a panel of `rows` rows, starting at row `first`.
inline void add_rows(const Added& added, int64_t first, int64_t rows, int64_t panel, float* block, int64_t ld) {
  const int32_t* index = added.index + first * added.per_row;
  const float* data = added.rows.data + panel * added.rows.panel;
  for (int64_t i = 0; i < rows; ++i, block += ld, index += added.per_row) {
    Vector low = load_vector(block), high = load_vector(block + kLanes);
    for (int64_t j = 0; j < added.per_row; ++j) {
      const float* from = data + index[j] * added.rows.row;
      low += load_vector(from), high += load_vector(from + kLanes);
    }
    store_vector(block, low), store_vector(block + kLanes, high);
  }
}

void swiglu(const Left& left, const Right& right, int64_t m, int64_t inner, int64_t k, const Added& added,
            const Panels<float>& gate_up, float* out, int64_t ldo) {
  const auto kept = [&](int64_t first, int64_t, int64_t panel) {
    return gate_up.data ? gate_up.data + panel * gate_up.panel + first * gate_up.row : nullptr;
  };
#if defined(TRM_FAST_PAIRS)
  const auto target = [](int64_t, int64_t, int64_t) { return nullptr; };
#else
  const auto& target = kept;
#endif
  for_blocks(left, right, m, inner / kLanes, k, kRows, 1, target, gate_up.row,
             [&](int64_t first, int64_t rows, int64_t panel, float* block, int64_t ld) {
               if (added.per_row) add_rows(added, first, rows, panel, block, ld);
               swiglu_rows<kLanes, true>(rows, block, block + kLanes, ld, out + first * ldo + panel * kLanes / kSteps,
                                         ldo);
#if defined(TRM_FAST_PAIRS)
               float* to = kept(first, rows, panel);
               for (int64_t i = 0; to && i < rows; ++i, to += gate_up.row, block += ld) {
                 store_pairs(block, block + kLanes, to);
               }
#endif
             });
}

void swiglu_bwd(const Left& left, const Right& right, int64_t m, int64_t inner, int64_t k,
                const Panels<const float>& gate_up, float* out, float* dgate_up) {
  // Fetches the rows of gate and up that the block will need, because they may be far apart in a large buffer.
  const auto fetch = [&](int64_t first, int64_t rows, int64_t panel) -> float* {
    for (int64_t both = 2 * panel; both < 2 * panel + 2 && both * kLanes < inner; ++both) {
      const float* row = gate_up.data + both * gate_up.panel + first * gate_up.row;
      for (int64_t i = 0; i < rows; ++i) __builtin_prefetch(row + i * gate_up.row);
    }
    return nullptr;
  };
  for_blocks(left, right, m, ceil_div(inner, kWidth), k, kRows, 1, fetch, 0,
             [&](int64_t first, int64_t rows, int64_t panel, const float* block, int64_t ld) {
               for (int64_t half = 0; half < 2 && panel * kWidth + half * kLanes < inner; ++half) {
                 const int64_t both = 2 * panel + half;  // the panel with the gate and up values of these columns
                 const float* gate = gate_up.data + both * gate_up.panel + first * gate_up.row;
                 float* dgate = dgate_up + (both * m + first) * kWidth;
                 swiglu_rows_bwd<kLanes>(rows, block + half * kLanes, ld, gate, gate + kKept - kLanes, gate_up.row,
                                         out + (panel * m + first) * kWidth + half * kLanes, kWidth, dgate,
                                         dgate + kLanes, kWidth);
               }
             });
}

void swiglu_left(const float* left, const Right& right, int64_t inner, int64_t panels, int64_t k, float* gate_up,
                 float* out) {
  for_blocks(
      Left{left, 0, 0, k}, right, inner, panels, k, kRows / 2, 2, [](int64_t, int64_t, int64_t) { return nullptr; }, 0,
      [&](int64_t first, int64_t rows, int64_t panel, const float* block, int64_t) {
        const float* up = block + rows * kWidth;
        swiglu_rows<kWidth, false>(rows, block, up, kWidth, out + (panel * inner + first) * kWidth, kWidth);
        if (!gate_up) return;
        float* to = gate_up + (panel * kKeptRows * inner + first) * kWidth;
#if defined(TRM_FAST_PAIRS)
        for (int64_t i = 0; i < rows * kWidth; i += kLanes) store_pairs(block + i, up + i, to + i);
#else
        std::copy_n(block, rows * kWidth, to);
        std::copy_n(up, rows * kWidth, to + inner * kWidth);
#endif
      });
}

void swiglu_left_bwd(const Left& left, const Right& right, int64_t inner, int64_t panels, int64_t k,
                     const float* gate_up, float* out, float* dgate_up) {
  for_blocks(
      left, right, inner, panels, k, kRows, 1, [](int64_t, int64_t, int64_t) { return nullptr; }, 0,
      [&](int64_t first, int64_t rows, int64_t panel, const float* block, int64_t) {
        const float* gate = gate_up + (panel * kKeptRows * inner + first) * kWidth;
        float* dgate = dgate_up + (panel * 2 * inner + first) * kWidth;
        swiglu_rows_bwd<kWidth>(rows, block, kWidth, gate, gate + (kKeptRows - 1) * inner * kWidth, kWidth,
                                out + (panel * inner + first) * kWidth, kWidth, dgate, dgate + inner * kWidth, kWidth);
      });
}

}  // namespace
}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
