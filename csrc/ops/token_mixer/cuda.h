// The interface of the token mixer on a GPU, with packed weights (core/cuda/launch.h).
#pragma once

#include <algorithm>

#include "core/cuda/launch.h"

namespace trm_fast {
namespace cuda {

// y = norm(h + down silu(gate h) (up h)) over tokens, h = z + injection (may be null): (batch, tokens, channels).
// w_in (2 inner, padded tokens), w_out (padded tokens, inner). channels % 128 == 0, inner % 64 == 0. rstd (batch,
// channels) may be null.
cudaError_t token_mixer(Type, const void* z, const void* injection, const void* w_in, const void* w_out, void* y,
                        float* rstd, int64_t batch, int64_t tokens, int64_t channels, int64_t inner, float eps,
                        cudaStream_t);
// From dy, computes dh, the gradient d before the norm, and x = z + injection, each (batch, tokens, channels). If
// `injection` is null, x is not written and may be null.
cudaError_t token_mixer_bwd(Type, const void* dy, const void* z, const void* injection, const void* y,
                            const float* rstd, const void* w_in, const void* w_out, void* dh, void* d, void* x,
                            int64_t batch, int64_t tokens, int64_t channels, int64_t inner, cudaStream_t);
// From d and x, computes partial sums (slabs, 3, inner, padded tokens). Their sum over the slabs is the gradients of
// gate, up and transposed down; values beyond the last token are undefined. There may be at most batch * channels / 32
// slabs. token_mixer_slabs returns the number to use.
inline int64_t token_mixer_slabs(int64_t batch, int64_t channels, int64_t inner) {
  // Two blocks for each SM of the largest GPU, on any GPU, so that all GPUs compute the same sums.
  return std::min(batch * (channels / 32), std::max<int64_t>(1, 264 * 64 / inner));
}
cudaError_t token_mixer_bwd_weights(Type, const void* d, const void* x, const void* w_in, const void* w_out,
                                    float* sums, int64_t slabs, int64_t batch, int64_t tokens, int64_t channels,
                                    int64_t inner, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
