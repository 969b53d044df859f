// The CPU kernels of attention besides the matrix products.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// Which columns each row of scores includes. Row i includes the first `first + i` columns (or all), of these only the
// `valid` ones (null: all). Unless `self_score` is null, a row also includes a key that is in no column: self_score[i]
// is its score, -infinity if there is none, and becomes its probability. Every row includes at least one of the two.
template <class T>
struct AttentionMask {
  int64_t first;
  const bool* valid;
  T* self_score;
};

// softmax turns scores (rows, columns), rows `step` apart, into probabilities in place; softmax_bwd turns
// dprobabilities into dscores. Columns that a row excludes become zero. `down` (rows): the gradient of `self_score`, in
// place. rotate: units are rows of x, `stride` apart, each `heads` x `width`; cos and sin (tokens, width).
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
