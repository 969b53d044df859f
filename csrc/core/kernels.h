// The interface of the CPU kernels: raw pointers, no torch. In its kernels.h, each op declares a table of functions for
// each type. Each instruction set has its own tables; kernels<...>() returns the table of the current set. A function
// works on a range of units, so that the caller can divide the units among threads.
#pragma once

#include <cstdint>
#include <type_traits>

namespace trm_fast {

struct BFloat16 {
  uint16_t bits;
};

// The type of an op's arithmetic and of its saved statistics.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A contiguous tensor, viewed as [outer, size, inner]: `size` is the axis that an op works along.
struct Axis {
  int64_t outer, size, inner;
};

// Columns per unit of a reduction over a strided axis. The partial sums of so few columns fit in vector registers.
constexpr int64_t kColumns = 64;

// The number of units of a reduction: rows if inner == 1, otherwise blocks of kColumns columns.
inline int64_t reduction_units(const Axis& axis) {
  return axis.inner == 1 ? axis.outer : axis.outer * ((axis.inner + kColumns - 1) / kColumns);
}

namespace portable {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}  // namespace portable
#if defined(__x86_64__)
namespace avx2 {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}  // namespace avx2
namespace avx512 {
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}  // namespace avx512
namespace avx512bf16 {  // only GemmKernels, with products in bfloat16
template <class Kernels>
struct Table {
  static const Kernels kernels;
};
}  // namespace avx512bf16
#endif

}  // namespace trm_fast
