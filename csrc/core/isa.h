// Selects the instruction set of the CPU kernels, and the tables of kernels for it.
#pragma once

#include "core/products.h"

namespace trm_fast {

// avx512bf16 is avx512 plus matrix products in bfloat16.
enum class Isa { portable, avx2, avx512, avx512bf16 };

// The best instruction set that this machine has and TRM_FAST_CPU allows. The first call determines it, and throws
// std::invalid_argument if TRM_FAST_CPU is not a name that isa_name returns.
Isa current_isa();

// Sets the instruction set, for tests and checks. Throws std::invalid_argument if `name` is not a name that isa_name
// returns, or if this machine cannot run the set.
void set_isa(const char* name);
const char* isa_name(Isa);

// The matrix products that round their factors to bfloat16; null if the current set has none.
const GemmKernels* bfloat16_products();

template <class Kernels>
const Kernels& kernels() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return avx512::Table<Kernels>::kernels;
  if (isa == Isa::avx2) return avx2::Table<Kernels>::kernels;
#endif
  return portable::Table<Kernels>::kernels;
}

}  // namespace trm_fast
