// The optimizer's step on a GPU.
#pragma once

#include "core/cuda/launch.h"
#include "ops/adam_atan2_/kernels.h"

namespace trm_fast {
namespace cuda {

// One parameter (float32) with all that belongs to it. `ema` and `copy` may be null. The copy holds the new weights in
// low precision: rows of `columns` values, `stride` apart; with group > 0 the first half of the rows (the gate) and the
// second (up) alternate in groups of so many.
struct AdamTensor {
  float* p;
  const float* g;
  float *m, *v, *ema;
  void* copy;
  int64_t count, columns, stride, half;
  int32_t group, aligned;  // aligned: set by adam_atan2_
};

// One launch for up to 256 tensors, another for each 256 more.
cudaError_t adam_atan2_(const AdamTensor* tensors, int64_t count, const AdamOptions&, Type copy, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
