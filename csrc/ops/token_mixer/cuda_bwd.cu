// The backward of the token mixer, y = norm(h + down silu(gate h) (up h)) over tokens. This kernel computes the
// gradient of the states, and that of cuda_bwd_weights.cu the gradients of the weights. Both recompute the hidden units
// and never store them. As in the forward, a block has all tokens of some channels of one example, and channels are the
// rows of the products, 16 per warp. h and d, the gradient before the norm, stay in registers as A; the gradients of
// gate and up become A without leaving registers.
//
// Lower bound of both kernels for 768 examples of 97 x 512, inner 512: 312 GFLOP (78 for gate and up, 39 for the
// gradient of the hidden units, 78 for that of the states, 117 for those of the weights), 0.31 GB read and 0.08 GB
// written. The second kernel repeats 117 GFLOP, so there are 429 (495 with 97 padded to 112), and 0.3 GB pass between
// the two. Storing the hidden units and their gradients would write and read 1.2 GB, which takes about as long.
#include "core/cuda/mma.cuh"
#include "ops/token_mixer/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kChannels = 16 * kWarps, kInner = 16;  // per block; inner units per step
constexpr int kStateStride = kChannels + 8, kOutStride = kInner + 8;
constexpr int kPacks = kChannels / 8, kRows = kThreads / kPacks;  // threads per token; tokens per load

template <class T, int kTokens>
struct Shared {
  static constexpr int kInStride = kTokens + 8;
  T state[kTokens * kStateStride];
  float dot[kWarps][kChannels];
  struct {
    T in[2 * kInner * kInStride];  // gate and up, interleaved in groups of 8 rows
    T out[kTokens * kOutStride];
  } weights[2];
};

