// The two products of the layer over channels: silu(gate h) (up h) as the first one's end, residual and norm as the
// second one's. A block makes kRows x kColumns of its product from steps of kDepth, double buffered; the second one's
// blocks hold whole rows, which the norm wants.
//
// Floor for 768 samples of 97 x 512, inner 1536: 234 and 117 GFLOP against 0.3 GB each: bound by the tensor cores.
#include "ops/cuda/mma.cuh"

namespace trm_fast {
namespace cuda {
namespace {

// A warp makes kTall x kWide tiles of 16 x 8; kAcross warps stand side by side, kDown below each other.
template <int kTall, int kWide, int kDown, int kAcross, int kDepth>
struct Product {
  static constexpr int kThreads = kDown * kAcross * kWarp;
  static constexpr int kRows = kDown * kTall * 16, kColumns = kAcross * kWide * 8;
  static constexpr int kStride = kDepth + 8;  // rows spread over all banks

  struct Shared {
    struct {
      Bf16 left[kRows * kStride], right[kColumns * kStride];
    } step[2];
  };

  float sum[kTall][kWide][4] = {};
  int lane = int(threadIdx.x) % kWarp;
  int row = int(threadIdx.x) / kWarp / kAcross * kTall * 16;      // of this warp in the block
  int column = int(threadIdx.x) / kWarp % kAcross * kWide * 8;

  // sum = left right^T: left (rows, depth), right (columns, depth), of which `last_row` is the last row of left.
  __device__ void run(Shared& shared, const Bf16* left, const Bf16* right, int64_t depth, int64_t last_row) {
    const auto fetch = [&](int64_t at) {
      auto& to = shared.step[at / kDepth % 2];
      copy_tile<kRows, kDepth, kThreads>(to.left, kStride, left + at, depth, last_row);
      copy_tile<kColumns, kDepth, kThreads>(to.right, kStride, right + at, depth, kColumns);
      commit();
    };
    fetch(0);
    for (int64_t at = 0; at < depth; at += kDepth) {
      if (at + kDepth < depth) {
        fetch(at + kDepth);
        wait<1>();
      } else {
        wait<0>();
      }
      __syncthreads();
      const auto& step = shared.step[at / kDepth % 2];
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        uint32_t a[kTall][4];
#pragma unroll
        for (int y = 0; y < kTall; ++y) load_a(a[y], step.left + (row + y * 16) * kStride + k, kStride, lane);
#pragma unroll
        for (int x = 0; x < kWide; x += 2) {
          uint32_t b[4];
          load_b(b, step.right + (column + x * 8) * kStride + k, kStride, lane);
#pragma unroll
          for (int y = 0; y < kTall; ++y) {
            mma(sum[y][x], a[y], b[0], b[1]);
            mma(sum[y][x + 1], a[y], b[2], b[3]);
          }
        }
      }
      __syncthreads();  // before the next fetch overwrites this step
    }
  }

  // Where this lane's sums [y][.][2 half] and [2 half + 1] stand in the block.
  __device__ int row_of(int y, int half) const { return row + y * 16 + half * 8 + lane / 4; }
  __device__ int column_of(int x) const { return column + x * 8 + lane % 4 * 2; }
};

using In = Product<4, 4, 2, 4, 64>;  // 128 rows, 64 inner units

__global__ void __launch_bounds__(In::kThreads)
    in_kernel(const Bf16* __restrict__ h, const Bf16* __restrict__ w_in, Bf16* __restrict__ active, int64_t rows,
              int64_t channels, int64_t inner) {
  const int64_t stripes = 2 * inner / In::kColumns;  // neighbouring blocks share their rows, which then come from L2
  const int64_t first = int64_t(blockIdx.x) / stripes * In::kRows, column = int64_t(blockIdx.x) % stripes * In::kColumns;
  In product;
  product.run(*dynamic_shared<In::Shared>(), h + first * channels, w_in + column * channels, channels,
              rows - first - 1);
#pragma unroll
  for (int y = 0; y < 4; ++y) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + product.row_of(y, half);
      if (row >= rows) continue;
#pragma unroll
      for (int x = 0; x < 4; x += 2) {  // gate, up
        const float(&gate)[4] = product.sum[y][x];
        const float(&up)[4] = product.sum[y][x + 1];
        const int64_t unit = (column + product.column + x * 8) / 2 + product.lane % 4 * 2;
        store_two(active + row * inner + unit, silu(gate[2 * half]) * up[2 * half],
                  silu(gate[2 * half + 1]) * up[2 * half + 1]);
      }
    }
  }
}

