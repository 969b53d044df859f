// The CPU kernels' interface: raw pointers, no torch. A table of functions for each op and type; each instruction set
// has its own tables, and kernels<...>() gives those of the set in use. Every function works on a range of units, so
// that the caller can share the units out among threads.
#pragma once

#include <cstdint>
#include <type_traits>

namespace trm_fast {

struct BFloat16 {
  uint16_t bits;
};

// The type that an op computes and keeps statistics in.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A contiguous tensor seen from one of its axes: [outer, size, inner].
struct Axis {
  int64_t outer, size, inner;
};

// Columns that one unit of a reduction over a strided axis covers: a few vector registers of partial sums.
constexpr int64_t kColumns = 64;

// Units: rows if inner == 1, otherwise blocks of kColumns columns.
inline int64_t reduction_units(const Axis& axis) {
  return axis.inner == 1 ? axis.outer : axis.outer * ((axis.inner + kColumns - 1) / kColumns);
}

template <class T>
struct RmsNormKernels {
  void (*fwd)(const T* x, const T* residual, T* y, Accumulate<T>* rstd, Axis, double eps, int64_t begin, int64_t end);
  void (*bwd)(const T* dy, const T* y, const Accumulate<T>* rstd, T* dx, Axis, int64_t begin, int64_t end);
};

// Units: elements of the output; `half` is the stretch over which gate and up are each contiguous.
template <class T>
struct SwiGluKernels {
  void (*fwd)(const T* gate_up, T* out, int64_t half, int64_t begin, int64_t end);
  void (*bwd)(const T* dout, const T* gate_up, T* dgate_up, int64_t half, int64_t begin, int64_t end);
  // Also makes the output again, in the place of its gradient.
  void (*bwd_recompute)(T* dout, const T* gate_up, T* dgate_up, int64_t half, int64_t begin, int64_t end);
};

// What rows of scores see. Row i: the first `first + i` columns, or all if that is more; of those the columns that are
// `there` (null: all); and, unless `own` is null, a key that stands in no column: own[i] is its score, -infinity where
// there is none, and becomes its probability. A row sees at least one column or its own key.
template <class T>
struct Sight {
  int64_t first;
  const bool* there;
  T* own;
};

// The parts of attention beside its products. scores (rows, columns), rows `step` apart, become probabilities in place,
// dprobabilities become dscores; what a row does not see becomes zero. `down` (rows): the gradient of `own`, in place.
// rotate: units are rows of x, `stride` apart, each `heads` x `width`; cos and sin (tokens, width).
template <class T>
struct AttentionKernels {
  void (*softmax)(T* scores, int64_t rows, int64_t columns, int64_t step, T scale, const Sight<T>&);
  void (*softmax_bwd)(T* dprobabilities, const T* probabilities, int64_t rows, int64_t columns, int64_t step, T scale,
                      const Sight<T>&, T* down);
  void (*rotate)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                 int64_t begin, int64_t end);
  void (*rotate_bwd)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                     int64_t begin, int64_t end);
};

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

// Units of fwd and bwd: lines along the axis (outer * inner); of the cross-entropy: rows. cross_entropy_fwd returns the
// first row with a label outside [0, classes), or -1.
template <class T>
struct StablemaxKernels {
  void (*fwd)(const T* logits, double* probabilities, Axis, int64_t begin, int64_t end);
  void (*bwd)(const double* dprobabilities, const T* logits, T* dlogits, Axis, int64_t begin, int64_t end);
  int64_t (*cross_entropy_fwd)(const T* logits, const int64_t* labels, double* loss, double* total, int64_t classes,
                               int64_t ignore, int64_t begin, int64_t end);
  void (*cross_entropy_bwd)(const double* dloss, const T* logits, const int64_t* labels, const double* total,
                            T* dlogits, int64_t classes, int64_t ignore, int64_t begin, int64_t end);
};

template <class T>
struct AdamNumbers {
  T beta1, beta2;      // the weights of the new values, 1 - beta
  T keep;              // 1 - lr * weight_decay
  T size;              // lr / (1 - beta1^t)
  T root;              // 1 / sqrt(1 - beta2^t)
  T ema, scale, eps;   // ema: the weight of the new value
};

// Units: elements. `ema` may be null.
template <class T>
struct AdamKernels {
  void (*atan2)(T* p, const T* g, T* m, T* v, T* ema, const AdamNumbers<T>&, int64_t begin, int64_t end);
  void (*adamw)(T* p, const T* g, T* m, T* v, T* ema, const AdamNumbers<T>&, int64_t begin, int64_t end);
};

// One row: `grads` are the `count` rows of the batch that hold its gradients.
template <class T>
struct SignSgdKernels {
  void (*row)(T* weight, const T* row_grads, const int64_t* grads, int64_t count, int64_t columns, T keep, T lr);
};

namespace portable {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
#if defined(__x86_64__)
namespace avx2 {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
namespace avx512 {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
namespace avx512bf16 {  // GemmKernels only, with products in bfloat16
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
#endif

}  // namespace trm_fast
