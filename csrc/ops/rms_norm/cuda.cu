// Residual addition + RMSNorm over rows (a warp or a block a row) or over a strided axis (a block holds a stripe of
// columns, so that neighbouring threads read neighbouring addresses). The second pass reads from L1 what the first has
// read, so memory sees the floor: forward 2 elements (3 with a residual) and 4 bytes a row, backward 3; about 3 FLOP
// each, far below what a card does in that time. V values move as one load where size and addresses allow it, else V=1.
#include "core/cuda/device.cuh"
#include "ops/rms_norm/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kLine = 64;     // bytes of a row that one stripe covers: whole sectors
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

// kBlock threads a row; rows of one warp stand several in a block.
template <class T, int V, int kBlock>
__global__ void __launch_bounds__(kRowThreads)
    fwd_rows_kernel(const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y,
                    float* __restrict__ rstd, int64_t rows, int64_t size, float eps) {
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

// A block is kAcross threads of V columns each, and kDeep rows at once.
template <class T, int V>
struct Stripe {
  static constexpr int kColumns = kLine / int(sizeof(T));
  static constexpr int kAcross = kColumns / V, kDeep = kThreads / kAcross;

  // The sum over the depth of a block, for each of its columns, in every thread of the column.
  __device__ static void sum(float (&value)[V]) {
    __shared__ float partial[kDeep][kColumns];
#pragma unroll
    for (int k = 0; k < V; ++k) partial[threadIdx.y][threadIdx.x * V + k] = value[k];
    __syncthreads();
    for (int reach = kDeep / 2; reach > 0; reach /= 2) {
      if (int(threadIdx.y) < reach) {
#pragma unroll
        for (int k = 0; k < V; ++k) {
          partial[threadIdx.y][threadIdx.x * V + k] += partial[threadIdx.y + reach][threadIdx.x * V + k];
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < V; ++k) value[k] = partial[0][threadIdx.x * V + k];
  }
};

// A thread whose columns lie outside still takes part in the barriers.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    fwd_columns_kernel(const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y,
                       float* __restrict__ rstd, int64_t size, int64_t inner, int64_t stripes, float eps) {
  using S = Stripe<T, V>;
  const int64_t outer = blockIdx.x / stripes, column = blockIdx.x % stripes * S::kColumns + threadIdx.x * V;
  const bool inside = column < inner;
  const int64_t at = outer * size * inner + column;
  float t[V], scale[V] = {};
  for (int64_t row = threadIdx.y; inside && row < size; row += S::kDeep) {
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
  for (int64_t row = threadIdx.y; row < size; row += S::kDeep) {
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
  for (int64_t row = threadIdx.y; inside && row < size; row += S::kDeep) {
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
  for (int64_t row = threadIdx.y; row < size; row += S::kDeep) {
    load_pack<V>(dy + at + row * inner, d);
    load_pack<V>(y + at + row * inner, t);
#pragma unroll
    for (int k = 0; k < V; ++k) d[k] = scale[k] * (d[k] - t[k] * mean[k]);
    store_pack<V>(dx + at + row * inner, d);
  }
}

template <class T, int V>
cudaError_t fwd(const T* x, const T* residual, T* y, float* rstd, Axis axis, float eps, cudaStream_t stream) {
  if (axis.inner > 1) {
    using S = Stripe<T, V>;
    const int64_t stripes = (axis.inner + S::kColumns - 1) / S::kColumns;
    return launch(fwd_columns_kernel<T, V>, axis.outer * stripes, dim3(S::kAcross, S::kDeep), 0, stream, x, residual, y,
                  rstd, axis.size, axis.inner, stripes, eps);
  }
  const auto run = [&](auto kernel, int block) {
    const int deep = kRowThreads / block;
    return launch(kernel, (axis.outer + deep - 1) / deep, dim3(block, deep), 0, stream, x, residual, y, rstd,
                  axis.outer, axis.size, eps);
  };
  return axis.size <= 256 * V ? run(fwd_rows_kernel<T, V, 32>, 32) : run(fwd_rows_kernel<T, V, kRowThreads>, kRowThreads);
}

template <class T, int V>
cudaError_t bwd(const T* dy, const T* y, const float* rstd, T* dx, Axis axis, cudaStream_t stream) {
  if (axis.inner > 1) {
    using S = Stripe<T, V>;
    const int64_t stripes = (axis.inner + S::kColumns - 1) / S::kColumns;
    return launch(bwd_columns_kernel<T, V>, axis.outer * stripes, dim3(S::kAcross, S::kDeep), 0, stream, dy, y, rstd,
                  dx, axis.size, axis.inner, stripes);
  }
  const auto run = [&](auto kernel, int block) {
    const int deep = kRowThreads / block;
    return launch(kernel, (axis.outer + deep - 1) / deep, dim3(block, deep), 0, stream, dy, y, rstd, dx, axis.outer,
                  axis.size);
  };
  return axis.size <= 256 * V ? run(bwd_rows_kernel<T, V, 32>, 32) : run(bwd_rows_kernel<T, V, kRowThreads>, kRowThreads);
}

bool empty(const Axis& axis) { return axis.outer == 0 || axis.size == 0 || axis.inner == 0; }

// Whether every line of neighbours is made of whole packs.
template <class T>
bool wide(const Axis& axis) {
  return (axis.inner == 1 ? axis.size : axis.inner) % kWide<T> == 0;
}

}  // namespace

cudaError_t rms_norm_fwd(Type type, const void* x, const void* residual, void* y, float* rstd, Axis axis, float eps,
                         cudaStream_t stream) {
  if (empty(axis)) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const bool pack = wide<T>(axis) && aligned(x) && aligned(residual) && aligned(y);
    return (pack ? fwd<T, kWide<T>> : fwd<T, 1>)(static_cast<const T*>(x), static_cast<const T*>(residual),
                                                 static_cast<T*>(y), rstd, axis, eps, stream);
  });
}

cudaError_t rms_norm_bwd(Type type, const void* dy, const void* y, const float* rstd, void* dx, Axis axis,
                         cudaStream_t stream) {
  if (empty(axis)) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const bool pack = wide<T>(axis) && aligned(dy) && aligned(y) && aligned(dx);
    return (pack ? bwd<T, kWide<T>> : bwd<T, 1>)(static_cast<const T*>(dy), static_cast<const T*>(y), rstd,
                                                 static_cast<T*>(dx), axis, stream);
  });
}

}  // namespace cuda
}  // namespace trm_fast
