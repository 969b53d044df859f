// Residual addition and RMSNorm on a GPU, over rows (a warp or a block per row) or over a strided axis (a block per
// stripe of columns, so that neighboring threads read neighboring addresses). The second pass reads from L1. A load
// takes V values if sizes and addresses allow it, otherwise one.
//
// Lower bound per element: the forward moves 2 elements (3 with a residual), the backward 3, and both take about 3
// FLOP; each row adds 4 bytes. Both are bound by memory.
#include "core/cuda/device.cuh"
#include "ops/rms_norm/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kLine = 64;  // bytes of a row in one stripe, which are whole sectors
constexpr int kThreads = 256, kRowThreads = 128;

template <int V, class T>
__device__ inline void load_sum(const T* x, const T* residual, int64_t i, float (&t)[V]) {
  load_pack<V>(x + i, t);
  if (!residual) return;
  float r[V];
  load_pack<V>(residual + i, r);
#pragma unroll
  for (int k = 0; k < V; ++k) t[k] += r[k];
}

template <int V>
__device__ inline float dot(const float (&a)[V], const float (&b)[V]) {
  float sum = 0;
#pragma unroll
  for (int k = 0; k < V; ++k) sum += a[k] * b[k];
  return sum;
}

// kBlock threads work on a row. If kBlock is one warp, a block has several rows.
template <class T, int V, int kBlock>
__global__ void __launch_bounds__(kRowThreads)
    fwd_rows_kernel(const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y,
                    float* __restrict__ rstd, float eps, int64_t rows, int64_t size) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y, at = row * size;
  if (row >= rows) return;
  float squares = 0, t[V];
  for (int64_t i = threadIdx.x * V; i < size; i += kBlock * V) {
    load_sum<V>(x, residual, at + i, t);
    squares += dot(t, t);
  }
  const float scale = rsqrtf(block_sum<kBlock>(squares) / float(size) + eps);
  if (threadIdx.x == 0) rstd[row] = scale;
  for (int64_t i = threadIdx.x * V; i < size; i += kBlock * V) {
    load_sum<V>(x, residual, at + i, t);
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] *= scale;
    store_pack<V>(y + at + i, t);
  }
}

template <class T, int V, int kBlock>
__global__ void __launch_bounds__(kRowThreads)
    bwd_rows_kernel(const T* __restrict__ dy, const T* __restrict__ y, const float* __restrict__ rstd,
                    T* __restrict__ dx, int64_t rows, int64_t size) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y, at = row * size;
  if (row >= rows) return;
  float products = 0, d[V], t[V];
  for (int64_t i = threadIdx.x * V; i < size; i += kBlock * V) {
    load_pack<V>(dy + at + i, d);
    load_pack<V>(y + at + i, t);
    products += dot(d, t);
  }
  const float mean = block_sum<kBlock>(products) / float(size), scale = rstd[row];
  for (int64_t i = threadIdx.x * V; i < size; i += kBlock * V) {
    load_pack<V>(dy + at + i, d);
    load_pack<V>(y + at + i, t);
#pragma unroll
    for (int k = 0; k < V; ++k) d[k] = scale * (d[k] - t[k] * mean);
    store_pack<V>(dx + at + i, d);
  }
}

// A block has kThreadsAcross threads side by side, with V columns each, and works on kThreadsDown rows at a time.
template <class T, int V>
struct Stripe {
  static constexpr int kColumns = kLine / int(sizeof(T));
  static constexpr int kThreadsAcross = kColumns / V, kThreadsDown = kThreads / kThreadsAcross;

