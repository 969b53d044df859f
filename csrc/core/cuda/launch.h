// The CUDA kernels' interface, which each op declares in its own cuda.h: raw pointers and a stream in, an error out, no
// torch. Outputs are contiguous.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/kernels.h"

#if __has_include(<cuda_runtime.h>)
#include <cuda_runtime.h>
#else  // a build without CUDA reads the interface and calls nothing of it
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
#endif

namespace trm_fast {
namespace cuda {

enum class Type { float32, bfloat16, float16 };

// The layers of the fused network, bfloat16 or float16. Weights are packed (trm_fast/ops/packing.py): padded with zeros,
// 16 bytes aligned, the rows of gate and up in turns of 8. `inner` is the padded one. No kernel for a token count whose
// padding is 0, or where the widths are not multiples as said.
inline int64_t padded_tokens(int64_t tokens) {
  for (const int64_t size : {32, 64, 96, 112, 128}) {
    if (tokens <= size) return size;
  }
  return 0;
}

}  // namespace cuda
}  // namespace trm_fast
