// The optimizer step: its coefficients on all devices, and the interface of its CPU kernels.
#pragma once

#include <cmath>

#include "core/scalar.h"

namespace trm_fast {

struct AdamOptions {
  Scalar lr, step, grad_scale;  // grad_scale.data is null without scaling
  double beta1, beta2, weight_decay, ema_decay, eps;
  bool adamw;
};

// The coefficients of step t.
template <class T>
struct AdamCoefficients {
  T one_minus_beta1, one_minus_beta2;
  T decay_factor;            // 1 - lr * weight_decay
  T step_size;               // lr / (1 - beta1^t)
  T rsqrt_bias_correction2;  // 1 / sqrt(1 - beta2^t)
  T one_minus_ema_decay, grad_scale, eps;
};

template <class T>
TRM_FAST_HOST_DEVICE AdamCoefficients<T> adam_coefficients(const AdamOptions& o) {
  const double lr = read_scalar(o.lr), step = read_scalar(o.step);
  return {T(1 - o.beta1),
          T(1 - o.beta2),
          T(1 - lr * o.weight_decay),
          T(lr / (1 - std::pow(o.beta1, step))),
          T(1 / std::sqrt(1 - std::pow(o.beta2, step))),
          T(1 - o.ema_decay),
          T(o.grad_scale.data ? read_scalar(o.grad_scale) : 1.0),
          T(o.eps)};
}

// Updates elements [begin, end) of p, m, v and ema in place. `ema` may be null.
template <class T>
struct AdamKernels {
  void (*atan2)(T* p, const T* g, T* m, T* v, T* ema, const AdamCoefficients<T>&, int64_t begin, int64_t end);
  void (*adamw)(T* p, const T* g, T* m, T* v, T* ema, const AdamCoefficients<T>&, int64_t begin, int64_t end);
};

}  // namespace trm_fast
