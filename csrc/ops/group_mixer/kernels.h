// Sums over groups of rows, and rows that each member of a group reads, on a CPU.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// Row i of a matrix with `rows` rows belongs to the groups index[i * partitions + g], for g in [0, partitions): rows of
// a second matrix with one row per group. Rows of both are `width` floats, which are contiguous.
struct GroupKernels {
  // sums[group] += x[i] for each row i and each of its groups.
  void (*sum)(const float* x, const int32_t* index, int64_t partitions, int64_t rows, int64_t width, float* sums);
  // x[i] += values[group] for each row i and each of its groups.
  void (*spread)(const float* values, const int32_t* index, int64_t partitions, int64_t rows, int64_t width, float* x);
  // x[i] *= factors[i].
  void (*scale)(const float* factors, int64_t rows, int64_t width, float* x);
};

}  // namespace trm_fast
