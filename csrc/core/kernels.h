// The CPU kernels' interface: raw pointers, no torch. A table of functions for each op and type, which the op declares
// in its own kernels.h; each instruction set has its own tables, and kernels<...>() gives those of the set in use. Every
// function works on a range of units, so that the caller can share the units out among threads.
#pragma once

#include <cstdint>
#include <type_traits>

namespace trm_fast {

struct BFloat16 {
  uint16_t bits;
};

// The type that an op computes and keeps statistics in.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A contiguous tensor seen from one of its axes: [outer, size, inner].
struct Axis {
  int64_t outer, size, inner;
};

// Columns that one unit of a reduction over a strided axis covers: a few vector registers of partial sums.
constexpr int64_t kColumns = 64;

// Units: rows if inner == 1, otherwise blocks of kColumns columns.
inline int64_t reduction_units(const Axis& axis) {
  return axis.inner == 1 ? axis.outer : axis.outer * ((axis.inner + kColumns - 1) / kColumns);
}

namespace portable {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
#if defined(__x86_64__)
namespace avx2 {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
namespace avx512 {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
namespace avx512bf16 {  // GemmKernels only, with products in bfloat16
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}
#endif

}  // namespace trm_fast
