// The interface of SignSGD for rows of an embedding table on a GPU.
#pragma once

#include "core/cuda/launch.h"
#include "core/scalar.h"

namespace trm_fast {
namespace cuda {

// Updates weight (rows, columns) in place from row_grads (batch, columns). Ids outside [0, rows) are ignored.
cudaError_t sign_sgd_rows_(float* weight, const float* row_grads, const int64_t* ids, Scalar lr, double weight_decay,
                           int64_t rows, int64_t columns, int64_t batch, cudaStream_t);

}  // namespace cuda
}  // namespace trm_fast
