// The instruction set that the CPU kernels run with.
#pragma once

#include "ops/kernels.h"

namespace trm_fast {

enum class Isa { portable, avx2, avx512 };

// The best that this machine has, TRM_FAST_CPU allows and the self-check passes; found once.
Isa current_isa();

// For tests: "portable", "avx2", "avx512". Throws std::invalid_argument for a set that cannot be used here.
void set_isa(const char* name);
const char* isa_name(Isa);

// Runs every kernel of `isa` beside the portable ones on a small input; false if any result differs.
bool self_check(Isa isa);

template <class Kernels>
const Kernels& kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::Table<Kernels>::kernels;
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
