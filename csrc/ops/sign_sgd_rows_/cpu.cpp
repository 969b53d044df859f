// SignSGD for one row of an embedding table on a CPU: sums the row's gradients in batch order, then takes one step.
#include <algorithm>

#include "core/cpu/simd.h"
#include "ops/sign_sgd_rows_/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

template <class T>
void row(T* weight, const T* row_grads, const int64_t* grads, int64_t count, int64_t columns, T decay_factor, T lr) {
  for (int64_t block = 0; block < columns; block += kColumns) {
    const int64_t width = std::min(kColumns, columns - block);
    T sum[kColumns] = {};
    for (int64_t k = 0; k < count; ++k) {
      const T* g = row_grads + grads[k] * columns + block;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) sum[c] += g[c];
    }
    T* w = weight + block;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) w[c] = w[c] * decay_factor - lr * (T(0 < sum[c]) - T(sum[c] < 0));
  }
}

}  // namespace

template <>
const SignSgdKernels<float> Table<SignSgdKernels<float>>::kernels = {row<float>};
template <>
const SignSgdKernels<double> Table<SignSgdKernels<double>>::kernels = {row<double>};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
