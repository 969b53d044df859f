// The interface of SwiGLU's activation, silu(gate) * up, on a CPU.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// The units are elements of the output. `half` is the number of contiguous elements of the gate, and of up, per outer
// index.
template <class T>
struct SwiGluKernels {
  void (*fwd)(const T* gate_up, T* out, int64_t half, int64_t begin, int64_t end);
  void (*bwd)(const T* dout, const T* gate_up, T* dgate_up, int64_t half, int64_t begin, int64_t end);
};

}  // namespace trm_fast