// 64 rows of 64 kWide channels: eight warps side by side.
template <int kWide>
using Out = Product<4, kWide, 1, 8, 32>;

template <int kWide>
__global__ void __launch_bounds__(Out<kWide>::kThreads)
    out_kernel(const Bf16* __restrict__ active, const Bf16* __restrict__ w_out, const Bf16* __restrict__ h,
               Bf16* __restrict__ y, int64_t rows, int64_t inner, float eps) {
  using P = Out<kWide>;
  constexpr int kWarps = P::kThreads / kWarp;
  __shared__ float partial[P::kRows][kWarps];
  const int64_t first = int64_t(blockIdx.x) * P::kRows;
  P product;
  product.run(*dynamic_shared<typename P::Shared>(), active + first * inner, w_out, inner, rows - first - 1);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int tile = i / 2, half = i % 2;
    const int64_t row = min(first + product.row_of(tile, half), rows - 1);
    float squares = 0;
#pragma unroll
    for (int x = 0; x < kWide; ++x) {
      float residual[2];
      load_pack<2>(h + row * P::kColumns + product.column_of(x), residual);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float& value = product.sum[tile][x][2 * half + k];
        value += residual[k];
        squares += value * value;
      }
    }
    squares = lanes_sum<4>(squares);
    if (product.lane % 4 == 0) partial[product.row_of(tile, half)][threadIdx.x / kWarp] = squares;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int tile = i / 2, half = i % 2, row = product.row_of(tile, half);
    if (first + row >= rows) continue;
    float squares = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) squares += partial[row][w];
    const float scale = rsqrtf(squares / float(P::kColumns) + eps);
#pragma unroll
    for (int x = 0; x < kWide; ++x) {
      const float(&value)[4] = product.sum[tile][x];
      store_two(y + (first + row) * P::kColumns + product.column_of(x), value[2 * half] * scale,
                value[2 * half + 1] * scale);
    }
  }
}

}  // namespace

cudaError_t mlp_in(const void* h, const void* w_in, void* active, int64_t rows, int64_t channels, int64_t inner,
                   cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (channels % 64 || inner % 64) return cudaErrorInvalidValue;
  const int64_t blocks = (rows + In::kRows - 1) / In::kRows * (2 * inner / In::kColumns);
  return launch(in_kernel, blocks, In::kThreads, sizeof(In::Shared), stream, static_cast<const Bf16*>(h),
                static_cast<const Bf16*>(w_in), static_cast<Bf16*>(active), rows, channels, inner);
}

cudaError_t mlp_out(const void* active, const void* w_out, const void* h, void* y, int64_t rows, int64_t channels,
                    int64_t inner, float eps, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (inner % 32) return cudaErrorInvalidValue;
  const auto run = [&](auto wide) {
    using P = Out<wide()>;
    return launch(out_kernel<wide()>, (rows + P::kRows - 1) / P::kRows, P::kThreads, sizeof(typename P::Shared), stream,
                  static_cast<const Bf16*>(active), static_cast<const Bf16*>(w_out), static_cast<const Bf16*>(h),
                  static_cast<Bf16*>(y), rows, inner, eps);
  };
  switch (channels) {
    case 128: return run(std::integral_constant<int, 2>{});
    case 256: return run(std::integral_constant<int, 4>{});
    case 384: return run(std::integral_constant<int, 6>{});
    case 512: return run(std::integral_constant<int, 8>{});
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace cuda
}  // namespace trm_fast
