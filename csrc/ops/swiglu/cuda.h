// The interface of SwiGLU's activation, silu(gate) * up, on a GPU.
#pragma once

#include "core/cuda/launch.h"

namespace trm_fast {
namespace cuda {

// `half` is as in SwiGluKernels. `count` is the number of elements of the output.
cudaError_t swiglu_fwd(Type, const void* gate_up, void* out, int64_t half, int64_t count, cudaStream_t);
cudaError_t swiglu_bwd(Type, const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count,
                       cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
