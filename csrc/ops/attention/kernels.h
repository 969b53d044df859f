// The CPU kernels of attention besides the matrix products.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// The columns that each row of scores includes: row i those of the first `first + i` columns that are `valid` (null:
// all). Unless `self_score` is null, row i also includes a key that has no column: self_score[i] is its score
// (-infinity if the row has no such key), and softmax replaces it by its probability. Every row includes at least one
// key.
template <class T>
struct AttentionMask {
  int64_t first;
  const bool* valid;
  T* self_score;
};

// softmax turns scores (rows, columns), rows `step` apart, into probabilities in place; softmax_bwd turns
// dprobabilities into dscores. Columns that a row excludes become zero. `dself_score` (rows): the gradient of
// `self_score`, in place. rotate works in place on rows [begin, end) of x, `stride` floats apart, each `heads` x
// `width`; cos and sin are (tokens, width), and row i has token i % tokens. rotate_bwd applies the transposed rotation.
template <class T>
struct AttentionKernels {
  void (*softmax)(T* scores, int64_t rows, int64_t columns, int64_t step, T scale, const AttentionMask<T>&);
  void (*softmax_bwd)(T* dprobabilities, const T* probabilities, int64_t rows, int64_t columns, int64_t step, T scale,
                      const AttentionMask<T>&, T* dself_score);
  void (*rotate)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                 int64_t begin, int64_t end);
  void (*rotate_bwd)(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t width,
                     int64_t begin, int64_t end);
};

}  // namespace trm_fast
