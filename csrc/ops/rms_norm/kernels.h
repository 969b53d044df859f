// The interface of residual addition and RMSNorm on a CPU. The units are those of reduction_units(axis). In fwd, y may
// be x, and `residual` may be null. In bwd, dx may be dy.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

template <class T>
struct RmsNormKernels {
  void (*fwd)(const T* x, const T* residual, T* y, Accumulate<T>* rstd, Axis, double eps, int64_t begin, int64_t end);
  void (*bwd)(const T* dy, const T* y, const Accumulate<T>* rstd, T* dx, Axis, int64_t begin, int64_t end);
};

}  // namespace trm_fast
