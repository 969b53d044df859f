// The instruction set that the CPU kernels run with.
#pragma once

#include "ops/kernels.h"

namespace trm_fast {

// avx512bf16 is avx512 and has products of bfloat16 besides.
enum class Isa { portable, avx2, avx512, avx512bf16 };

// The best that this machine has, TRM_FAST_CPU allows and the self-check passes; found once.
Isa current_isa();

// For tests: a name as isa_name gives it. Throws std::invalid_argument for a set that cannot be used here.
void set_isa(const char* name);
const char* isa_name(Isa);

// Runs every kernel of `isa` beside the portable ones on a small input; false if any result differs.
bool self_check(Isa isa);

// The matrix products that round their factors to bfloat16; null where the set in use has none.
const GemmKernels* bfloat16_products();

template <class Kernels>
const Kernels& kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return avx512::Table<Kernels>::kernels;
  if (isa == Isa::avx2) return avx2::Table<Kernels>::kernels;
#endif
  (void)isa;
  return portable::Table<Kernels>::kernels;
}

template <class Kernels>
const Kernels& kernels() {
  return kernels<Kernels>(current_isa());
}

}  // namespace trm_fast
