// The optimizer step of a range of parameters on a CPU: reads and writes every number once.
#include "core/cpu/simd.h"
#include "ops/adam_atan2_/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

template <class T, bool kAtan2, bool kEma>
void update(T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v, T* __restrict ema,
            const AdamNumbers<T>& numbers, int64_t begin, int64_t end) {
  const AdamNumbers<T> n = numbers;  // a copy, so that the compiler knows that the stores do not change it
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const T gradient = g[i] * n.scale;
    const T mean = m[i] + n.beta1 * (gradient - m[i]);
    const T square = v[i] + n.beta2 * (gradient * gradient - v[i]);
    const T root = sqrt(square) * n.root;
    const T direction = kAtan2 ? atan2_right(mean, root) : mean / (root + n.eps);
    const T parameter = p[i] * n.keep - n.size * direction;
    m[i] = mean;
    v[i] = square;
    p[i] = parameter;
    if constexpr (kEma) ema[i] += n.ema * (parameter - ema[i]);
  }
}

template <class T, bool kAtan2>
void step(T* p, const T* g, T* m, T* v, T* ema, const AdamNumbers<T>& numbers, int64_t begin, int64_t end) {
  (ema ? update<T, kAtan2, true> : update<T, kAtan2, false>)(p, g, m, v, ema, numbers, begin, end);
}

}  // namespace

template <>
const AdamKernels<float> Table<AdamKernels<float>>::kernels = {step<float, true>, step<float, false>};
template <>
const AdamKernels<double> Table<AdamKernels<double>>::kernels = {step<double, true>, step<double, false>};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
