// The forward of the token mixer, y = norm(h + down silu(gate h) (up h)) over tokens with h = z + injection, in one
// kernel. A block has 128 channels of one example, and a warp 32 of them. Channels are the rows of the products, so a
// warp needs only its own channels: h stays in registers as A of the first product, gate and up become A of the second
// without leaving registers, and the norm of a channel is a sum over four lanes. Only weights pass through shared
// memory, 32 inner units at a time.
//
// Lower bound for 768 examples of 97 x 512, inner 512: 117 GFLOP (135 with 97 padded to 112), 0.15 GB of states, and
// 1.1 GB of weights from L2. It is bound by the tensor cores.
#include "core/cuda/mma.cuh"
#include "ops/token_mixer/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChannels = 128;  // per block
constexpr int kBands = 2;       // bands of 16 channels per warp
constexpr int kInner = 32;      // inner units per step
// Strides of 8 values more than a multiple of 16 avoid bank conflicts.
constexpr int kStateStride = kChannels + 8, kOutStride = kInner + 8;

// kTokens is the padded token count.
template <class T, int kTokens>
struct Shared {
  static constexpr int kInStride = kTokens + 8;
  T h[kTokens * kStateStride];
  struct {
    T in[2 * kInner * kInStride];  // gate and up, interleaved in groups of 8 rows
    T out[kTokens * kOutStride];
  } weights[2];
};

// h = z + injection, zero beyond the last token.
template <class T, int kTokens>
__device__ inline void load_state(T* h, const T* z, const T* injection, int64_t tokens, int64_t stride) {
  for (int i = int(threadIdx.x) * 8; i < kTokens * kChannels; i += kThreads * 8) {
    const int token = i / kChannels, channel = i % kChannels;
    float value[8] = {};
    if (token < tokens) {
      load_pack<8>(z + token * stride + channel, value);
      if (injection) {
        float addend[8];
        load_pack<8>(injection + token * stride + channel, addend);
#pragma unroll
        for (int k = 0; k < 8; ++k) value[k] += addend[k];
      }
    }
    store_pack<8>(h + token * kStateStride + channel, value);
  }
}

template <class T, int kTokens>
__global__ void __launch_bounds__(kThreads)
    token_mixer_kernel(const T* __restrict__ z, const T* __restrict__ injection, const T* __restrict__ w_in,
                       const T* __restrict__ w_out, T* __restrict__ y, float* __restrict__ rstd, int64_t tokens,
                       int64_t channels, int64_t inner, float eps) {
  constexpr int kSteps = kTokens / 16;
  Shared<T, kTokens>& shared = *dynamic_shared<Shared<T, kTokens>>();
  constexpr int kInStride = Shared<T, kTokens>::kInStride;
  const int lane = int(threadIdx.x) % kWarp, first = int(threadIdx.x) / kWarp * 16 * kBands;
  const int64_t stripes = channels / kChannels;
  const int64_t at = int64_t(blockIdx.x) / stripes * tokens * channels + int64_t(blockIdx.x) % stripes * kChannels;

  const auto fetch = [&](int64_t unit) {
    auto& to = shared.weights[unit / kInner % 2];
    copy_tile<2 * kInner, kTokens, kThreads>(to.in, kInStride, w_in + 2 * unit * kTokens, kTokens, 2 * kInner);
    copy_tile<kTokens, kInner, kThreads>(to.out, kOutStride, w_out + unit, inner, kTokens);
    commit();
  };
  fetch(0);
  load_state<T, kTokens>(shared.h, z + at, injection ? injection + at : nullptr, tokens, channels);
  __syncthreads();

  uint32_t h[kBands][kSteps][4];
  float sum[kBands][2 * kSteps][4] = {};
#pragma unroll
  for (int band = 0; band < kBands; ++band) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      load_a_by_columns(h[band][k], shared.h + k * 16 * kStateStride + first + band * 16, kStateStride, lane);
    }
  }

  for (int64_t unit = 0; unit < inner; unit += kInner) {
    fetch_ahead(unit + kInner < inner, unit + kInner, fetch);
    const auto& weights = shared.weights[unit / kInner % 2];
#pragma unroll 1  // to save registers
    for (int part = 0; part < kInner; part += 16) {
      float product[kBands][4][4] = {};  // gate, up, gate, up: 8 inner units each
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
#pragma unroll
        for (int two = 0; two < 2; ++two) {
          uint32_t b[4];
          load_b(b, weights.in + (2 * part + 16 * two) * kInStride + k * 16, kInStride, lane);
#pragma unroll
          for (int band = 0; band < kBands; ++band) {
            mma<T>(product[band][2 * two], h[band][k], b[0], b[1]);
            mma<T>(product[band][2 * two + 1], h[band][k], b[2], b[3]);
          }
        }
      }
      uint32_t active[kBands][4];
#pragma unroll
      for (int band = 0; band < kBands; ++band) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float (&gate)[4] = product[band][i / 2 * 2];
          const float (&up)[4] = product[band][i / 2 * 2 + 1];
          const int low = i % 2 * 2;
          active[band][i] = pair<T>(silu(gate[low]) * up[low], silu(gate[low + 1]) * up[low + 1]);
        }
      }
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t b[4];
        load_b(b, weights.out + k * 16 * kOutStride + part, kOutStride, lane);
