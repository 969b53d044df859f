// The interface of residual addition and RMSNorm on a GPU.
#pragma once

#include "core/cuda/launch.h"

namespace trm_fast {
namespace cuda {

// fwd computes y = rms_norm(x + residual) along the axis; `residual` may be null. `rstd` has one value per line of the
// axis.
cudaError_t rms_norm_fwd(Type, const void* x, const void* residual, void* y, float* rstd, Axis, float eps,
                         cudaStream_t);
cudaError_t rms_norm_bwd(Type, const void* dy, const void* y, const float* rstd, void* dx, Axis, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
