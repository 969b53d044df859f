// The interface of the CPU kernels of the group mixer, except the matrix products: sums over groups of rows, and the
// addition of each group's row to its members.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// Row i of x belongs to the groups index[i * partitions + g], for g in [0, partitions). Another matrix has one row per
// group. Rows of both are `width` contiguous floats.
struct GroupKernels {
  // sums[group] += x[i] for each row i and each of its groups.
  void (*sum)(const float* x, const int32_t* index, int64_t partitions, int64_t rows, int64_t width, float* sums);
  // x[i] += values[group] for each row i and each of its groups.
  void (*spread)(const float* values, const int32_t* index, int64_t partitions, int64_t rows, int64_t width, float* x);
  // x[i] *= factors[i].
  void (*scale)(const float* factors, int64_t rows, int64_t width, float* x);
};

}  // namespace trm_fast
