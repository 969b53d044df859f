// The update of one row of an embedding on a CPU.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// One row: `grads` are the `count` rows of the batch that hold its gradients.
template <class T>
struct SignSgdKernels {
  void (*row)(T* weight, const T* row_grads, const int64_t* grads, int64_t count, int64_t columns, T keep, T lr);
};

}  // namespace trm_fast
