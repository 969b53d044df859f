// The optimizer step on a GPU.
#pragma once

#include "core/cuda/launch.h"
#include "ops/adam_atan2_/kernels.h"

namespace trm_fast {
namespace cuda {

// One parameter (float32), its gradient, moments and average. `ema` and `copy` may be null. The copy receives the new
// weights in a lower precision: rows of `columns` values, `stride` apart. With group > 0, groups of so many rows of the
// first half (the gate) and of the second (up) alternate.
struct AdamTensor {
  float* p;
  const float* g;
  float *m, *v, *ema;
  void* copy;
  int64_t count, columns, stride, half;
  int32_t group, aligned;  // aligned: set by adam_atan2_
};

// Launches one kernel for every 256 tensors. `copy` is the type of the copies.
cudaError_t adam_atan2_(const AdamTensor* tensors, int64_t count, const AdamOptions&, Type copy, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
