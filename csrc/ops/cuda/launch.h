// The CUDA kernels' interface: raw pointers and a stream in, an error out, no torch. Outputs are contiguous.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/kernels.h"

namespace trm_fast {
namespace cuda {

enum class Type { float32, bfloat16 };

// `residual` may be null.
cudaError_t rms_norm_fwd(Type, const void* x, const void* residual, void* y, float* rstd, Axis, float eps, cudaStream_t);
cudaError_t rms_norm_bwd(Type, const void* dy, const void* y, const float* rstd, void* dx, Axis, cudaStream_t);

// `half` as in SwiGluKernels; `count` elements of the output.
cudaError_t swiglu_fwd(Type, const void* gate_up, void* out, int64_t half, int64_t count, cudaStream_t);
cudaError_t swiglu_bwd(Type, const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count,
                       cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
