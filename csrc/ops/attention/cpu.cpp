// The CPU kernels of attention except the matrix products: softmax over rows, its gradient, and rotary positions.
#include <algorithm>
#include <limits>

#include "core/cpu/simd.h"
#include "ops/attention/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

void softmax(float* scores, int64_t rows, int64_t columns, int64_t step, float scale,
             const AttentionMask<float>& mask) {
  const bool* valid = mask.valid;
  for (int64_t row = 0; row < rows; ++row, scores += step) {
    const int64_t visible = std::min(columns, mask.first + row);
    if (valid) {
#pragma omp simd
      for (int64_t i = 0; i < visible; ++i) scores[i] = valid[i] ? scores[i] : -std::numeric_limits<float>::infinity();
    }
    float largest = mask.self_score ? mask.self_score[row] : scores[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < visible; ++i) largest = scores[i] > largest ? scores[i] : largest;
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < visible; ++i) {
      scores[i] = exp((scores[i] - largest) * scale);
      total += scores[i];
    }
    if (mask.self_score) total += mask.self_score[row] = exp((mask.self_score[row] - largest) * scale);
    const float inverse_total = 1 / total;
#pragma omp simd
    for (int64_t i = 0; i < visible; ++i) scores[i] *= inverse_total;
    if (mask.self_score) mask.self_score[row] *= inverse_total;
    std::fill(scores + visible, scores + columns, 0.0f);
  }
}

void softmax_bwd(float* dscores, const float* scores, int64_t rows, int64_t columns, int64_t step, float scale,
                 const AttentionMask<float>& mask, float* dself_score) {
  for (int64_t row = 0; row < rows; ++row, dscores += step, scores += step) {
    const int64_t visible = std::min(columns, mask.first + row);
    float dot = mask.self_score ? mask.self_score[row] * dself_score[row] : 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < visible; ++i) dot += dscores[i] * scores[i];
#pragma omp simd
    for (int64_t i = 0; i < visible; ++i) dscores[i] = (dscores[i] - dot) * scores[i] * scale;
    if (mask.self_score) dself_score[row] = (dself_score[row] - dot) * mask.self_score[row] * scale;
    std::fill(dscores + visible, dscores + columns, 0.0f);
  }
}

// If kBack, applies the transposed rotation matrix. The two halves may have different angles.
template <bool kBack>
void rotate(float* x, int64_t stride, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t width,
            int64_t begin, int64_t end) {
  const int64_t half = width / 2;
  for (int64_t row = begin; row < end; ++row) {
    const float* c = cos + row % tokens * width;
    const float* s = sin + row % tokens * width;
    for (int64_t head = 0; head < heads; ++head) {
      float* a = x + row * stride + head * width;
      float* b = a + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float left = a[i], right = b[i];
        a[i] = left * c[i] + (kBack ? right * s[i + half] : -right * s[i]);
        b[i] = right * c[i + half] + (kBack ? -left * s[i] : left * s[i + half]);
      }
    }
  }
}

}  // namespace

template <>
const AttentionKernels<float> Table<AttentionKernels<float>>::kernels = {softmax, softmax_bwd, rotate<false>,
                                                                         rotate<true>};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
