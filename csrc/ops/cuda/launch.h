// The CUDA kernels' interface: raw pointers and a stream in, an error out, no torch. Outputs are contiguous.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "ops/kernels.h"

namespace trm_fast {
namespace cuda {

enum class Type { float32, bfloat16, float16 };

// `residual` may be null.
cudaError_t rms_norm_fwd(Type, const void* x, const void* residual, void* y, float* rstd, Axis, float eps, cudaStream_t);
cudaError_t rms_norm_bwd(Type, const void* dy, const void* y, const float* rstd, void* dx, Axis, cudaStream_t);

// `half` as in SwiGluKernels; `count` elements of the output.
cudaError_t swiglu_fwd(Type, const void* gate_up, void* out, int64_t half, int64_t count, cudaStream_t);
cudaError_t swiglu_bwd(Type, const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count,
                       cudaStream_t);

// As StablemaxKernels. A label outside [0, classes) that is not ignored gives NaN: the host never waits to look.
cudaError_t stablemax_fwd(Type, const void* logits, double* probabilities, Axis, cudaStream_t);
cudaError_t stablemax_bwd(Type, const double* dprobabilities, const void* logits, void* dlogits, Axis, cudaStream_t);
cudaError_t stablemax_cross_entropy_fwd(Type, const void* logits, const int64_t* labels, double* loss, double* total,
                                        int64_t rows, int64_t classes, int64_t ignore, cudaStream_t);
cudaError_t stablemax_cross_entropy_bwd(Type, const double* dloss, const void* logits, const int64_t* labels,
                                        const double* total, void* dlogits, int64_t rows, int64_t classes,
                                        int64_t ignore, cudaStream_t);

// A number that lives on the device: a graph's replay reads its value of that moment. `data` may be null where said.
struct Scalar {
  enum class Kind : int32_t { float32, float64, int32, int64 };
  const void* data;
  Kind kind;
};

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

struct AdamOptions {
  Scalar lr, step, grad_scale;  // grad_scale.data may be null
  double beta1, beta2, weight_decay, ema_decay, eps;
  bool adamw;
  Type copy;
};

// One launch for up to 256 tensors, another for each 256 more.
cudaError_t adam_atan2_(const AdamTensor* tensors, int64_t count, const AdamOptions&, cudaStream_t);

// weight (rows, columns), row_grads (batch, columns). Ids outside [0, rows) are passed over.
cudaError_t sign_sgd_rows_(float* weight, const float* row_grads, const int64_t* ids, Scalar lr, double weight_decay,
                           int64_t rows, int64_t columns, int64_t batch, cudaStream_t);

// The layers of the fused network, bfloat16 or float16. Weights are packed (trm_fast/ops/packed.py): padded with zeros,
// 16 bytes aligned, the rows of gate and up in turns of 8. `inner` is the padded one. No kernel for a token count whose
// padding is 0, or where the widths are not multiples as said.
inline int64_t padded_tokens(int64_t tokens) {
  for (const int64_t size : {32, 64, 96, 112, 128}) {
    if (tokens <= size) return size;
  }
  return 0;
}
// y = norm(h + down silu(gate h) (up h)) over tokens, h = z + injection (may be null): (batch, tokens, channels).
// w_in (2 inner, padded tokens), w_out (padded tokens, inner). channels % 128 == 0, inner % 64 == 0. rstd (batch,
// channels) may be null.
cudaError_t token_mixer(Type, const void* z, const void* injection, const void* w_in, const void* w_out, void* y,
                        float* rstd, int64_t batch, int64_t tokens, int64_t channels, int64_t inner, float eps,
                        cudaStream_t);
// From dy: the gradient dh; the gradient d before the norm and the sum x = z + injection, each (batch, tokens,
// channels). Without an injection x is not written.
cudaError_t token_mixer_bwd(Type, const void* dy, const void* z, const void* injection, const void* y,
                            const float* rstd, const void* w_in, const void* w_out, void* dh, void* d, void* x,
                            int64_t batch, int64_t tokens, int64_t channels, int64_t inner, cudaStream_t);
// From d and x: sums (slabs, 3, inner, padded tokens), to be added up over the slabs: the gradients of gate, up and
// down, the last one transposed. What stands beyond the last token means nothing. At most batch * channels / 32 slabs;
// how many there best are:
inline int64_t token_mixer_slabs(int64_t batch, int64_t channels, int64_t inner) {
  // Two blocks an SM of the largest card, whatever the card: so that sums come out the same on all.
  return std::min(batch * (channels / 32), std::max<int64_t>(1, 264 * 64 / inner));
}
cudaError_t token_mixer_bwd_weights(Type, const void* d, const void* x, const void* w_in, const void* w_out,
                                    float* sums, int64_t slabs, int64_t batch, int64_t tokens, int64_t channels,
                                    int64_t inner, cudaStream_t);
// active (rows, inner) = silu(gate h) (up h); w_in (2 inner, channels). channels % 64 == 0, inner % 64 == 0.
cudaError_t mlp_in(Type, const void* h, const void* w_in, void* active, int64_t rows, int64_t channels, int64_t inner,
                   cudaStream_t);
// y = norm(h + down active) over channels; w_out (channels, inner). channels is 128, 256, 384 or 512; inner % 64 == 0.
// rstd (rows) may be null.
cudaError_t mlp_out(Type, const void* active, const void* w_out, const void* h, void* y, float* rstd, int64_t rows,
                    int64_t channels, int64_t inner, float eps, cudaStream_t);
// From the gradient d of h + down active: active once more, and dgate_up (rows, 2 inner) in the order of w_in's rows.
cudaError_t mlp_in_bwd(Type, const void* d, const void* h, const void* w_in, const void* w_out, void* active,
                       void* dgate_up, int64_t rows, int64_t channels, int64_t inner, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