template <class T, int kTokens>
__global__ void __launch_bounds__(kThreads, kTokens <= 96 ? 3 : 2)
    token_mixer_bwd_kernel(const T* __restrict__ dy, const T* __restrict__ z, const T* __restrict__ injection,
                           const T* __restrict__ y, const float* __restrict__ rstd, const T* __restrict__ w_in,
                           const T* __restrict__ w_out, T* __restrict__ dh, T* __restrict__ d_out,
                           T* __restrict__ x_out, int tokens, int channels, int inner) {
  constexpr int kSteps = kTokens / 16, kLoads = kTokens / kRows;
  using Block = Shared<T, kTokens>;
  Block& shared = *dynamic_shared<Block>();
  const int lane = int(threadIdx.x) % kWarp, first = int(threadIdx.x) / kWarp * 16;
  const unsigned stripes = channels / kChannels;
  const int64_t at = int64_t(blockIdx.x / stripes) * tokens * channels + blockIdx.x % stripes * kChannels;

  const auto fetch = [&](int unit) {
    auto& to = shared.weights[unit / kInner % 2];
    copy_tile<2 * kInner, kTokens, kThreads>(to.in, Block::kInStride, w_in + int64_t(2 * kTokens) * unit, kTokens,
                                             2 * kInner);
    copy_tile<kTokens, kInner, kThreads>(to.out, kOutStride, w_out + unit, inner, kTokens);
    commit();
  };
  fetch(0);

  // A thread loads every kRows-th token of 8 neighboring channels. Shared memory rearranges them as A.
  const int channel = int(threadIdx.x) % kPacks * 8, row = int(threadIdx.x) / kPacks;
  const int start = row * channels + channel, next = kRows * channels;
  using Channels = Pack<T, 8>;
  const auto as_a = [&](const Channels(&from)[kLoads], uint32_t (&to)[kSteps][4]) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      *reinterpret_cast<Channels*>(shared.state + (i * kRows + row) * kStateStride + channel) = from[i];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      load_a_by_columns(to[k], shared.state + k * 16 * kStateStride + first, kStateStride, lane);
    }
    __syncthreads();
  };

  uint32_t a_d[kSteps][4], a_x[kSteps][4];
  {
    Channels d[kLoads] = {}, result[kLoads] = {};
    float dot[8] = {};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (i * kRows + row >= tokens) break;
      d[i] = *reinterpret_cast<const Channels*>(dy + at + start + i * next);
      result[i] = *reinterpret_cast<const Channels*>(y + at + start + i * next);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int k = 0; k < 8; ++k) dot[k] += load(d[i].at[k]) * load(result[i].at[k]);
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (int offset = kPacks; offset < kWarp; offset *= 2) dot[k] += __shfl_xor_sync(~0u, dot[k], offset);
      if (lane < kPacks) shared.dot[threadIdx.x / kWarp][channel + k] = dot[k];
    }
    __syncthreads();
    float scale[8], mean[8] = {};
    load_pack<8>(rstd + int64_t(blockIdx.x) * kChannels + channel, scale);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) mean[k] += shared.dot[w][channel + k];
      mean[k] /= float(tokens);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        store(&d[i].at[k], scale[k] * (load(d[i].at[k]) - load(result[i].at[k]) * mean[k]));
      }
      if (i * kRows + row < tokens) *reinterpret_cast<Channels*>(d_out + at + start + i * next) = d[i];
    }
    as_a(d, a_d);
  }
  {
    Channels x[kLoads] = {};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (i * kRows + row >= tokens) break;
      x[i] = *reinterpret_cast<const Channels*>(z + at + start + i * next);
      if (!injection) continue;
      float addend[8];
      load_pack<8>(injection + at + start + i * next, addend);
#pragma unroll
      for (int k = 0; k < 8; ++k) store(&x[i].at[k], load(x[i].at[k]) + addend[k]);
      *reinterpret_cast<Channels*>(x_out + at + start + i * next) = x[i];
    }
    as_a(x, a_x);
  }

  float sum[2 * kSteps][4];  // starts with the gradient of the residual
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Pack<T, 2> both = *reinterpret_cast<const Pack<T, 2>*>(&a_d[k][i]);
      sum[2 * k + i / 2][i % 2 * 2] = load(both.at[0]), sum[2 * k + i / 2][i % 2 * 2 + 1] = load(both.at[1]);
    }
  }

  for (int unit = 0; unit < inner; unit += kInner) {
    fetch_ahead(unit + kInner < inner, unit + kInner, fetch);
    const auto& weights = shared.weights[unit / kInner % 2];
    float gate_up[4][4] = {}, dactive[2][4] = {};  // gate, up, gate, up: 8 inner units each
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      uint32_t b[4];
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        load_b(b, weights.in + 16 * two * Block::kInStride + k * 16, Block::kInStride, lane);
        mma<T>(gate_up[2 * two], a_x[k], b[0], b[1]);
        mma<T>(gate_up[2 * two + 1], a_x[k], b[2], b[3]);
      }
      load_b_by_rows(b, weights.out + k * 16 * kOutStride, kOutStride, lane);
      mma<T>(dactive[0], a_d[k], b[0], b[1]);
      mma<T>(dactive[1], a_d[k], b[2], b[3]);
    }
    uint32_t dgate[4], dup[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int tile = i / 2, low = i % 2 * 2;
      const float (&gate)[4] = gate_up[2 * tile];
      const float (&up)[4] = gate_up[2 * tile + 1];
      const GateUpGradient a(gate[low], up[low], dactive[tile][low]);
      const GateUpGradient b(gate[low + 1], up[low + 1], dactive[tile][low + 1]);
      dgate[i] = pair<T>(a.dgate, b.dgate), dup[i] = pair<T>(a.dup, b.dup);
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      uint32_t b[4];
      load_b_by_rows(b, weights.in + k * 16, Block::kInStride, lane, 16);
      mma<T>(sum[2 * k], dgate, b[0], b[1]);
      mma<T>(sum[2 * k + 1], dgate, b[2], b[3]);
      load_b_by_rows(b, weights.in + 8 * Block::kInStride + k * 16, Block::kInStride, lane, 16);
      mma<T>(sum[2 * k], dup, b[0], b[1]);
      mma<T>(sum[2 * k + 1], dup, b[2], b[3]);
    }
    __syncthreads();  // before the next fetch overwrites these weights
  }

#pragma unroll
  for (int tile = 0; tile < 2 * kSteps; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = tile * 8 + lane % 4 * 2 + i % 2;
      store(shared.state + token * kStateStride + first + i / 2 * 8 + lane / 4, sum[tile][i]);
    }
  }
  __syncthreads();
  for (int i = 0; i * kRows + row < tokens; ++i) {
    *reinterpret_cast<Channels*>(dh + at + start + i * next) =
        *reinterpret_cast<const Channels*>(shared.state + (i * kRows + row) * kStateStride + channel);
  }
}

}  // namespace

cudaError_t token_mixer_bwd(Type type, const void* dy, const void* z, const void* injection, const void* y,
                            const float* rstd, const void* w_in, const void* w_out, void* dh, void* d, void* x,
                            int64_t batch, int64_t tokens, int64_t channels, int64_t inner, cudaStream_t stream) {
  if (batch == 0) return cudaSuccess;
  if (channels % kChannels || inner % kInner || tokens < 1) return cudaErrorInvalidValue;
  return with_tokens(type, tokens, [&](auto value, auto padded) {
    using T = decltype(value);
    constexpr int kTokens = padded();
    return launch(token_mixer_bwd_kernel<T, kTokens>, batch * (channels / kChannels), kThreads,
                  sizeof(Shared<T, kTokens>), stream, dy, z, injection, y, rstd, w_in, w_out, dh, d, x, tokens,
                  channels, inner);
  });
}

}  // namespace cuda
}  // namespace trm_fast
