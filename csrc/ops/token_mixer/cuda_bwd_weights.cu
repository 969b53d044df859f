// The gradients of the token mixer's weights, from two outputs of token_mixer_bwd: x, the input with the injection, and
// d, the gradient before the norm. Inner units are the rows of the products, 16 per warp. A tile is 32 channels of one
// example, and a slab is a range of tiles. A block processes one slab with its weights in shared memory, while each
// warp holds all gradients of its units in registers (3 x 16 x tokens sums). Each slab has its own sums, and the caller
// adds them in a fixed order, so that all GPUs and runs get the same result.
#include "core/cuda/mma.cuh"
#include "ops/token_mixer/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kInner = 16 * kWarps, kChannels = 32;  // per block; channels per step
constexpr int kStateStride = kChannels + 8, kOutStride = kInner + 8;

template <class T, int kTokens>
struct Shared {
  static constexpr int kInStride = kTokens + 8;
  T in[2 * kInner * kInStride];
  T out[kTokens * kOutStride];
  struct {
    T x[kTokens * kStateStride], d[kTokens * kStateStride];
  } states[2];
};

template <class T, int kTokens>
__global__ void __launch_bounds__(kThreads)
    token_mixer_bwd_weights_kernel(const T* __restrict__ d, const T* __restrict__ x, const T* __restrict__ w_in,
                                   const T* __restrict__ w_out, float* __restrict__ sums, int64_t tiles, int64_t slabs,
                                   int64_t tokens, int64_t channels, int64_t inner) {
  constexpr int kSteps = kTokens / 16;
  using Block = Shared<T, kTokens>;
  Block& shared = *dynamic_shared<Block>();
  const int lane = int(threadIdx.x) % kWarp, first = int(threadIdx.x) / kWarp * 16;
  const int64_t stripes = inner / kInner;  // neighboring blocks read the same states, from L2
  const int64_t slab = int64_t(blockIdx.x) / stripes, unit = int64_t(blockIdx.x) % stripes * kInner;
  const int64_t begin = slab * tiles / slabs, end = (slab + 1) * tiles / slabs;

  const auto fetch = [&](int64_t tile) {
    auto& to = shared.states[tile % 2];
    const int64_t tiles_per_example = channels / kChannels;
    const int64_t at = tile / tiles_per_example * tokens * channels + tile % tiles_per_example * kChannels;
    copy_tile<kTokens, kChannels, kThreads>(to.x, kStateStride, x + at, channels, tokens - 1);
    copy_tile<kTokens, kChannels, kThreads>(to.d, kStateStride, d + at, channels, tokens - 1);
    commit();
  };
  copy_tile<2 * kInner, kTokens, kThreads>(shared.in, Block::kInStride, w_in + 2 * unit * kTokens, kTokens, 2 * kInner);
  copy_tile<kTokens, kInner, kThreads>(shared.out, kOutStride, w_out + unit, inner, kTokens);
  fetch(begin);

  float sum[3][2 * kSteps][4] = {};  // gate, up, down
  for (int64_t tile = begin; tile < end; ++tile) {
    fetch_ahead(tile + 1 < end, tile + 1, fetch);
    const auto& states = shared.states[tile % 2];
#pragma unroll 1  // to save registers
    for (int channel = 0; channel < kChannels; channel += 16) {
      float product[3][2][4] = {};  // gate, up and the gradient of their product: 8 channels each
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t a[4], b[4];
        load_b_by_rows(b, states.x + k * 16 * kStateStride + channel, kStateStride, lane);
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          load_a(a, shared.in + (2 * first + 8 * part) * Block::kInStride + k * 16, Block::kInStride, lane, 16);
          mma<T>(product[part][0], a, b[0], b[1]);
          mma<T>(product[part][1], a, b[2], b[3]);
        }
        load_b_by_rows(b, states.d + k * 16 * kStateStride + channel, kStateStride, lane);
        load_a_by_columns(a, shared.out + k * 16 * kOutStride + first, kOutStride, lane);
        mma<T>(product[2][0], a, b[0], b[1]);
        mma<T>(product[2][1], a, b[2], b[3]);
      }
      uint32_t dgate[4], dup[4], active[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int side = i / 2, low = i % 2 * 2;
        const float (&gate)[4] = product[0][side];
        const float (&up)[4] = product[1][side];
        const float (&dactive)[4] = product[2][side];
        const GateUpGradient left(gate[low], up[low], dactive[low]);
        const GateUpGradient right(gate[low + 1], up[low + 1], dactive[low + 1]);
        dgate[i] = pair<T>(left.dgate, right.dgate), dup[i] = pair<T>(left.dup, right.dup);
        active[i] = pair<T>(left.active, right.active);
      }
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t b[4];
        load_b(b, states.x + k * 16 * kStateStride + channel, kStateStride, lane);
        mma<T>(sum[0][2 * k], dgate, b[0], b[1]);
        mma<T>(sum[0][2 * k + 1], dgate, b[2], b[3]);
        mma<T>(sum[1][2 * k], dup, b[0], b[1]);
        mma<T>(sum[1][2 * k + 1], dup, b[2], b[3]);
        load_b(b, states.d + k * 16 * kStateStride + channel, kStateStride, lane);
        mma<T>(sum[2][2 * k], active, b[0], b[1]);
        mma<T>(sum[2][2 * k + 1], active, b[2], b[3]);
      }
    }
    __syncthreads();  // before the next fetch overwrites these states
  }

#pragma unroll
  for (int part = 0; part < 3; ++part) {
#pragma unroll
    for (int tile = 0; tile < 2 * kSteps; ++tile) {
#pragma unroll
      for (int low = 0; low < 4; low += 2) {
        float* to = sums + ((slab * 3 + part) * inner + unit + first + low * 4 + lane / 4) * kTokens;
        store_pack<2>(to + tile * 8 + lane % 4 * 2, {sum[part][tile][low], sum[part][tile][low + 1]});
      }
    }
  }
}

}  // namespace

cudaError_t token_mixer_bwd_weights(Type type, const void* d, const void* x, const void* w_in, const void* w_out,
                                    float* sums, int64_t slabs, int64_t batch, int64_t tokens, int64_t channels,
                                    int64_t inner, cudaStream_t stream) {
  if (batch == 0) return cudaSuccess;
  const int64_t tiles = batch * (channels / kChannels);
  if (channels % kChannels || inner % kInner || tokens < 1 || slabs > tiles) return cudaErrorInvalidValue;
  return with_tokens(type, tokens, [&](auto value, auto padded) {
    using T = decltype(value);
    constexpr int kTokens = padded();
    return launch(token_mixer_bwd_weights_kernel<T, kTokens>, inner / kInner * slabs, kThreads,
                  sizeof(Shared<T, kTokens>), stream, d, x, w_in, w_out, sums, tiles, slabs, tokens, channels, inner);
  });
}

}  // namespace cuda
}  // namespace trm_fast
