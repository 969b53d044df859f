// The optimizer step on a GPU, of up to 256 parameters in one launch. The table of pointers is a kernel parameter, so
// it needs no copy to the device, and a CUDA graph holds it. Lower bound: 28 bytes per weight (reads p, g, m, v; writes
// p, m, v), 36 with the average, 38 with average and copy; about 40 FLOP, most of them in atan2.
#include "core/cuda/device.cuh"
#include "ops/adam_atan2_/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWidth = 4;  // weights per load of 16 bytes
constexpr int64_t kChunk = 4096;

// Kernel parameters may take 4 KB, or nearly 32 KB since CUDA 12.1. For few tensors, the small table makes launches
// cheaper.
constexpr int kSmallTable = 32;
constexpr int kLargeTable = 256;

template <int kTensors>
struct Table {
  AdamTensor tensor[kTensors];
  int64_t first[kTensors + 1];  // the first chunk of each tensor; first[count] is the number of chunks
  int32_t count;
};
static_assert(sizeof(Table<kSmallTable>) + sizeof(AdamOptions) <= 4096 - 64,
              "the table must fit in the kernel parameters");
static_assert(sizeof(Table<kLargeTable>) + sizeof(AdamOptions) <= 32764 - 64,
              "the table must fit in the kernel parameters");

// Loads the first `width` values; the others become zero. `whole`: whether one 16-byte load is possible.
__device__ inline void load_partial(const float* from, int width, bool whole, float (&to)[kWidth]) {
  if (whole) return load_pack<kWidth>(from, to);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) to[k] = k < width ? from[k] : 0.0f;
}

__device__ inline void store_partial(float* to, int width, bool whole, const float (&from)[kWidth]) {
  if (whole) return store_pack<kWidth>(to, from);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    if (k < width) to[k] = from[k];
  }
}

// The row of the copy that receives row r.
__device__ inline int64_t copy_row(const AdamTensor& t, int64_t r) {
  if (t.group == 0) return r;
  const int64_t up = r >= t.half, at = up ? r - t.half : r;
  return at / t.group * 2 * t.group + up * t.group + at % t.group;
}

template <class Copy>
__device__ inline void store_copy(const AdamTensor& t, int64_t i, int width, const float (&p)[kWidth]) {
  int64_t row = i / t.columns, column = i % t.columns;
  for (int k = 0; k < width; ++k) {
    store(static_cast<Copy*>(t.copy) + copy_row(t, row) * t.stride + column, p[k]);
    if (++column == t.columns) column = 0, ++row;
  }
}

template <class Copy, int kTensors>
__global__ void __launch_bounds__(kThreads)
    step_kernel(const __grid_constant__ Table<kTensors> table, const __grid_constant__ AdamOptions options) {
  __shared__ AdamCoefficients<float> shared;
  if (threadIdx.x == 0) shared = adam_coefficients<float>(options);
  __syncthreads();
  const AdamCoefficients<float> c = shared;
  for (int64_t chunk = blockIdx.x; chunk < table.first[table.count]; chunk += gridDim.x) {
    int low = 0;  // binary search for the last tensor that starts at this chunk or before
    for (int high = table.count; high - low > 1;) {
      const int middle = (low + high) / 2;
      (table.first[middle] <= chunk ? low : high) = middle;
    }
    const AdamTensor& t = table.tensor[low];
    const int64_t begin = (chunk - table.first[low]) * kChunk, end = min(begin + kChunk, t.count);
    for (int64_t i = begin + threadIdx.x * kWidth; i < end; i += kThreads * kWidth) {
      const int width = int(min(int64_t(kWidth), end - i));
      const bool whole = t.aligned && width == kWidth;
      float p[kWidth], g[kWidth], m[kWidth], v[kWidth];
      load_partial(t.p + i, width, whole, p);
      load_partial(t.g + i, width, whole, g);
      load_partial(t.m + i, width, whole, m);
      load_partial(t.v + i, width, whole, v);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float gradient = g[k] * c.grad_scale;
        m[k] += c.one_minus_beta1 * (gradient - m[k]);
        v[k] += c.one_minus_beta2 * (gradient * gradient - v[k]);
        const float denominator = sqrtf(v[k]) * c.rsqrt_bias_correction2;
        p[k] = p[k] * c.decay_factor -
               c.step_size * (options.adamw ? m[k] / (denominator + c.eps) : atan2f(m[k], denominator));
      }
      store_partial(t.p + i, width, whole, p);
      store_partial(t.m + i, width, whole, m);
      store_partial(t.v + i, width, whole, v);
      if (t.ema) {
        float average[kWidth];
        load_partial(t.ema + i, width, whole, average);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) average[k] += c.one_minus_ema_decay * (p[k] - average[k]);
        store_partial(t.ema + i, width, whole, average);
      }
      if (t.copy) store_copy<Copy>(t, i, width, p);
    }
  }
}

template <int kTensors>
cudaError_t step(const AdamTensor* tensors, int64_t count, const AdamOptions& options, Type copy, cudaStream_t stream) {
  Table<kTensors> table{};
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) {
    AdamTensor& t = table.tensor[i] = tensors[i];
    t.aligned = aligned(t.p) && aligned(t.g) && aligned(t.m) && aligned(t.v) && aligned(t.ema);
    table.first[i] = chunks;
    chunks += (t.count + kChunk - 1) / kChunk;
  }
  table.first[count] = chunks;
  table.count = int32_t(count);
  if (chunks == 0) return cudaSuccess;
  return with_type(copy, [&](auto zero) {
    return launch(step_kernel<decltype(zero), kTensors>, std::min(chunks, kGridStrideBlocks), kThreads, 0, stream,
                  table, options);
  });
}

}  // namespace

cudaError_t adam_atan2_(const AdamTensor* tensors, int64_t count, const AdamOptions& options, Type copy,
                        cudaStream_t stream) {
  for (int64_t at = 0; at < count; at += kLargeTable) {
    const int64_t size = std::min<int64_t>(count - at, kLargeTable);
    const auto run = size <= kSmallTable ? step<kSmallTable> : step<kLargeTable>;
    if (const cudaError_t error = run(tensors + at, size, options, copy, stream)) return error;
  }
  return cudaSuccess;
}

}  // namespace cuda
}  // namespace trm_fast
