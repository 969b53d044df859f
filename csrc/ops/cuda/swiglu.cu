// silu(gate) * up, one thread an output element of a grid-stride loop; the index arithmetic is that of the CPU kernel.
#include <algorithm>

#include "ops/cuda/launch.h"
#include "ops/cuda/reduce.cuh"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 132 * 16;  // fills the largest card; the loop takes the rest

template <class T>
__global__ void __launch_bounds__(kThreads)
    fwd_kernel(const T* __restrict__ gate_up, T* __restrict__ out, int64_t half, int64_t count) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int64_t gate = i + i / half * half;
    const float g = load(gate_up[gate]);
    store(out + i, g / (1.0f + __expf(-g)) * load(gate_up[gate + half]));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    bwd_kernel(const T* __restrict__ dout, const T* __restrict__ gate_up, T* __restrict__ dgate_up, int64_t half,
               int64_t count) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int64_t gate = i + i / half * half;
    const float g = load(gate_up[gate]), d = load(dout[i]);
    const float sigmoid = 1.0f / (1.0f + __expf(-g));
    store(dgate_up + gate, d * load(gate_up[gate + half]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
    store(dgate_up + gate + half, d * g * sigmoid);
  }
}

int blocks_for(int64_t count) { return int(std::min((count + kThreads - 1) / kThreads, kMaxBlocks)); }

template <class T>
cudaError_t fwd(const void* gate_up, void* out, int64_t half, int64_t count, cudaStream_t stream) {
  fwd_kernel<T><<<blocks_for(count), kThreads, 0, stream>>>(static_cast<const T*>(gate_up), static_cast<T*>(out), half,
                                                            count);
  return cudaGetLastError();
}

template <class T>
cudaError_t bwd(const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count,
                cudaStream_t stream) {
  bwd_kernel<T><<<blocks_for(count), kThreads, 0, stream>>>(static_cast<const T*>(dout), static_cast<const T*>(gate_up),
                                                            static_cast<T*>(dgate_up), half, count);
  return cudaGetLastError();
}

}  // namespace

cudaError_t swiglu_fwd(Type type, const void* gate_up, void* out, int64_t half, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return (type == Type::float32 ? fwd<float> : fwd<__nv_bfloat16>)(gate_up, out, half, count, stream);
}

cudaError_t swiglu_bwd(Type type, const void* dout, const void* gate_up, void* dgate_up, int64_t half, int64_t count,
                       cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return (type == Type::float32 ? bwd<float> : bwd<__nv_bfloat16>)(dout, gate_up, dgate_up, half, count, stream);
}

}  // namespace cuda
}  // namespace trm_fast
