// The launchers with C linkage, for ctypes.
#include "ops/cuda/launch.h"

using namespace trm_fast;

extern "C" {
int rms_norm_fwd(int type, const void* x, const void* residual, void* y, float* rstd, int64_t outer, int64_t size,
                 int64_t inner, float eps) {
  return cuda::rms_norm_fwd(cuda::Type(type), x, residual, y, rstd, {outer, size, inner}, eps, nullptr);
}
int rms_norm_bwd(int type, const void* dy, const void* y, const float* rstd, void* dx, int64_t outer, int64_t size,
                 int64_t inner) {
  return cuda::rms_norm_bwd(cuda::Type(type), dy, y, rstd, dx, {outer, size, inner}, nullptr);
}
int swiglu_fwd(int type, const void* gate_up, void* out, int64_t half, int64_t count) {
  return cuda::swiglu_fwd(cuda::Type(type), gate_up, out, half, count, nullptr);
}
int swiglu_bwd(int type, const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count) {
  return cuda::swiglu_bwd(cuda::Type(type), dout, gate_up, dgate_up, half, count, nullptr);
}
}
