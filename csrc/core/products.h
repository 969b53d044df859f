// Matrix products and additions, the CPU kernels that ops share.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// Element (i, j) lies at at[i * row + j * column].
struct Strided {
  const float* at;
  int64_t row, column;
};

// A product's left factor, (m, k): rows of neighbouring elements `row` apart, read in place; after each `chunk` of the
// depth (0: never) the rows go on `jump` further. Or packed by pack_left: row is 0 and `jump` the whole depth.
struct Left {
  const float* at;
  int64_t row, chunk, jump;
};

// A product's right factor, (k, n), in panels of `width` columns that lie `stride` apart, each (k, width).
struct Right {
  const float* at;
  int64_t stride;
};

// Matrix products of float32 matrices, row-major, on the calling thread; packed factors hold `steps` of the depth in a
// float: one, or two where the products are in bfloat16 and summed in float32. A register block is `rows` x `width`, width a power of
// two up to 32; an inner size of SwiGLU is a multiple of width / 2 where gate and up share the panels.
struct GemmKernels {
  int64_t rows, width, steps;

  // Panels `stride` apart, with zeros beyond n.
  void (*pack_right)(const Strided& b, int64_t k, int64_t n, float* to, int64_t stride);
  // Panels whose first half are columns of the gate, whose second half are those of up; zeros beyond `inner`, up to
  // `padded`. gate and up: (k, inner).
  void (*pack_gate_up)(const Strided& gate, const Strided& up, int64_t k, int64_t inner, int64_t padded, float* to);
  // Blocks of at most `rows` rows, each (k, its rows).
  void (*pack_left)(const Strided& a, int64_t m, int64_t k, float* to);
  // Blocks that hold as many rows of the gate as of up. gate and up: (inner, k).
  void (*pack_gate_up_left)(const Strided& gate, const Strided& up, int64_t inner, int64_t k, float* to);

  // `count` panels (k, width) that swiglu_left has written become a right factor, in place: k * width apart.
  void (*pack_panels)(float* to, int64_t k, int64_t count);

  // c (m, n) = left right, or added to it.
  void (*multiply)(const Left&, const Right&, int64_t m, int64_t n, int64_t k, bool add, float* c, int64_t ldc);

  // out (m, inner) = silu(left gate) * (left up), `right` by pack_gate_up. Unless null, `kept` (m, 2 inner) becomes the
  // product itself, columns as in `right`.
  void (*swiglu)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, float* kept, int64_t ldk, float* out,
                 int64_t ldo);
  // From dout = left right, (m, inner), and kept: panels of out, (m, width) each, and of the gradient of `kept`.
  void (*swiglu_bwd)(const Left&, const Right&, int64_t m, int64_t inner, int64_t k, const float* kept, int64_t ldk,
                     float* out, float* dgate_up);
  // The same from the other side: `left` by pack_gate_up_left, `panels` panels of columns. out: panels (inner, width),
  // kept: panels (2 inner, width), the gate above up.
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
