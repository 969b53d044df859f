// The optimizer's step on a CPU.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

template <class T>
struct AdamNumbers {
  T beta1, beta2;      // the weights of the new values, 1 - beta
  T keep;              // 1 - lr * weight_decay
  T size;              // lr / (1 - beta1^t)
  T root;              // 1 / sqrt(1 - beta2^t)
  T ema, scale, eps;   // ema: the weight of the new value
};

// Units: elements. `ema` may be null.
template <class T>
struct AdamKernels {
  void (*atan2)(T* p, const T* g, T* m, T* v, T* ema, const AdamNumbers<T>&, int64_t begin, int64_t end);
  void (*adamw)(T* p, const T* g, T* m, T* v, T* ema, const AdamNumbers<T>&, int64_t begin, int64_t end);
};

}  // namespace trm_fast
