// One block's kRows x kColumns part of a matrix product, in steps of kDepth, double buffered.
#pragma once

#include "core/cuda/mma.cuh"

namespace trm_fast {
namespace cuda {

// A warp computes kTall x kWide tiles of 16 x 8. A block has kDown rows of kAcross warps. If kColumnsAsRows, the right
// factor's columns are rows in memory, as in a torch weight.
template <class T, int kTall, int kWide, int kDown, int kAcross, int kDepth, bool kColumnsAsRows = true>
struct Product {
  static constexpr int kThreads = kDown * kAcross * kWarp;
  static constexpr int kRows = kDown * kTall * 16, kColumns = kAcross * kWide * 8;
  // A stride of 8 values more than a multiple of 64 (or 32) spreads the rows over all banks.
  static constexpr int kLeftStride = kDepth + 8, kRightStride = (kColumnsAsRows ? kDepth : kColumns) + 8;

  struct Shared {
    struct {
      T left[kRows * kLeftStride], right[(kColumnsAsRows ? kColumns : kDepth) * kRightStride];
    } step[2];
  };

  float sum[kTall][kWide][4] = {};
  int lane = int(threadIdx.x) % kWarp;
  int row = int(threadIdx.x) / kWarp / kAcross * kTall * 16;  // of this warp in the block
  int column = int(threadIdx.x) / kWarp % kAcross * kWide * 8;

  // sum = left right. left: (rows, depth), with `last_row` its last valid row; rows of right are `right_stride` values
  // apart. `depth` is a multiple of kDepth.
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
        uint32_t a[kTall][4];
#pragma unroll
        for (int y = 0; y < kTall; ++y) load_a(a[y], step.left + (row + y * 16) * kLeftStride + k, kLeftStride, lane);
#pragma unroll
        for (int x = 0; x < kWide; x += 2) {
          uint32_t b[4];
          if constexpr (kColumnsAsRows) {
            load_b(b, step.right + (column + x * 8) * kRightStride + k, kRightStride, lane);
          } else {
            load_b_of_rows(b, step.right + k * kRightStride + column + x * 8, kRightStride, lane);
          }
#pragma unroll
          for (int y = 0; y < kTall; ++y) {
            mma<T>(sum[y][x], a[y], b[0], b[1]);
            mma<T>(sum[y][x + 1], a[y], b[2], b[3]);
          }
        }
      }
      __syncthreads();  // before the next fetch overwrites this step
    }
  }

  // The row in the block of this lane's sums [y][.][2 half] and [2 half + 1], and their first column.
  __device__ int row_of(int y, int half) const { return row + y * 16 + half * 8 + lane / 4; }
  __device__ int column_of(int x) const { return column + x * 8 + lane % 4 * 2; }
};

}  // namespace cuda
}  // namespace trm_fast