#pragma unroll
        for (int band = 0; band < kBands; ++band) {
          mma<T>(sum[band][2 * k], active[band], b[0], b[1]);
          mma<T>(sum[band][2 * k + 1], active[band], b[2], b[3]);
        }
      }
    }
    __syncthreads();  // before the next fetch overwrites these weights
  }

  // A lane has every fourth pair of tokens of its channels. Padded tokens are zero and stay zero.
#pragma unroll
  for (int band = 0; band < kBands; ++band) {
#pragma unroll
    for (int low = 0; low < 4; low += 2) {
      T* column = shared.h + first + band * 16 + low * 4 + lane / 4;
      float squares = 0;
#pragma unroll
      for (int tile = 0; tile < 2 * kSteps; ++tile) {
#pragma unroll
        for (int i = low; i < low + 2; ++i) {
          float& value = sum[band][tile][i];
          value += load(column[(tile * 8 + lane % 4 * 2 + i - low) * kStateStride]);
          squares += value * value;
        }
      }
      const float scale = rsqrtf(lanes_sum<4>(squares) / float(tokens) + eps);
      if (rstd && lane % 4 == 0) {
        rstd[int64_t(blockIdx.x) * kChannels + first + band * 16 + low * 4 + lane / 4] = scale;
      }
#pragma unroll
      for (int tile = 0; tile < 2 * kSteps; ++tile) {
#pragma unroll
        for (int i = low; i < low + 2; ++i) {
          store(column + (tile * 8 + lane % 4 * 2 + i - low) * kStateStride, sum[band][tile][i] * scale);
        }
      }
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x) * 8; i < int(tokens) * kChannels; i += kThreads * 8) {
    const int token = i / kChannels, channel = i % kChannels;
    const auto* from = reinterpret_cast<const Pack<T, 8>*>(shared.h + token * kStateStride + channel);
    *reinterpret_cast<Pack<T, 8>*>(y + at + token * channels + channel) = *from;
  }
}

}  // namespace

cudaError_t token_mixer(Type type, const void* z, const void* injection, const void* w_in, const void* w_out, void* y,
                        float* rstd, int64_t batch, int64_t tokens, int64_t channels, int64_t inner, float eps,
                        cudaStream_t stream) {
  if (batch == 0) return cudaSuccess;
  if (channels % kChannels || inner % kInner || tokens < 1) return cudaErrorInvalidValue;
  return with_tokens(type, tokens, [&](auto value, auto padded) {
    using T = decltype(value);
    constexpr int kTokens = padded();
    return launch(token_mixer_kernel<T, kTokens>, batch * (channels / kChannels), kThreads, sizeof(Shared<T, kTokens>),
                  stream, z, injection, w_in, w_out, y, rstd, tokens, channels, inner, eps);
  });
}

}  // namespace cuda
}  // namespace trm_fast
