// What attention needs on a CPU beside matrix products.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// What rows of scores see. Row i: the first `first + i` columns, or all if that is more; of those the columns that are
// `valid` (null: all); and, unless `self_score` is null, a key that stands in no column: self_score[i] is its score,
// -infinity where there is none, and becomes its probability. A row sees at least one column or its own key.
template <class T>
struct AttentionMask {
  int64_t first;
  const bool* valid;
  T* self_score;
};

// The parts of attention beside its products. scores (rows, columns), rows `step` apart, become probabilities in place,
// dprobabilities become dscores; what a row does not see becomes zero. `down` (rows): the gradient of `self_score`, in
// place.
// rotate: units are rows of x, `stride` apart, each `heads` x `width`; cos and sin (tokens, width).
template <class T>
struct AttentionKernels {
  void (*softmax)(T* scores, int64_t rows, int64_t columns, int64_t step, T scale, const AttentionMask<T>&);
  void (*softmax_bwd)(T* dprobabilities, const T* probabilities, int64_t rows, int64_t columns, int64_t step, T scale,
                      const AttentionMask<T>&, T* down);
  void (*rotate)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                 int64_t begin, int64_t end);
  void (*rotate_bwd)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                     int64_t begin, int64_t end);
};

}  // namespace trm_fast
