// The interface of stable-max and its cross-entropy on a CPU.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// The units of fwd and bwd are the lines along the axis (outer * inner), those of the cross-entropy are rows.
// cross_entropy_fwd returns the first row whose label is neither `ignore` nor in [0, classes), or -1.
template <class T>
struct StablemaxKernels {
  void (*fwd)(const T* logits, double* probabilities, Axis, int64_t begin, int64_t end);
  void (*bwd)(const double* dprobabilities, const T* logits, T* dlogits, Axis, int64_t begin, int64_t end);
  int64_t (*cross_entropy_fwd)(const T* logits, const int64_t* labels, double* loss, double* total, int64_t classes,
                               int64_t ignore, int64_t begin, int64_t end);
  void (*cross_entropy_bwd)(const double* dloss, const T* logits, const int64_t* labels, const double* total,
                            T* dlogits, int64_t classes, int64_t ignore, int64_t begin, int64_t end);
};

}  // namespace trm_fast
