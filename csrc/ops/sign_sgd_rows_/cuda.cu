// SignSGD on a GPU, for the rows that a batch used. The blocks of the first example with an id, the owner, update the
// row; those of other examples return at once. An owner's block lists the examples with its id, sums their gradients in
// a fixed order (so every run gives the same result) and takes the step, without sorting, atomics or synchronization.
// Lower bound: 4 bytes per gradient and 8 bytes per updated weight; the ids, compared batch^2 times, come from L2.
#include "core/cuda/device.cuh"
#include "ops/sign_sgd_rows_/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kColumns = 32;
constexpr int kSlices = 8;  // parts of the examples, summed in parallel, because in sudoku all examples have one id
constexpr int kThreads = kColumns * kSlices;

__global__ void __launch_bounds__(kThreads)
    row_kernel(float* __restrict__ weight, const float* __restrict__ row_grads, const int64_t* __restrict__ ids,
               Scalar lr, double weight_decay, int64_t rows, int64_t columns, int64_t batch, int64_t stripes) {
  __shared__ int32_t matches[kThreads], counts[kThreads / kWarp];
  __shared__ float partial[kSlices][kColumns];
  const int64_t owner = blockIdx.x / stripes, id = ids[owner];
  const int thread = int(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  bool earlier = false;
  for (int64_t i = thread; i < owner; i += kThreads) earlier |= ids[i] == id;
  if (__syncthreads_or(earlier) || id < 0 || id >= rows) return;

  const int slice = thread / kColumns;
  const int64_t column = blockIdx.x % stripes * kColumns + thread % kColumns;
  const bool inside = column < columns;
  float sum = 0;
  int64_t matched = 0;  // matches in earlier tiles, so that the slices do not depend on the tiles
  for (int64_t tile = owner; tile < batch; tile += kThreads) {
    const bool match = tile + thread < batch && ids[tile + thread] == id;
    const unsigned mask = __ballot_sync(~0u, match);
    if (lane == 0) counts[warp] = __popc(mask);
    __syncthreads();
    int offset = 0, total = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) {
      offset += w < warp ? counts[w] : 0;
      total += counts[w];
    }
    if (match) matches[offset + __popc(mask & ((1u << lane) - 1))] = thread;
    __syncthreads();
    if (inside) {
#pragma unroll 4
      for (int k = int((slice - matched % kSlices + kSlices) % kSlices); k < total; k += kSlices) {
        sum += row_grads[(tile + matches[k]) * columns + column];
      }
    }
    matched += total;
    __syncthreads();  // before the next tile writes `matches`
  }
  partial[slice][thread % kColumns] = sum;
  __syncthreads();
  if (slice != 0 || !inside) return;
  for (int s = 1; s < kSlices; ++s) sum += partial[s][thread];
  const double rate = read_scalar(lr);
  float* w = weight + id * columns + column;
  *w = *w * float(1 - rate * weight_decay) - float(rate) * (float(0 < sum) - float(sum < 0));
}

}  // namespace

cudaError_t sign_sgd_rows_(float* weight, const float* row_grads, const int64_t* ids, Scalar lr, double weight_decay,
                           int64_t rows, int64_t columns, int64_t batch, cudaStream_t stream) {
  if (columns == 0 || batch == 0) return cudaSuccess;
  const int64_t stripes = (columns + kColumns - 1) / kColumns;
  return launch(row_kernel, batch * stripes, kThreads, 0, stream, weight, row_grads, ids, lr, weight_decay, rows,
                columns, batch, stripes);
}

}  // namespace cuda
}  // namespace trm_fast
