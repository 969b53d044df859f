// The CPU kernels that ops share: matrix products and additions.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// A matrix whose element (i, j) is at[i * row + j * column].
struct Strided {
  const float* at;
  int64_t row, column;
};

// The left factor of a product, (m, k). Read in place: contiguous rows, `row` apart; after each `chunk` of the depth
// (0: never) a row continues `jump` further on. Or packed by pack_left: `row` is 0 and `jump` is the whole depth.
struct Left {
  const float* at;
  int64_t row, chunk, jump;
};

// The right factor of a product, (k, n), in panels of `width` columns, `stride` apart, each (k, width).
struct Right {
  const float* at;
  int64_t stride;
};

// Matrix products of float32 matrices, row-major, on the calling thread. A float of a packed factor holds `steps` of
// the depth: one, or two if the products are in bfloat16 (and the sums in float32). A register block is `rows` x
// `width`; width is a power of two up to 32. Where gate and up share panels, the inner size is a multiple of width / 2.
struct GemmKernels {
  int64_t rows, width, steps;

  // Packs panels `stride` apart, with zeros beyond n.
  void (*pack_right)(const Strided& b, int64_t k, int64_t n, float* to, int64_t stride);
  // Packs panels of which the first half are columns of the gate and the second half columns of up, with zeros beyond
  // `inner` up to `padded`. gate and up: (k, inner).
  void (*pack_gate_up)(const Strided& gate, const Strided& up, int64_t k, int64_t inner, int64_t padded, float* to);
  // Packs blocks of at most `rows` rows, each (k, its rows).
  void (*pack_left)(const Strided& a, int64_t m, int64_t k, float* to);
  // Packs blocks with as many rows of the gate as of up. gate and up: (inner, k).
  void (*pack_gate_up_left)(const Strided& gate, const Strided& up, int64_t inner, int64_t k, float* to);

  // Turns `count` panels (k, width) of swiglu_left's output into a right factor, in place; they are k * width apart.
  void (*pack_panels)(float* to, int64_t k, int64_t count);

  // c (m, n) = left right; with `add`, c += left right.
  void (*multiply)(const Left&, const Right&, int64_t m, int64_t n, int64_t k, bool add, float* c, int64_t ldc);

  // out (m, inner) = silu(left gate) * (left up); `right` is packed by pack_gate_up. Unless null, `kept` (m, 2 inner)
  // receives the product itself, with the columns in the order of `right`.
  void (*swiglu)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, float* kept, int64_t ldk, float* out,
                 int64_t ldo);
  // From dout = left right, (m, inner), and `kept`: panels of out, (m, width) each, and of the gradient of `kept`.
  void (*swiglu_bwd)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, const float* kept, int64_t ldk,
                     float* out, float* dgate_up);
  // The same with the weights as left factor, packed by pack_gate_up_left, for `panels` panels of columns. out: panels
  // (inner, width); kept: panels (2 inner, width), the gate above up.
  void (*swiglu_left)(const float* left, const Right&, int64_t inner, int64_t panels, int64_t k, float* kept,
                      float* out);
  // `left` (inner, k).
  void (*swiglu_left_bwd)(const Left&, const Right&, int64_t inner, int64_t panels, int64_t k, const float* kept,
                          float* out, float* dgate_up);
};

template <class T>
struct AddKernels {
  void (*add)(const T* a, const T* b, T* to, int64_t count);
};

}  // namespace trm_fast
