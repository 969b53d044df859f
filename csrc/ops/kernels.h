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

// The parts of attention beside its products. scores (rows, columns) become probabilities in place, dprobabilities
// become dscores. rotate: units are rows of x, `stride` apart, each `heads` x `width`; cos and sin (tokens, width).
template <class T>
struct AttentionKernels {
  void (*softmax)(T* scores, int64_t rows, int64_t columns, T scale);
  void (*softmax_bwd)(T* dprobabilities, const T* probabilities, int64_t rows, int64_t columns, T scale);
  void (*rotate)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                 int64_t begin, int64_t end);
  void (*rotate_bwd)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                     int64_t begin, int64_t end);
};

// As `gemm` of gemm.h.
template <class T>
struct GemmKernels {
  void (*multiply)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda,
                   const T* b, int64_t ldb, T beta, T* c, int64_t ldc);
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
#endif

}  // namespace trm_fast
