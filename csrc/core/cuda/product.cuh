// A thread block's kRows x kColumns part of a matrix product on tensor cores, double-buffered in steps of kDepth.
#pragma once

#include "core/cuda/mma.cuh"

namespace trm_fast {
namespace cuda {

// A warp computes kTilesDown x kTilesAcross tiles of 16 x 8. A block has kWarpsDown x kWarpsAcross warps. If
// kColumnsAsRows, the columns of the right factor are rows in memory, as in a torch weight.
template <class T, int kTilesDown, int kTilesAcross, int kWarpsDown, int kWarpsAcross, int kDepth,
          bool kColumnsAsRows = true>
struct Product {
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarp;
  static constexpr int kRows = kWarpsDown * kTilesDown * 16, kColumns = kWarpsAcross * kTilesAcross * 8;
  // Strides of 8 values more than a multiple of 16 avoid bank conflicts.
  static constexpr int kLeftStride = kDepth + 8, kRightStride = (kColumnsAsRows ? kDepth : kColumns) + 8;

  struct Shared {
    struct {
      T left[kRows * kLeftStride], right[(kColumnsAsRows ? kColumns : kDepth) * kRightStride];
    } step[2];
  };

  float sum[kTilesDown][kTilesAcross][4] = {};
  int lane = int(threadIdx.x) % kWarp;
  int row = int(threadIdx.x) / kWarp / kWarpsAcross * kTilesDown * 16;  // the warp's first row in the block
  int column = int(threadIdx.x) / kWarp % kWarpsAcross * kTilesAcross * 8;

  // sum = left right. `left` is (rows, depth), and `last_row` is its last valid row. Rows of `right` are `right_stride`
  // values apart. `depth` is a multiple of kDepth.
  __device__ void run(Shared& shared, const T* left, const T* right, int64_t right_stride, int64_t depth,
                      int64_t last_row) {
    const auto fetch = [&](int64_t at) {
      auto& to = shared.step[at / kDepth % 2];
      copy_tile<kRows, kDepth, kThreads>(to.left, kLeftStride, left + at, depth, last_row);
      if constexpr (kColumnsAsRows) {
        copy_tile<kColumns, kDepth, kThreads>(to.right, kRightStride, right + at, right_stride, kColumns);
      } else {
        copy_tile<kDepth, kColumns, kThreads>(to.right, kRightStride, right + at * right_stride, right_stride, kDepth);
      }
      commit();
    };
    fetch(0);
    for (int64_t at = 0; at < depth; at += kDepth) {
      fetch_ahead(at + kDepth < depth, at + kDepth, fetch);
      const auto& step = shared.step[at / kDepth % 2];
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        uint32_t a[kTilesDown][4];
#pragma unroll
        for (int y = 0; y < kTilesDown; ++y)
          load_a(a[y], step.left + (row + y * 16) * kLeftStride + k, kLeftStride, lane);
#pragma unroll
        for (int x = 0; x < kTilesAcross; x += 2) {
          uint32_t b[4];
          if constexpr (kColumnsAsRows) {
            load_b(b, step.right + (column + x * 8) * kRightStride + k, kRightStride, lane);
          } else {
            load_b_by_rows(b, step.right + k * kRightStride + column + x * 8, kRightStride, lane);
          }
#pragma unroll
          for (int y = 0; y < kTilesDown; ++y) {
            mma<T>(sum[y][x], a[y], b[0], b[1]);
            mma<T>(sum[y][x + 1], a[y], b[2], b[3]);
          }
        }
      }
      __syncthreads();  // before the next fetch overwrites this step
    }
  }

  // The position in the block of this lane's sums: sum[y][x][2 half] is in row output_row(y, half) and column
  // output_column(x), and sum[y][x][2 half + 1] is to its right.
  __device__ int output_row(int y, int half) const { return row + y * 16 + half * 8 + lane / 4; }
  __device__ int output_column(int x) const { return column + x * 8 + lane % 4 * 2; }
};

}  // namespace cuda
}  // namespace trm_fast
