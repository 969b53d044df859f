// silu(gate) * up on a GPU, in a grid-stride loop over V output elements at a time. V is 1 unless the halves consist of
// whole packs. Lower bound per output element: the forward moves 3 elements, the backward 5, and both take one
// exponential and one division. Both are bound by memory.
#include "core/cuda/device.cuh"
#include "ops/swiglu/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

// Iterates over the output, V elements per thread and step, and tracks the offset of their gate, because halves of gate
// and up alternate in memory. Each thread divides only once: a division per pack would take longer than all other work.
template <int V>
struct GridStride {
  const int64_t half, step, remainder;  // remainder: step % half
  int64_t i, offset, gate;              // offset: that of i in its half

  __device__ GridStride(int64_t half, int64_t remainder)
      : half(half), step(int64_t(gridDim.x) * kThreads * V), remainder(remainder),
        i((int64_t(blockIdx.x) * kThreads + threadIdx.x) * V), offset(i % half), gate(2 * i - offset) {}
  __device__ void next() {
    i += step;
    offset += remainder;
    if (offset >= half) offset -= half;
    gate = 2 * i - offset;
  }
};

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    fwd_kernel(const T* __restrict__ gate_up, T* __restrict__ out, int64_t half, int64_t remainder, int64_t count) {
  for (GridStride<V> at(half, remainder); at.i < count; at.next()) {
    float g[V], u[V];
    load_pack<V>(gate_up + at.gate, g);
    load_pack<V>(gate_up + at.gate + half, u);
#pragma unroll
    for (int k = 0; k < V; ++k) u[k] *= g[k] * sigmoid(g[k]);
    store_pack<V>(out + at.i, u);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    bwd_kernel(const T* __restrict__ dout, const T* __restrict__ gate_up, T* __restrict__ dgate_up, int64_t half,
               int64_t remainder, int64_t count) {
  for (GridStride<V> at(half, remainder); at.i < count; at.next()) {
    float g[V], u[V], d[V];
    load_pack<V>(gate_up + at.gate, g);
    load_pack<V>(gate_up + at.gate + half, u);
    load_pack<V>(dout + at.i, d);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const float s = sigmoid(g[k]);
      u[k] *= d[k] * s * (1.0f + g[k] * (1.0f - s));
      d[k] *= g[k] * s;
    }
    store_pack<V>(dgate_up + at.gate, u);
    store_pack<V>(dgate_up + at.gate + half, d);
  }
}

// Launches `packs`, which loads kPack elements at a time, if the size of the halves and the alignment of the pointers
// allow it, otherwise `singles`.
template <int kPack, class... Parameters, class... Pointers>
cudaError_t launch_grid_stride(void (*packs)(Parameters...), void (*singles)(Parameters...), int64_t half,
                               int64_t count, cudaStream_t stream, Pointers... pointers) {
  const bool pack = half % kPack == 0 && (aligned(pointers) && ...);
  const int64_t step = int64_t(kThreads) * (pack ? kPack : 1);
  const int64_t blocks = std::min((count + step - 1) / step, kGridStrideBlocks);
  return launch(pack ? packs : singles, blocks, kThreads, 0, stream, pointers..., half, blocks * step % half, count);
}

}  // namespace

cudaError_t swiglu_fwd(Type type, const void* gate_up, void* out, int64_t half, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_grid_stride<kMaxPack<T>>(fwd_kernel<T, kMaxPack<T>>, fwd_kernel<T, 1>, half, count, stream, gate_up,
                                           out);
  });
}

cudaError_t swiglu_bwd(Type type, const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count,
                       cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    return launch_grid_stride<kMaxPack<T>>(bwd_kernel<T, kMaxPack<T>>, bwd_kernel<T, 1>, half, count, stream, dout,
                                           gate_up, dgate_up);
  });
}

}  // namespace cuda
}  // namespace trm_fast
