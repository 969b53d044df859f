// The channel MLP on a GPU. Forward: the first product ends with silu(gate h) (up h), the second with residual and
// norm. Blocks of the second hold whole rows, because the norm needs them. Backward: one kernel computes the gradients
// of gate and up and recomputes the hidden units; cuBLAS computes the other three products.
//
// Lower bound for 768 examples of 97 x 512, inner 1536: forward 234 and 117 GFLOP, and 0.3 GB each; backward 351 GFLOP
// and 0.8 GB (of which cuBLAS's products read 0.7 GB). All are bound by the tensor cores.
#include "core/cuda/product.cuh"
#include "ops/mlp/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

template <class T>
using In = Product<T, 4, 4, 2, 4, 64>;  // 128 rows, 64 inner units

template <class T>
__global__ void __launch_bounds__(In<T>::kThreads)
    in_kernel(const T* __restrict__ h, const T* __restrict__ w_in, T* __restrict__ active, int64_t rows,
              int64_t channels, int64_t inner) {
  using P = In<T>;
  const int64_t stripes = 2 * inner / P::kColumns;  // neighboring blocks read the same rows, from L2
  const int64_t first = int64_t(blockIdx.x) / stripes * P::kRows, column = int64_t(blockIdx.x) % stripes * P::kColumns;
  P product;
  product.run(*dynamic_shared<typename P::Shared>(), h + first * channels, w_in + column * channels, channels, channels,
              rows - first - 1);
#pragma unroll
  for (int y = 0; y < 4; ++y) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + product.output_row(y, half);
      if (row >= rows) continue;
#pragma unroll
      for (int x = 0; x < 4; x += 2) {  // gate, up
        const float (&gate)[4] = product.sum[y][x];
        const float (&up)[4] = product.sum[y][x + 1];
        const int64_t unit = (column + product.column + x * 8) / 2 + product.lane % 4 * 2;
        store_two(active + row * inner + unit, silu(gate[2 * half]) * up[2 * half],
                  silu(gate[2 * half + 1]) * up[2 * half + 1]);
      }
    }
  }
}

// 64 rows of 64 * kTilesAcross channels. Eight warps compute different columns.
template <class T, int kTilesAcross>
using Out = Product<T, 4, kTilesAcross, 1, 8, 32>;

template <class T, int kTilesAcross>
__global__ void __launch_bounds__(Out<T, kTilesAcross>::kThreads, 1)
    out_kernel(const T* __restrict__ active, const T* __restrict__ w_out, const T* __restrict__ h, T* __restrict__ y,
               float* __restrict__ rstd, int64_t rows, int64_t inner, float eps) {
  using P = Out<T, kTilesAcross>;
  constexpr int kWarps = P::kThreads / kWarp;
  __shared__ float partial[P::kRows][kWarps];
  const int64_t first = int64_t(blockIdx.x) * P::kRows;
  P product;
  product.run(*dynamic_shared<typename P::Shared>(), active + first * inner, w_out, inner, inner, rows - first - 1);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int tile = i / 2, half = i % 2;
    const int64_t row = min(first + product.output_row(tile, half), rows - 1);
    float squares = 0;
#pragma unroll
    for (int x = 0; x < kTilesAcross; ++x) {
      float residual[2];
      load_pack<2>(h + row * P::kColumns + product.output_column(x), residual);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float& value = product.sum[tile][x][2 * half + k];
        value += residual[k];
        squares += value * value;
      }
    }
    squares = lanes_sum<4>(squares);
    if (product.lane % 4 == 0) partial[product.output_row(tile, half)][threadIdx.x / kWarp] = squares;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int tile = i / 2, half = i % 2, row = product.output_row(tile, half);
    if (first + row >= rows) continue;
    float squares = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) squares += partial[row][w];
    const float scale = rsqrtf(squares / float(P::kColumns) + eps);
    if (rstd && product.output_column(0) == 0) rstd[first + row] = scale;
#pragma unroll
    for (int x = 0; x < kTilesAcross; ++x) {
      const float (&value)[4] = product.sum[tile][x];
      store_two(y + (first + row) * P::kColumns + product.output_column(x), value[2 * half] * scale,
                value[2 * half + 1] * scale);
    }
  }
}

