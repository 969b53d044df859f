// Scalar arguments of kernels that change from step to step, such as the learning rate. They are passed by address, so
// that a replayed CUDA graph reads the current values.
#pragma once

#include "core/kernels.h"

#ifdef __CUDACC__
#define TRM_FAST_HOST_DEVICE __host__ __device__ inline
#else
#define TRM_FAST_HOST_DEVICE inline
#endif

namespace trm_fast {

// A number in the memory of the device on which the kernel runs. `data` is not null unless a comment allows it.
struct Scalar {
  enum class Kind : int32_t { float32, float64, int32, int64 };
  const void* data;
  Kind kind;
};

// `scalar.data` must not be null.
TRM_FAST_HOST_DEVICE double read_scalar(const Scalar& scalar) {
  switch (scalar.kind) {
    case Scalar::Kind::float32: return *static_cast<const float*>(scalar.data);
    case Scalar::Kind::float64: return *static_cast<const double*>(scalar.data);
    case Scalar::Kind::int32: return *static_cast<const int32_t*>(scalar.data);
    case Scalar::Kind::int64: return double(*static_cast<const int64_t*>(scalar.data));
  }
  return 0;
}

}  // namespace trm_fast
