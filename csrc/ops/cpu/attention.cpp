// What attention needs beside matrix products: softmax over rows, its gradient, rotary positions.
#include "ops/cpu/simd.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

void softmax(float* scores, int64_t rows, int64_t columns, int64_t step, float scale) {
  for (int64_t row = 0; row < rows; ++row, scores += step) {
    float largest = scores[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < columns; ++i) largest = scores[i] > largest ? scores[i] : largest;
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < columns; ++i) {
      scores[i] = exp((scores[i] - largest) * scale);
      total += scores[i];
    }
    const float share = 1 / total;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) scores[i] *= share;
  }
}

void softmax_bwd(float* dscores, const float* scores, int64_t rows, int64_t columns, int64_t step, float scale) {
  for (int64_t row = 0; row < rows; ++row, dscores += step, scores += step) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < columns; ++i) dot += dscores[i] * scores[i];
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) dscores[i] = (dscores[i] - dot) * scores[i] * scale;
  }
}

// The transpose of a rotation matrix that may carry different angles in its two halves.
template <bool kBack>
void rotate(float* x, int64_t stride, const float* cos, const float* sin, int64_t tokens, int64_t heads,
            int64_t width, int64_t begin, int64_t end) {
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
