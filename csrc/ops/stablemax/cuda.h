// The interface of stable-max and its cross-entropy on a GPU.
#pragma once

#include "core/cuda/launch.h"

namespace trm_fast {
namespace cuda {

// Like StablemaxKernels, but a label outside [0, classes) that is not `ignore` gives NaN instead of an error, because
// the host does not wait for the kernel.
cudaError_t stablemax_fwd(Type, const void* logits, double* probabilities, Axis, cudaStream_t);
cudaError_t stablemax_bwd(Type, const double* dprobabilities, const void* logits, void* dlogits, Axis, cudaStream_t);
cudaError_t stablemax_cross_entropy_fwd(Type, const void* logits, const int64_t* labels, double* loss, double* total,
                                        int64_t rows, int64_t classes, int64_t ignore, cudaStream_t);
cudaError_t stablemax_cross_entropy_bwd(Type, const double* dloss, const void* logits, const int64_t* labels,
                                        const double* total, void* dlogits, int64_t rows, int64_t classes,
                                        int64_t ignore, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
