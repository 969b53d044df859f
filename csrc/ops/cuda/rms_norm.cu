// Residual addition + RMSNorm over rows (one block a row) or over a strided axis (a block holds a stripe of columns, so
// that neighbouring threads read neighbouring addresses). The second pass reads from L1/L2 what the first has read.
#include <algorithm>

#include "ops/cuda/launch.h"
#include "ops/cuda/reduce.cuh"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kStripe = 32;  // columns of a stripe: 64 or 128 bytes, whole sectors
constexpr int kDepth = 8;    // rows that a block reads at once

template <class T>
__device__ inline float sum_at(const T* x, const T* residual, int64_t i) {
  return load(x[i]) + (residual ? load(residual[i]) : 0.0f);
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    fwd_rows_kernel(const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y,
                    float* __restrict__ rstd, int64_t size, float eps) {
  const int64_t at = int64_t(blockIdx.x) * size;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    const float t = sum_at(x, residual, at + i);
    squares += t * t;
  }
  const float scale = rsqrtf(block_sum<kThreads>(squares) / float(size) + eps);
  if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) store(y + at + i, sum_at(x, residual, at + i) * scale);
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    bwd_rows_kernel(const T* __restrict__ dy, const T* __restrict__ y, const float* __restrict__ rstd,
                    T* __restrict__ dx, int64_t size) {
  const int64_t at = int64_t(blockIdx.x) * size;
  float dot = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) dot += load(dy[at + i]) * load(y[at + i]);
  const float mean = block_sum<kThreads>(dot) / float(size), scale = rstd[blockIdx.x];
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    store(dx + at + i, scale * (load(dy[at + i]) - load(y[at + i]) * mean));
  }
}

// The sum over the depth of a block, for each of its columns, in every thread of the column.
__device__ inline float column_sum(float value) {
  __shared__ float partial[kDepth][kStripe];
  partial[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kDepth; ++i) sum += partial[i][threadIdx.x];
  return sum;
}

// A thread whose column lies outside still takes part in the barrier.
template <class T>
__global__ void __launch_bounds__(kStripe * kDepth)
    fwd_columns_kernel(const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y,
                       float* __restrict__ rstd, int64_t size, int64_t inner, int64_t stripes, float eps) {
  const int64_t outer = blockIdx.x / stripes, column = blockIdx.x % stripes * kStripe + threadIdx.x;
  const bool inside = column < inner;
  const int64_t at = outer * size * inner + column;
  float squares = 0;
  for (int64_t row = threadIdx.y; inside && row < size; row += kDepth) {
    const float t = sum_at(x, residual, at + row * inner);
    squares += t * t;
  }
  const float scale = rsqrtf(column_sum(squares) / float(size) + eps);
  if (!inside) return;
  if (threadIdx.y == 0) rstd[outer * inner + column] = scale;
  for (int64_t row = threadIdx.y; row < size; row += kDepth) {
    store(y + at + row * inner, sum_at(x, residual, at + row * inner) * scale);
  }
}

template <class T>
__global__ void __launch_bounds__(kStripe * kDepth)
    bwd_columns_kernel(const T* __restrict__ dy, const T* __restrict__ y, const float* __restrict__ rstd,
                       T* __restrict__ dx, int64_t size, int64_t inner, int64_t stripes) {
  const int64_t outer = blockIdx.x / stripes, column = blockIdx.x % stripes * kStripe + threadIdx.x;
  const bool inside = column < inner;
  const int64_t at = outer * size * inner + column;
  float dot = 0;
  for (int64_t row = threadIdx.y; inside && row < size; row += kDepth) {
    dot += load(dy[at + row * inner]) * load(y[at + row * inner]);
  }
  const float mean = column_sum(dot) / float(size);
  if (!inside) return;
  const float scale = rstd[outer * inner + column];
  for (int64_t row = threadIdx.y; row < size; row += kDepth) {
    store(dx + at + row * inner, scale * (load(dy[at + row * inner]) - load(y[at + row * inner]) * mean));
  }
}

constexpr int64_t kMaxBlocks = 0x7fffffff;

// Calls rows(integral threads) or columns(stripes, blocks) by the axis' layout.
template <class Rows, class Columns>
cudaError_t by_layout(const Axis& axis, const Rows& rows, const Columns& columns) {
  if (axis.outer == 0 || axis.size == 0 || axis.inner == 0) return cudaSuccess;
  const int64_t stripes = (axis.inner + kStripe - 1) / kStripe;
  if ((axis.inner == 1 ? axis.outer : axis.outer * stripes) > kMaxBlocks) return cudaErrorInvalidValue;
  if (axis.inner == 1) {
    rows(int(axis.outer));
  } else {
    columns(int(axis.outer * stripes), stripes);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t fwd(const T* x, const T* residual, T* y, float* rstd, Axis axis, float eps, cudaStream_t stream) {
  return by_layout(
      axis,
      [&](int blocks) {
        if (axis.size <= 256) {
          fwd_rows_kernel<T, 32><<<blocks, 32, 0, stream>>>(x, residual, y, rstd, axis.size, eps);
        } else {
          fwd_rows_kernel<T, 128><<<blocks, 128, 0, stream>>>(x, residual, y, rstd, axis.size, eps);
        }
      },
      [&](int blocks, int64_t stripes) {
        fwd_columns_kernel<T><<<blocks, dim3(kStripe, kDepth), 0, stream>>>(x, residual, y, rstd, axis.size, axis.inner,
                                                                           stripes, eps);
      });
}

template <class T>
cudaError_t bwd(const T* dy, const T* y, const float* rstd, T* dx, Axis axis, cudaStream_t stream) {
  return by_layout(
      axis,
      [&](int blocks) {
        if (axis.size <= 256) {
          bwd_rows_kernel<T, 32><<<blocks, 32, 0, stream>>>(dy, y, rstd, dx, axis.size);
        } else {
          bwd_rows_kernel<T, 128><<<blocks, 128, 0, stream>>>(dy, y, rstd, dx, axis.size);
        }
      },
      [&](int blocks, int64_t stripes) {
        bwd_columns_kernel<T><<<blocks, dim3(kStripe, kDepth), 0, stream>>>(dy, y, rstd, dx, axis.size, axis.inner,
                                                                           stripes);
      });
}

}  // namespace

cudaError_t rms_norm_fwd(Type type, const void* x, const void* residual, void* y, float* rstd, Axis axis, float eps,
                         cudaStream_t stream) {
  if (type == Type::float32) {
    return fwd(static_cast<const float*>(x), static_cast<const float*>(residual), static_cast<float*>(y), rstd, axis,
               eps, stream);
  }
  using T = __nv_bfloat16;
  return fwd(static_cast<const T*>(x), static_cast<const T*>(residual), static_cast<T*>(y), rstd, axis, eps, stream);
}

cudaError_t rms_norm_bwd(Type type, const void* dy, const void* y, const float* rstd, void* dx, Axis axis,
                         cudaStream_t stream) {
  if (type == Type::float32) {
    return bwd(static_cast<const float*>(dy), static_cast<const float*>(y), rstd, static_cast<float*>(dx), axis,
               stream);
  }
  using T = __nv_bfloat16;
  return bwd(static_cast<const T*>(dy), static_cast<const T*>(y), rstd, static_cast<T*>(dx), axis, stream);
}

}  // namespace cuda
}  // namespace trm_fast
