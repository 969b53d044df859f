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

// The instruction sets of the processor's architecture, from the lowest to the highest. Those of TRM_FAST_ISAS, as
// X(set), have tables of all kernels. Those of TRM_FAST_BFLOAT16_ISAS, as X(set, base), only have matrix products in
// bfloat16, and their other kernels are those of `base`. build_support.py has the compiler's flags for each set, and
// core/isa.cpp knows which of them the processor can run.
#if defined(__x86_64__)
#define TRM_FAST_ISAS(X) X(portable) X(avx2) X(avx512)
#define TRM_FAST_BFLOAT16_ISAS(X) X(avx512bf16, avx512) X(amxbf16, avx512)
#elif defined(__aarch64__)
#define TRM_FAST_ISAS(X) X(portable) X(neon)
#define TRM_FAST_BFLOAT16_ISAS(X) X(neonbf16, neon)
#else
#define TRM_FAST_ISAS(X) X(portable)
#define TRM_FAST_BFLOAT16_ISAS(X)
#endif

#define TRM_FAST_TABLE(isa)       \
  namespace isa {                 \
  template <class Kernels>        \
  struct Table {                  \
    static const Kernels kernels; \
  };                              \
  }
#define TRM_FAST_BFLOAT16_TABLE(isa, base) TRM_FAST_TABLE(isa)
TRM_FAST_ISAS(TRM_FAST_TABLE)
TRM_FAST_BFLOAT16_ISAS(TRM_FAST_BFLOAT16_TABLE)
// Products in bfloat16 without the instructions for them: slow, for tests on any machine. All else is portable.
TRM_FAST_TABLE(emulated)
#undef TRM_FAST_TABLE
#undef TRM_FAST_BFLOAT16_TABLE

}  // namespace trm_fast
