// The interface of the optimizer step on a GPU.
#pragma once

#include "core/cuda/launch.h"
#include "ops/adam_atan2_/kernels.h"

namespace trm_fast {
namespace cuda {

// One float32 parameter, its gradient and its optimizer state: `count` values each. `ema` and `copy` may be null.
// `copy` receives the new weights in a lower precision, in rows of `columns` values, `stride` values apart. If group >
// 0, the copy interleaves the rows of gate and up in groups of `group` rows; each of the two has `half` rows.
struct AdamTensor {
  float* p;
  const float* g;
  float *m, *v, *ema;
  void* copy;
  int64_t count, columns, stride, half;
  int32_t group, aligned;  // aligned: whether 16-byte loads are possible (set by adam_atan2_)
};

// Updates all tensors in place, in one launch per 256 tensors. `copy` is the type of the copies.
cudaError_t adam_atan2_(const AdamTensor* tensors, int64_t count, const AdamOptions&, Type copy, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