// Has the same rows and inner units as In, so that a lane has the same elements in both products.
template <class T>
using Back = Product<T, 4, 2, 2, 4, 64, false>;

template <class T>
__global__ void __launch_bounds__(In<T>::kThreads)
    in_bwd_kernel(const T* __restrict__ d, const T* __restrict__ h, const T* __restrict__ w_in,
                  const T* __restrict__ w_out, T* __restrict__ active, T* __restrict__ dgate_up, int64_t rows,
                  int64_t channels, int64_t inner) {
  using P = In<T>;
  const int64_t stripes = inner / Back<T>::kColumns;
  const int64_t first = int64_t(blockIdx.x) / stripes * P::kRows, stripe = int64_t(blockIdx.x) % stripes;
  P gate_up;
  gate_up.run(*dynamic_shared<typename P::Shared>(), h + first * channels, w_in + stripe * P::kColumns * channels,
              channels, channels, rows - first - 1);
  Back<T> back;
  back.run(*dynamic_shared<typename Back<T>::Shared>(), d + first * channels, w_out + stripe * Back<T>::kColumns, inner,
           channels, rows - first - 1);
#pragma unroll
  for (int y = 0; y < 4; ++y) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + gate_up.output_row(y, half);
      if (row >= rows) continue;
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        const float (&gate)[4] = gate_up.sum[y][2 * x];
        const float (&up)[4] = gate_up.sum[y][2 * x + 1];
        const float (&dactive)[4] = back.sum[y][x];
        const int i = 2 * half;
        const GateUpGradient low(gate[i], up[i], dactive[i]), high(gate[i + 1], up[i + 1], dactive[i + 1]);
        store_two(active + row * inner + stripe * Back<T>::kColumns + back.output_column(x), low.active, high.active);
        T* to = dgate_up + row * 2 * inner + stripe * P::kColumns + gate_up.output_column(2 * x);
        store_two(to, low.dgate, high.dgate);
        store_two(to + 8, low.dup, high.dup);
      }
    }
  }
}

}  // namespace

cudaError_t mlp_in(Type type, const void* h, const void* w_in, void* active, int64_t rows, int64_t channels,
                   int64_t inner, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (channels % 64 || inner % 64) return cudaErrorInvalidValue;
  return with_half_type(type, [&](auto value) {
    using T = decltype(value);
    using P = In<T>;
    const int64_t blocks = (rows + P::kRows - 1) / P::kRows * (2 * inner / P::kColumns);
    return launch(in_kernel<T>, blocks, P::kThreads, sizeof(typename P::Shared), stream, h, w_in, active, rows,
                  channels, inner);
  });
}

cudaError_t mlp_out(Type type, const void* active, const void* w_out, const void* h, void* y, float* rstd, int64_t rows,
                    int64_t channels, int64_t inner, float eps, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (inner % 32) return cudaErrorInvalidValue;
  return with_half_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto tiles) {
      using P = Out<T, tiles()>;
      return launch(out_kernel<T, tiles()>, (rows + P::kRows - 1) / P::kRows, P::kThreads, sizeof(typename P::Shared),
                    stream, active, w_out, h, y, rstd, rows, inner, eps);
    };
    switch (channels) {
      case 128: return run(std::integral_constant<int, 2>{});
      case 256: return run(std::integral_constant<int, 4>{});
      case 384: return run(std::integral_constant<int, 6>{});
      case 512: return run(std::integral_constant<int, 8>{});
      default: return cudaErrorInvalidValue;
    }
  });
}

cudaError_t mlp_in_bwd(Type type, const void* d, const void* h, const void* w_in, const void* w_out, void* active,
                       void* dgate_up, int64_t rows, int64_t channels, int64_t inner, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (channels % 64 || inner % 64) return cudaErrorInvalidValue;
  return with_half_type(type, [&](auto value) {
    using T = decltype(value);
    using P = In<T>;
    constexpr size_t kShared = std::max(sizeof(typename P::Shared), sizeof(typename Back<T>::Shared));
    const int64_t blocks = (rows + P::kRows - 1) / P::kRows * (inner / Back<T>::kColumns);
    return launch(in_bwd_kernel<T>, blocks, P::kThreads, kShared, stream, d, h, w_in, w_out, active, dgate_up, rows,
                  channels, inner);
  });
}

}  // namespace cuda
}  // namespace trm_fast
