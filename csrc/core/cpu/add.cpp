// The CPU kernel that adds two arrays: states or gradients.
#include "core/cpu/simd.h"
#include "core/products.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

void add(const float* a, const float* b, float* to, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = a[i] + b[i];
}

}  // namespace

template <>
const AddKernels<float> Table<AddKernels<float>>::kernels = {add};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
