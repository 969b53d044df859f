// What all CUDA kernels share: types, loads and stores, sums over lanes, launches. Tests emulate CUDA on a CPU with
// headers of the same names as CUDA's (tests/emulation/cuda_on_cpu). __CUDACC__ marks what only nvcc compiles.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "core/cuda/launch.h"

namespace trm_fast {
namespace cuda {

constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = 0x7fffffff;
// Enough blocks to fill the largest GPU. Grid-stride loops launch at most this many.
constexpr int64_t kGridStrideBlocks = 132 * 16;

__device__ inline float load(float x) { return x; }
__device__ inline float load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float load(__half x) { return __half2float(x); }
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }
__device__ inline void store(__half* to, float x) { *to = __float2half_rn(x); }

// V neighboring values, loaded and stored as one word. Its address is a multiple of its size.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

template <int V, class T>
__device__ inline void load_pack(const T* from, float (&to)[V]) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from);
#pragma unroll
  for (int k = 0; k < V; ++k) to[k] = load(pack.at[k]);
}

template <int V, class T>
__device__ inline void store_pack(T* to, const float (&from)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int k = 0; k < V; ++k) store(&pack.at[k], from[k]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// The number of values in the widest load, 16 bytes.
template <class T>
constexpr int kMaxPack = 16 / int(sizeof(T));

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Sums over each group of kLanes neighboring lanes; every lane gets its group's sum. All lanes must call it.
template <int kLanes, class Sum>
__device__ inline Sum lanes_sum(Sum value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

// Sums over all kThreads threads of a block; every thread gets the sum. kThreads is a multiple of the warp size. All
// threads must call it.
template <int kThreads>
__device__ inline float block_sum(float value) {
  constexpr int kWarps = kThreads / kWarp;
  value = lanes_sum<kWarp>(value);
  if constexpr (kWarps == 1) return value;
  __shared__ float partial[kWarps];
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sum += partial[i];
  __syncthreads();  // before the next call writes `partial`
  return sum;
}

// The block's dynamic shared memory, as a T.
template <class T>
__device__ inline T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char dynamic_memory[];
  return reinterpret_cast<T*>(dynamic_memory);
#else
  return reinterpret_cast<T*>(cuda_on_cpu::device.shared);
#endif
}

// Calls kernel<<<blocks, block, shared, stream>>>(arguments...), and casts void pointers to the kernel's types.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, dim3 block, size_t shared, cudaStream_t stream,
                   Arguments... arguments) {
  if (blocks > kMaxBlocks) return cudaErrorInvalidValue;
#ifdef __CUDACC__
  if (shared > 48 * 1024) {  // more than the default limit
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    if (const cudaError_t error = cudaFuncSetAttribute(kernel, attribute, int(shared))) return error;
  }
  kernel<<<unsigned(blocks), block, shared, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
#else
  return cuda_on_cpu::launch(unsigned(blocks), block, shared, [&] { kernel(static_cast<Parameters>(arguments)...); });
#endif
}

// Calls body(T{}) with the storage type.
template <class Body>
cudaError_t with_type(Type type, const Body& body) {
  switch (type) {
    case Type::float32: return body(float{});
    case Type::bfloat16: return body(__nv_bfloat16{});
    case Type::float16: return body(__half{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace trm_fast
