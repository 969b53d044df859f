// Stable-max and its cross-entropy on a CPU, in double. The score is s(x) = x + 1 for x >= 0, else 1 / (1 - x).
#include "core/cpu/simd.h"
#include "ops/stablemax/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

inline double score(double x) {
  const double below = 1 / (1 - x);
  return x < 0 ? below : x + 1;
}

// s'(x) from s = s(x): 1 for x >= 0, else 1 / (1 - x)^2.
inline double slope(double x, double s) { return x < 0 ? s * s : 1.0; }

template <class T>
inline double score_at(const T* logits, int64_t i) {
  return score(double(load(logits[i])));
}

template <class T>
inline double sum_of_scores(const T* logits, int64_t size, int64_t stride) {
  double sum = 0;
  // Rows are as short as a puzzle's vocabulary. With wider vectors, a scalar loop would process whole rows.
#pragma omp simd simdlen(4) reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += score_at(logits, i * stride);
  return sum;
}

// A line is the elements along the axis. The stride may be a constant 1, so that the compiler vectorizes.
template <class T>
inline void fwd_line(const T* logits, double* probabilities, int64_t size, int64_t stride) {
  const double total = sum_of_scores(logits, size, stride);
#pragma omp simd simdlen(4)
  for (int64_t i = 0; i < size; ++i) probabilities[i * stride] = score_at(logits, i * stride) / total;
}

template <class T>
inline void bwd_line(const double* dprobabilities, const T* logits, T* dlogits, int64_t size, int64_t stride) {
  const double total = sum_of_scores(logits, size, stride);
  double dot = 0;  // sum of dp * p, from the gradient of the total
#pragma omp simd simdlen(4) reduction(+ : dot)
  for (int64_t i = 0; i < size; ++i) dot += dprobabilities[i * stride] * (score_at(logits, i * stride) / total);
#pragma omp simd simdlen(4)
  for (int64_t i = 0; i < size; ++i) {
    const double x = load(logits[i * stride]);
    store(dlogits + i * stride, (dprobabilities[i * stride] - dot) / total * slope(x, score(x)));
  }
}

// Calls body(offset, stride) for each line of the range. A stride of 1 is an integral constant.
template <class Body>
void for_lines(const Axis& axis, int64_t begin, int64_t end, const Body& body) {
  for (int64_t line = begin; line < end; ++line) {
    if (axis.inner == 1) {
      body(line * axis.size, std::integral_constant<int64_t, 1>{});
    } else {
      body(line / axis.inner * axis.size * axis.inner + line % axis.inner, axis.inner);
    }
  }
}

template <class T>
void fwd(const T* logits, double* probabilities, Axis axis, int64_t begin, int64_t end) {
  for_lines(axis, begin, end,
            [&](int64_t at, auto stride) { fwd_line(logits + at, probabilities + at, axis.size, stride); });
}

template <class T>
void bwd(const double* dprobabilities, const T* logits, T* dlogits, Axis axis, int64_t begin, int64_t end) {
  for_lines(axis, begin, end, [&](int64_t at, auto stride) {
    bwd_line(dprobabilities + at, logits + at, dlogits + at, axis.size, stride);
  });
}

template <class T>
int64_t cross_entropy_fwd(const T* logits, const int64_t* labels, double* loss, double* total, int64_t classes,
                          int64_t ignore, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t label = labels[row];
    if (label == ignore) {
      loss[row] = 0;
      total[row] = 1;
      continue;
    }
    if (label < 0 || label >= classes) return row;
    const T* x = logits + row * classes;
    total[row] = sum_of_scores(x, classes, 1);
    loss[row] = std::log(total[row]) - std::log(score_at(x, label));
  }
  return -1;
}

// d loss / d x_j = s'(x_j) * (1 / total - [j == label] / s(x_label)).
template <class T>
void cross_entropy_bwd(const double* dloss, const T* logits, const int64_t* labels, const double* total, T* dlogits,
                       int64_t classes, int64_t ignore, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t label = labels[row];
    const T* x = logits + row * classes;
    T* dx = dlogits + row * classes;
    if (label == ignore || label < 0 || label >= classes) {
      for (int64_t i = 0; i < classes; ++i) store(dx + i, 0.0);
      continue;
    }
    const double share = dloss[row] / total[row];
#pragma omp simd simdlen(4)
    for (int64_t i = 0; i < classes; ++i) {
      const double at = load(x[i]);
      store(dx + i, share * slope(at, score(at)));
    }
    const double at = load(x[label]), s = score(at);
    store(dx + label, (share - dloss[row] / s) * slope(at, s));
  }
}

}  // namespace

#define TRM_FAST_STABLEMAX(T)                                                                            \
  template <>                                                                                            \
  const StablemaxKernels<T> Table<StablemaxKernels<T>>::kernels = {fwd<T>, bwd<T>, cross_entropy_fwd<T>, \
                                                                   cross_entropy_bwd<T>}
TRM_FAST_STABLEMAX(float);
TRM_FAST_STABLEMAX(double);
TRM_FAST_STABLEMAX(BFloat16);

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
