// The interface of the CUDA kernels, which each op declares in its cuda.h. Launchers take raw pointers and a stream,
// return an error, and do not use torch. All tensors are contiguous. Outputs must not alias inputs, unless a comment
// says that the kernel works in place.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/kernels.h"

#if __has_include(<cuda_runtime.h>)
#include <cuda_runtime.h>
#else  // a build without CUDA only compiles these declarations
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
#endif

namespace trm_fast {
namespace cuda {

enum class Type { float32, bfloat16, float16 };

// The padded token count of the fused layers, or 0 if they have no kernel for that many tokens. The fused layers take
// bfloat16 or float16, and packed weights (trm_fast/ops/packing.py): padded with zeros, aligned to 16 bytes, with gate
// and up interleaved in groups of 8 rows. `inner` is the padded inner width.
inline int64_t padded_tokens(int64_t tokens) {
  for (const int64_t size : {32, 64, 96, 112, 128}) {
    if (tokens <= size) return size;
  }
  return 0;
}

}  // namespace cuda
}  // namespace trm_fast
