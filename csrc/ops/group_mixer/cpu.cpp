// The CPU kernels of the group mixer except the matrix products: sums over groups of rows, and their backward.
#include "ops/group_mixer/kernels.h"

#include <algorithm>

#include "core/cpu/register_block.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

// Rows that are summed over one partition before the next, so that they are in L1 for all partitions.
constexpr int64_t kSumRows = 64;

// `sum` for one partition and `vectors` vectors of each row. While consecutive rows are in the same group, its sum
// stays in registers.
template <int kVectors>
inline void sum_partition(const float* x, const int32_t* index, int64_t partitions, int64_t rows, int64_t width,
                          float* sums) {
  Vector total[kVectors] = {};
  float* to = nullptr;
  for (int64_t i = 0; i < rows; ++i, x += width, index += partitions) {
    float* next = sums + *index * width;
    if (next != to) {
      for (int v = 0; to && v < kVectors; ++v) store_vector(to + v * kLanes, total[v]);
      for (int v = 0; v < kVectors; ++v) total[v] = load_vector(next + v * kLanes);
      to = next;
    }
    for (int v = 0; v < kVectors; ++v) total[v] += load_vector(x + v * kLanes);
  }
  for (int v = 0; to && v < kVectors; ++v) store_vector(to + v * kLanes, total[v]);
}

void sum(const float* x, const int32_t* index, int64_t partitions, int64_t rows, int64_t width, float* sums) {
  for (; rows > 0; rows -= kSumRows, x += kSumRows * width, index += kSumRows * partitions) {
    const int64_t count = std::min(rows, kSumRows);
    for (int64_t g = 0; g < partitions; ++g) {
      int64_t column = 0;
      for (; column + kWidth <= width; column += kWidth)
        sum_partition<2>(x + column, index + g, partitions, count, width, sums + column);
      for (; column + kLanes <= width; column += kLanes)
        sum_partition<1>(x + column, index + g, partitions, count, width, sums + column);
      for (int64_t i = 0; i < count && column < width; ++i) {
        const float* from = x + i * width;
        float* to = sums + index[i * partitions + g] * width;
        for (int64_t c = column; c < width; ++c) to[c] += from[c];
      }
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
