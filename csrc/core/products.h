// The CPU kernels that ops share: matrix products and additions. Sizes, strides and distances are in floats.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// A matrix whose element (i, j) is data[i * row + j * column].
struct Strided {
  const float* data;
  int64_t row, column;
};

// The left factor of a product, (m, k). Rows are `row` floats apart. If chunk > 0, each row is split into chunks of
// `chunk` elements, `jump` floats apart. If row == 0, the factor was packed by pack_left, and `jump` is k.
struct Left {
  const float* data;
  int64_t row, chunk, jump;
};

// The right factor of a product, (k, n), packed in panels of `width` columns: each is (k, width), and the next one
// starts `stride` floats later.
struct Right {
  const float* data;
  int64_t stride;
};

// Rows to add to a product: to its row i the rows index[i * per_row + j], j in [0, per_row), of `rows`, whose rows are
// `row` floats apart.
struct Added {
  const float* rows = nullptr;
  int64_t row = 0;
  const int32_t* index = nullptr;
  int64_t per_row = 0;
};

// Matrix products of row-major float32 matrices, on the calling thread. Outputs must not overlap inputs.
// A packed float holds one step of k, or two bfloat16 steps (accumulated in float32): `steps`. Register blocks are
// `rows` x `width`; width is a power of two up to 32. Where gate and up share panels, `inner` must be a multiple of
// width / 2.
struct GemmKernels {
  int64_t rows, width, steps;

  // Packs b (k, n) as a right factor with panels `stride` floats apart. Columns beyond n are zero.
  void (*pack_right)(const Strided& b, int64_t k, int64_t n, float* to, int64_t stride);
  // Packs gate and up, each (k, inner), as one right factor. The first half of each panel has columns of the gate, the
  // second half the same columns of up. Columns `inner` to `padded` are zero.
  void (*pack_gate_up)(const Strided& gate, const Strided& up, int64_t k, int64_t inner, int64_t padded, float* to);
  // Packs a (m, k) as a left factor: blocks of at most `rows` rows, each transposed, (k, rows of the block).
  void (*pack_left)(const Strided& a, int64_t m, int64_t k, float* to);
  // Packs gate and up, each (inner, k), as one left factor. A block has rows of the gate, then the same rows of up.
  void (*pack_gate_up_left)(const Strided& gate, const Strided& up, int64_t inner, int64_t k, float* to);

  // Repacks in place `count` panels (k, width) written by swiglu_left, k * width floats apart, as a right factor.
  void (*pack_panels)(float* to, int64_t k, int64_t count);

  // c (m, n) = left right, or c += left right if `add`. Rows of c are `ldc` floats apart.
  void (*multiply)(const Left&, const Right&, int64_t m, int64_t n, int64_t k, bool add, float* c, int64_t ldc);

  // out (m, inner) = silu(left gate) * (left up), where `right` is gate and up, packed by pack_gate_up. Before silu,
  // the `added` rows (2 inner columns in the order of `right`) are added to the product. `kept` (m, 2 inner) receives
  // the sum; it may be null. ldk and ldo are the distances between the rows of `kept` and `out`.
  void (*swiglu)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, const Added&, float* kept, int64_t ldk,
                 float* out, int64_t ldo);
  // The backward of swiglu, from dout = left right (m, inner) and `kept` of swiglu. Writes `out` again and dgate_up,
  // the gradient of `kept`, both in panels (m, width).
  void (*swiglu_bwd)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, const float* kept, int64_t ldk,
                     float* out, float* dgate_up);
  // swiglu with the weights as the left factor: out = silu(gate right) * (up right), in panels (inner, width). `left`
  // is gate and up, packed by pack_gate_up_left; `right` has `panels` panels. `kept` receives both products, in panels
  // (2 inner, width) with the gate above up; it may be null.
  void (*swiglu_left)(const float* left, const Right&, int64_t inner, int64_t panels, int64_t k, float* kept,
                      float* out);
  // The backward of swiglu_left, from dout = left right (inner, columns) and `kept` of swiglu_left. Writes `out` again
  // and dgate_up, the gradient of `kept`, in the layouts of swiglu_left.
  void (*swiglu_left_bwd)(const Left&, const Right&, int64_t inner, int64_t panels, int64_t k, const float* kept,
                          float* out, float* dgate_up);
};

template <class T>
struct AddKernels {
  // to = a + b for `count` elements. `to` may be a or b.
  void (*add)(const T* a, const T* b, T* to, int64_t count);
};

}  // namespace trm_fast
