// The launchers with C linkage, for ctypes. Scalars come as 0-dim float32, as the recipe has them.
#include "ops/cuda/launch.h"

using namespace trm_fast;
using cuda::Scalar;
using cuda::Type;

static Scalar scalar(const float* data) { return {data, Scalar::Kind::float32}; }

extern "C" {
int rms_norm_fwd(int type, const void* x, const void* residual, void* y, float* rstd, int64_t outer, int64_t size,
                 int64_t inner, float eps) {
  return cuda::rms_norm_fwd(Type(type), x, residual, y, rstd, {outer, size, inner}, eps, nullptr);
}
int rms_norm_bwd(int type, const void* dy, const void* y, const float* rstd, void* dx, int64_t outer, int64_t size,
                 int64_t inner) {
  return cuda::rms_norm_bwd(Type(type), dy, y, rstd, dx, {outer, size, inner}, nullptr);
}
int swiglu_fwd(int type, const void* gate_up, void* out, int64_t half, int64_t count) {
  return cuda::swiglu_fwd(Type(type), gate_up, out, half, count, nullptr);
}
int swiglu_bwd(int type, const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count) {
  return cuda::swiglu_bwd(Type(type), dout, gate_up, dgate_up, half, count, nullptr);
}
int stablemax_fwd(int type, const void* logits, double* probabilities, int64_t outer, int64_t size, int64_t inner) {
  return cuda::stablemax_fwd(Type(type), logits, probabilities, {outer, size, inner}, nullptr);
}
int stablemax_bwd(int type, const double* dprobabilities, const void* logits, void* dlogits, int64_t outer,
                  int64_t size, int64_t inner) {
  return cuda::stablemax_bwd(Type(type), dprobabilities, logits, dlogits, {outer, size, inner}, nullptr);
}
int stablemax_cross_entropy_fwd(int type, const void* logits, const int64_t* labels, double* loss, double* total,
                                int64_t rows, int64_t classes, int64_t ignore) {
  return cuda::stablemax_cross_entropy_fwd(Type(type), logits, labels, loss, total, rows, classes, ignore, nullptr);
}
int stablemax_cross_entropy_bwd(int type, const double* dloss, const void* logits, const int64_t* labels,
                                const double* total, void* dlogits, int64_t rows, int64_t classes, int64_t ignore) {
  return cuda::stablemax_cross_entropy_bwd(Type(type), dloss, logits, labels, total, dlogits, rows, classes, ignore,
                                           nullptr);
}
int adam_atan2_(int copy_type, const cuda::AdamTensor* tensors, int64_t count, const float* lr, const float* step,
                const float* grad_scale, double beta1, double beta2, double weight_decay, double ema_decay, double eps,
                int64_t adamw) {
  return cuda::adam_atan2_(tensors, count,
                           {scalar(lr), scalar(step), scalar(grad_scale), beta1, beta2, weight_decay, ema_decay, eps,
                            adamw != 0, Type(copy_type)},
                           nullptr);
}
int sign_sgd_rows_(int, float* weight, const float* row_grads, const int64_t* ids, const float* lr,
                   double weight_decay, int64_t rows, int64_t columns, int64_t batch) {
  return cuda::sign_sgd_rows_(weight, row_grads, ids, scalar(lr), weight_decay, rows, columns, batch, nullptr);
}
int token_mixer(int, const void* z, const void* injection, const void* w_in, const void* w_out, void* y, int64_t batch,
                int64_t tokens, int64_t channels, int64_t inner, float eps) {
  return cuda::token_mixer(z, injection, w_in, w_out, y, batch, tokens, channels, inner, eps, nullptr);
}
int mlp_in(int, const void* h, const void* w_in, void* active, int64_t rows, int64_t channels, int64_t inner) {
  return cuda::mlp_in(h, w_in, active, rows, channels, inner, nullptr);
}
int mlp_out(int, const void* active, const void* w_out, const void* h, void* y, int64_t rows, int64_t channels,
            int64_t inner, float eps) {
  return cuda::mlp_out(active, w_out, h, y, rows, channels, inner, eps, nullptr);
}
}
