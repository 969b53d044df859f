// The interface of the CPU kernels of attention, except the matrix products.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// The keys that each row of scores includes. Row i includes those of the first `first + i` columns that are `valid`
// (null: all). Unless `self_score` is null, row i may also include a key without a column. self_score[i] is its score,
// or -infinity if there is none, and softmax replaces it by its probability. Every row includes at least one key.
template <class T>
struct AttentionMask {
  int64_t first;
  const bool* valid;
  T* self_score;
};

// softmax turns scores (rows, columns), with rows `step` floats apart, into probabilities in place. softmax_bwd turns
// dprobabilities into dscores in place, and does the same for `dself_score` (rows). Columns that a row excludes become
// zero. rotate works in place on rows [begin, end) of x, `stride` floats apart, each `heads` x `width`.
// cos and sin are (tokens, width), and row i is token i % tokens. rotate_bwd applies the transposed rotation.
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
