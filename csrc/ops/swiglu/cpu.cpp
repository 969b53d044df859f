// silu(gate) * up on a CPU. In a contiguous tensor, the gate and up of an outer index are two ranges of `half`
// elements, whatever the axis, so one loop serves every layout.
#include <algorithm>

#include "core/cpu/simd.h"
#include "ops/swiglu/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

template <class T>
void fwd_segment(const T* gate, const T* up, T* out, int64_t count) {
  using A = Accumulate<T>;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const A g = load(gate[i]);
    store(out + i, g * sigmoid(g) * load(up[i]));
  }
}

template <class T>
void bwd_segment(const T* dout, const T* gate, const T* up, T* dgate, T* dup, int64_t count) {
  using A = Accumulate<T>;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const A g = load(gate[i]), u = load(up[i]), d = load(dout[i]);
    const A s = sigmoid(g);
    store(dgate + i, d * u * s * (1 + g * (1 - s)));
    store(dup + i, d * g * s);
  }
}

// Calls body(output offset, gate offset, count) for each contiguous segment of the range.
template <class Body>
void for_segments(int64_t half, int64_t begin, int64_t end, const Body& body) {
  while (begin < end) {
    const int64_t outer = begin / half, stop = std::min(end, (outer + 1) * half);
    body(begin, begin + outer * half, stop - begin);
    begin = stop;
  }
}

template <class T>
void fwd(const T* gate_up, T* out, int64_t half, int64_t begin, int64_t end) {
  for_segments(half, begin, end, [&](int64_t to, int64_t from, int64_t count) {
    fwd_segment(gate_up + from, gate_up + from + half, out + to, count);
  });
}

template <class T>
void bwd(const T* dout, const T* gate_up, T* dgate_up, int64_t half, int64_t begin, int64_t end) {
  for_segments(half, begin, end, [&](int64_t to, int64_t from, int64_t count) {
    bwd_segment(dout + to, gate_up + from, gate_up + from + half, dgate_up + from, dgate_up + from + half, count);
  });
}

}  // namespace

template <>
const SwiGluKernels<float> Table<SwiGluKernels<float>>::kernels = {fwd<float>, bwd<float>};
template <>
const SwiGluKernels<double> Table<SwiGluKernels<double>>::kernels = {fwd<double>, bwd<double>};
template <>
const SwiGluKernels<BFloat16> Table<SwiGluKernels<BFloat16>>::kernels = {fwd<BFloat16>, bwd<BFloat16>};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
