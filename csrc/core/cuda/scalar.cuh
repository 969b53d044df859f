// Numbers that change from step to step are read on the device, so that a graph's replay sees their new values.
#pragma once

#include "core/cuda/device.cuh"

namespace trm_fast {
namespace cuda {

__device__ inline double value_of(const Scalar& scalar) {
  switch (scalar.kind) {
    case Scalar::Kind::float32: return *static_cast<const float*>(scalar.data);
    case Scalar::Kind::float64: return *static_cast<const double*>(scalar.data);
    case Scalar::Kind::int32: return *static_cast<const int32_t*>(scalar.data);
    case Scalar::Kind::int64: return double(*static_cast<const int64_t*>(scalar.data));
  }
  return 0;
}

}  // namespace cuda
}  // namespace trm_fast
