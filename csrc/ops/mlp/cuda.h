// The interface of the channel MLP on a GPU, with packed weights (core/cuda/launch.h).
#pragma once

#include "core/cuda/launch.h"

namespace trm_fast {
namespace cuda {

// active (rows, inner) = silu(gate h) (up h); w_in (2 inner, channels). channels % 64 == 0, inner % 64 == 0.
cudaError_t mlp_in(Type, const void* h, const void* w_in, void* active, int64_t rows, int64_t channels, int64_t inner,
                   cudaStream_t);
// y = norm(h + down active) over channels; w_out (channels, inner). channels is 128, 256, 384 or 512; inner % 64 == 0.
// rstd (rows) may be null.
cudaError_t mlp_out(Type, const void* active, const void* w_out, const void* h, void* y, float* rstd, int64_t rows,
                    int64_t channels, int64_t inner, float eps, cudaStream_t);
// From d, the gradient of h + down active, computes dgate_up (rows, 2 inner), with its columns in the order of w_in's
// rows, and recomputes `active`.
cudaError_t mlp_in_bwd(Type, const void* d, const void* h, const void* w_in, const void* w_out, void* active,
                       void* dgate_up, int64_t rows, int64_t channels, int64_t inner, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