  // Sums each column over the rows of threads; every thread of the column gets the sum.
  __device__ static void sum(float (&value)[V]) {
    __shared__ float partial[kThreadsDown][kColumns];
#pragma unroll
    for (int k = 0; k < V; ++k) partial[threadIdx.y][threadIdx.x * V + k] = value[k];
    __syncthreads();
    for (int offset = kThreadsDown / 2; offset > 0; offset /= 2) {
      if (int(threadIdx.y) < offset) {
#pragma unroll
        for (int k = 0; k < V; ++k) {
          partial[threadIdx.y][threadIdx.x * V + k] += partial[threadIdx.y + offset][threadIdx.x * V + k];
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < V; ++k) value[k] = partial[0][threadIdx.x * V + k];
  }
};

// Threads whose columns are outside the tensor must also reach the barriers.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    fwd_columns_kernel(const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y,
                       float* __restrict__ rstd, float eps, int64_t size, int64_t inner, int64_t stripes) {
  using S = Stripe<T, V>;
  const int64_t outer = blockIdx.x / stripes, column = blockIdx.x % stripes * S::kColumns + threadIdx.x * V;
  const bool inside = column < inner;
  const int64_t at = outer * size * inner + column;
  float t[V], scale[V] = {};
  for (int64_t row = threadIdx.y; inside && row < size; row += S::kThreadsDown) {
    load_sum<V>(x, residual, at + row * inner, t);
#pragma unroll
    for (int k = 0; k < V; ++k) scale[k] += t[k] * t[k];
  }
  S::sum(scale);
  if (!inside) return;
#pragma unroll
  for (int k = 0; k < V; ++k) scale[k] = rsqrtf(scale[k] / float(size) + eps);
  if (threadIdx.y == 0) {
#pragma unroll
    for (int k = 0; k < V; ++k) rstd[outer * inner + column + k] = scale[k];
  }
  for (int64_t row = threadIdx.y; row < size; row += S::kThreadsDown) {
    load_sum<V>(x, residual, at + row * inner, t);
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] *= scale[k];
    store_pack<V>(y + at + row * inner, t);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    bwd_columns_kernel(const T* __restrict__ dy, const T* __restrict__ y, const float* __restrict__ rstd,
                       T* __restrict__ dx, int64_t size, int64_t inner, int64_t stripes) {
  using S = Stripe<T, V>;
  const int64_t outer = blockIdx.x / stripes, column = blockIdx.x % stripes * S::kColumns + threadIdx.x * V;
  const bool inside = column < inner;
  const int64_t at = outer * size * inner + column;
  float d[V], t[V], mean[V] = {};
  for (int64_t row = threadIdx.y; inside && row < size; row += S::kThreadsDown) {
    load_pack<V>(dy + at + row * inner, d);
    load_pack<V>(y + at + row * inner, t);
#pragma unroll
    for (int k = 0; k < V; ++k) mean[k] += d[k] * t[k];
  }
  S::sum(mean);
  if (!inside) return;
  float scale[V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    mean[k] /= float(size);
    scale[k] = rstd[outer * inner + column + k];
  }
  for (int64_t row = threadIdx.y; row < size; row += S::kThreadsDown) {
    load_pack<V>(dy + at + row * inner, d);
    load_pack<V>(y + at + row * inner, t);
#pragma unroll
    for (int k = 0; k < V; ++k) d[k] = scale[k] * (d[k] - t[k] * mean[k]);
    store_pack<V>(dx + at + row * inner, d);
  }
}

// Launches `columns` for a strided axis, or for rows either `warps` (a warp per row) or `blocks` (a block per row).
// `first` are the arguments before the sizes.
template <class T, int V, class Columns, class Rows, class... First>
cudaError_t launch_along(const Axis& axis, cudaStream_t stream, Columns columns, Rows warps, Rows blocks,
                         First... first) {
  if (axis.inner > 1) {
    using S = Stripe<T, V>;
    const int64_t stripes = (axis.inner + S::kColumns - 1) / S::kColumns;
    return launch(columns, axis.outer * stripes, dim3(S::kThreadsAcross, S::kThreadsDown), 0, stream, first...,
                  axis.size, axis.inner, stripes);
  }
  const bool warp_per_row = axis.size <= 256 * V;
  const int block = warp_per_row ? kWarp : kRowThreads, rows_per_block = kRowThreads / block;
  return launch(warp_per_row ? warps : blocks, (axis.outer + rows_per_block - 1) / rows_per_block,
                dim3(block, rows_per_block), 0, stream, first..., axis.outer, axis.size);
}

// Calls body(T{}, V), where V is an integral constant: 1 unless contiguous lines consist of whole aligned packs.
template <class Body>
cudaError_t with_packs(Type type, const Axis& axis, std::initializer_list<const void*> pointers, const Body& body) {
  if (axis.outer == 0 || axis.size == 0 || axis.inner == 0) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    constexpr int kPack = kMaxPack<decltype(zero)>;
    const bool whole = (axis.inner == 1 ? axis.size : axis.inner) % kPack == 0;
    if (whole && std::all_of(pointers.begin(), pointers.end(), aligned)) {
      return body(zero, std::integral_constant<int, kPack>{});
    }
    return body(zero, std::integral_constant<int, 1>{});
  });
}

}  // namespace

cudaError_t rms_norm_fwd(Type type, const void* x, const void* residual, void* y, float* rstd, Axis axis, float eps,
                         cudaStream_t stream) {
  return with_packs(type, axis, {x, residual, y}, [&](auto zero, auto values) {
    using T = decltype(zero);
    constexpr int V = values();
    return launch_along<T, V>(axis, stream, fwd_columns_kernel<T, V>, fwd_rows_kernel<T, V, kWarp>,
                              fwd_rows_kernel<T, V, kRowThreads>, x, residual, y, rstd, eps);
  });
}

cudaError_t rms_norm_bwd(Type type, const void* dy, const void* y, const float* rstd, void* dx, Axis axis,
                         cudaStream_t stream) {
  return with_packs(type, axis, {dy, y, dx}, [&](auto zero, auto values) {
    using T = decltype(zero);
    constexpr int V = values();
    return launch_along<T, V>(axis, stream, bwd_columns_kernel<T, V>, bwd_rows_kernel<T, V, kWarp>,
                              bwd_rows_kernel<T, V, kRowThreads>, dy, y, rstd, dx);
  });
}

}  // namespace cuda
}  // namespace trm_fast
