// The CPU kernels that several ops use: matrix products and additions. Sizes, strides and distances are in floats.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// A matrix whose element (i, j) is data[i * row + j * column].
struct Strided {
  const float* data;
  int64_t row, column;
};

// The left factor of a product, (m, k). Rows are `row` floats apart. If chunk > 0, each row is split into chunks of
// `chunk` elements, and chunks are `jump` floats apart. If row == 0, pack_left packed the factor, and `jump` is k. If
// `in_slots`, to_slots converted the factor.
struct Left {
  const float* data;
  int64_t row, chunk, jump;
  bool in_slots = false;
};

// The right factor of a product, (k, n), packed in panels of `width` columns. Each panel is (k, width). Panels are
// `stride` floats apart.
struct Right {
  const float* data;
  int64_t stride;
};

// A matrix in panels of `width` columns. Rows of a panel are `row` floats apart, panels `panel` floats apart. A
// row-major matrix has panel == width. With row == width, a panel is contiguous, which is faster for a matrix that is
// not in cache.
template <class Float>
struct Panels {
  Float* data = nullptr;
  int64_t row = 0, panel = 0;
};

// Rows to add to a product. Row i of the product receives the sum of `per_row` rows of `rows`: those with the numbers
// index[i * per_row + j], j in [0, per_row).
struct Added {
  Panels<const float> rows;
  const int32_t* index = nullptr;
  int64_t per_row = 0;
};

// Products of row-major float32 matrices, on the calling thread. Outputs must not overlap inputs. In packed factors a
// float holds `steps` steps of k: one in float32, or two in bfloat16, which are accumulated in float32. Register blocks
// are `rows` x `width`; width is a power of two up to 32. If gate and up share panels, `inner` must be a multiple of
// width / 2. Gate and up values that the forward keeps for the backward have the type of the factors, too: in
// bfloat16, a float holds the gate and the up value of a hidden channel.
struct GemmKernels {
  int64_t rows, width, steps;

  // Packs b (k, n) as a right factor with panels `stride` floats apart. Columns beyond n are zero.
  void (*pack_right)(const Strided& b, int64_t k, int64_t n, float* to, int64_t stride);
  // Packs gate and up, each (k, inner), as one right factor. The first half of each panel holds columns of gate, and
  // the second half the same columns of up. Columns from `inner` to `padded` are zero.
  void (*pack_gate_up)(const Strided& gate, const Strided& up, int64_t k, int64_t inner, int64_t padded, float* to);
  // Packs a (m, k) as a left factor, in blocks of at most `rows` rows, each transposed: (k, rows of the block).
  void (*pack_left)(const Strided& a, int64_t m, int64_t k, float* to);
  // Packs gate and up, each (inner, k), as one left factor. A block has rows of gate, then the same rows of up.
  void (*pack_gate_up_left)(const Strided& gate, const Strided& up, int64_t inner, int64_t k, float* to);

  // Converts a left factor (m, k) that is not packed, so that several products can use it without converting it again.
  // `to` has m * ceil(k / steps) floats, and may be the factor's data if chunk == 0. In float32 it returns the factor.
  Left (*to_slots)(const Left&, int64_t m, int64_t k, float* to);
  // Repacks `count` panels (k, width), `stride` floats apart, as a right factor, in place.
  void (*pack_panels)(float* to, int64_t k, int64_t count, int64_t stride);

  // c (m, n) = left right, or c += left right if `add`. Rows of c are `ldc` floats apart.
  void (*multiply)(const Left&, const Right&, int64_t m, int64_t n, int64_t k, bool add, float* c, int64_t ldc);

  // out (m, inner) = silu(left gate) * (left up). `right` is gate and up, packed by pack_gate_up. The `added` rows are
  // added to the product left right before silu. `gate_up` (m, 2 inner / steps) receives the sum, with its columns in
  // the order of `right`, in panels of width / steps columns; its data may be null. `out` is in slots, as a left
  // factor; its rows are ldo floats apart.
  void (*swiglu)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, const Added&,
                 const Panels<float>& gate_up, float* out, int64_t ldo);
  // The backward of swiglu, from dout = left right (m, inner) and the gate_up of swiglu. Recomputes `out`, and computes
  // dgate_up (m, 2 inner), with its columns in the order of swiglu's `right`. Both are float32 in panels (m, width).
  void (*swiglu_bwd)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, const Panels<const float>& gate_up,
                     float* out, float* dgate_up);
  // swiglu with the weights as the left factor: out = silu(gate right) * (up right), in panels (inner, width). `left`
  // is gate and up, packed by pack_gate_up_left; `right` has `panels` panels. `gate_up` receives both products, in
  // panels (2 inner / steps, width), in float32 with gate above up; it may be null.
  void (*swiglu_left)(const float* left, const Right&, int64_t inner, int64_t panels, int64_t k, float* gate_up,
                      float* out);
  // The backward of swiglu_left, from dout = left right (inner, columns) and the gate_up of swiglu_left. Recomputes
  // `out`, and computes the gradients of gate and up, in panels (2 inner, width) of float32 with gate above up.
  void (*swiglu_left_bwd)(const Left&, const Right&, int64_t inner, int64_t panels, int64_t k, const float* gate_up,
                          float* out, float* dgate_up);
};

template <class T>
struct AddKernels {
  // to = a + b for `count` elements. `to` may be a or b.
  void (*add)(const T* a, const T* b, T* to, int64_t count);
};

}  // namespace trm_fast
