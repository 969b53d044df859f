// The interface of SignSGD for one row of an embedding table on a CPU.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// Updates one row of `columns` weights in place. `grads` has the indices of the `count` rows of row_grads that are
// gradients of this row. `decay_factor` is 1 - lr * weight_decay.
template <class T>
struct SignSgdKernels {
  void (*row)(T* weight, const T* row_grads, const int64_t* grads, int64_t count, int64_t columns, T decay_factor,
              T lr);
};

}  // namespace trm_fast
