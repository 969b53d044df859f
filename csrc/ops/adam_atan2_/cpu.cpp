// The optimizer step on a CPU, in one pass over a range of elements of a parameter.
#include "core/cpu/simd.h"
#include "ops/adam_atan2_/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

template <class T, bool kAtan2, bool kEma>
void update(T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v, T* __restrict ema,
            const AdamCoefficients<T>& coefficients, int64_t begin, int64_t end) {
  const AdamCoefficients<T> c = coefficients;  // a copy, which the stores cannot alias
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const T gradient = g[i] * c.grad_scale;
    const T mean = m[i] + c.one_minus_beta1 * (gradient - m[i]);
    const T square = v[i] + c.one_minus_beta2 * (gradient * gradient - v[i]);
    const T denominator = sqrt(square) * c.rsqrt_bias_correction2;
    const T direction = kAtan2 ? atan2_nonnegative_x(mean, denominator) : mean / (denominator + c.eps);
    const T parameter = p[i] * c.decay_factor - c.step_size * direction;
    m[i] = mean;
    v[i] = square;
    p[i] = parameter;
    if constexpr (kEma) ema[i] += c.one_minus_ema_decay * (parameter - ema[i]);
  }
}

template <class T, bool kAtan2>
void step(T* p, const T* g, T* m, T* v, T* ema, const AdamCoefficients<T>& coefficients, int64_t begin, int64_t end) {
  (ema ? update<T, kAtan2, true> : update<T, kAtan2, false>)(p, g, m, v, ema, coefficients, begin, end);
}

}  // namespace

template <>
const AdamKernels<float> Table<AdamKernels<float>>::kernels = {step<float, true>, step<float, false>};
template <>
const AdamKernels<double> Table<AdamKernels<double>>::kernels = {step<double, true>, step<double, false>};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
