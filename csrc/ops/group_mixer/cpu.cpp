// The CPU kernels of the group mixer except the matrix products: sums over groups of rows, and their backward.
#include "ops/group_mixer/kernels.h"

#include "core/cpu/simd.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

void sum(const float* x, const int32_t* index, int64_t partitions, int64_t rows, int64_t width, float* sums) {
  for (int64_t i = 0; i < rows; ++i, x += width, index += partitions) {
    for (int64_t g = 0; g < partitions; ++g) {
      float* to = sums + index[g] * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) to[c] += x[c];
    }
  }
}

void spread(const float* values, const int32_t* index, int64_t partitions, int64_t rows, int64_t width, float* x) {
  for (int64_t i = 0; i < rows; ++i, x += width, index += partitions) {
    for (int64_t g = 0; g < partitions; ++g) {
      const float* from = values + index[g] * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) x[c] += from[c];
    }
  }
}

void scale(const float* factors, int64_t rows, int64_t width, float* x) {
  for (int64_t i = 0; i < rows; ++i, x += width) {
    const float factor = factors[i];
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) x[c] *= factor;
  }
}

}  // namespace

template <>
const GroupKernels Table<GroupKernels>::kernels = {sum, spread, scale};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
