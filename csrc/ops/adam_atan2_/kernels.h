// The scalars of an optimizer step, for all devices, and its CPU kernels.
#pragma once

#include <cmath>

#include "core/scalar.h"

namespace trm_fast {

struct AdamOptions {
  Scalar lr, step, grad_scale;  // grad_scale.data is null without scaling
  double beta1, beta2, weight_decay, ema_decay, eps;
  bool adamw;
};

template <class T>
struct AdamNumbers {
  T beta1, beta2;     // the weights of the new values, 1 - beta
  T keep;             // 1 - lr * weight_decay
  T size;             // lr / (1 - beta1^t)
  T root;             // 1 / sqrt(1 - beta2^t)
  T ema, scale, eps;  // ema: the weight of the new value
};

template <class T>
TRM_FAST_ANYWHERE AdamNumbers<T> adam_numbers(const AdamOptions& o) {
  const double rate = value_of(o.lr), time = value_of(o.step);
  return {T(1 - o.beta1),
          T(1 - o.beta2),
          T(1 - rate * o.weight_decay),
          T(rate / (1 - std::pow(o.beta1, time))),
          T(1 / std::sqrt(1 - std::pow(o.beta2, time))),
          T(1 - o.ema_decay),
          T(o.grad_scale.data ? value_of(o.grad_scale) : 1.0),
          T(o.eps)};
}

// Updates elements [begin, end) of p, m, v and ema in place. `ema` may be null.
template <class T>
struct AdamKernels {
  void (*atan2)(T* p, const T* g, T* m, T* v, T* ema, const AdamNumbers<T>&, int64_t begin, int64_t end);
  void (*adamw)(T* p, const T* g, T* m, T* v, T* ema, const AdamNumbers<T>&, int64_t begin, int64_t end);
};

}  // namespace trm_fast
