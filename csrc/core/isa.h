// The instruction set that the CPU kernels run with.
#pragma once

#include "core/products.h"

namespace trm_fast {

// avx512bf16 is avx512 and has products of bfloat16 besides.
enum class Isa { portable, avx2, avx512, avx512bf16 };

// The best that this machine has and TRM_FAST_CPU allows; found once. That its kernels are right is a test's matter, and
// `trm-fast info --check`'s.
Isa current_isa();

// For tests: a name as isa_name gives it. Throws std::invalid_argument for a set that cannot be used here.
void set_isa(const char* name);
const char* isa_name(Isa);

// The matrix products that round their factors to bfloat16; null where the set in use has none.
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
