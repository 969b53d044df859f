// Residual addition and RMSNorm on a CPU. Units: reduction_units(axis). In fwd y may be x, in bwd dx may be dy;
// `residual` may be null.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

template <class T>
struct RmsNormKernels {
  void (*fwd)(const T* x, const T* residual, T* y, Accumulate<T>* rstd, Axis, double eps, int64_t begin, int64_t end);
  void (*bwd)(const T* dy, const T* y, const Accumulate<T>* rstd, T* dx, Axis, int64_t begin, int64_t end);
};

}  // namespace trm_fast
