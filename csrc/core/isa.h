// Selects the instruction set of the CPU kernels, and the tables of kernels for it.
#pragma once

#include "core/products.h"

namespace trm_fast {

// The sets of the processor's architecture, in the order of core/kernels.h, and the emulated one, which is only used if
// it is named.
#define TRM_FAST_NAME(isa) isa,
#define TRM_FAST_BFLOAT16_NAME(isa, base) isa,
enum class Isa { TRM_FAST_ISAS(TRM_FAST_NAME) TRM_FAST_BFLOAT16_ISAS(TRM_FAST_BFLOAT16_NAME) emulated };
#undef TRM_FAST_NAME
#undef TRM_FAST_BFLOAT16_NAME

// The best instruction set that this machine has and TRM_FAST_CPU allows. The first call determines it, and throws
// std::invalid_argument if TRM_FAST_CPU is not a name that isa_name returns.
Isa current_isa();

// Sets the instruction set, for tests and checks. Throws std::invalid_argument if `name` is not a name that isa_name
// returns, or if this machine cannot run the set.
void set_isa(const char* name);
const char* isa_name(Isa);

// The matrix products that round their factors to bfloat16; null if the current set has none.
const GemmKernels* bfloat16_products();

// Whether those of the current set are known to be faster than products in float32.
bool prefers_bfloat16();

template <class Kernels>
const Kernels& kernels() {
#define TRM_FAST_CASE(isa) \
  case Isa::isa: return isa::Table<Kernels>::kernels;
#define TRM_FAST_BFLOAT16_CASE(isa, base) \
  case Isa::isa: return base::Table<Kernels>::kernels;
  switch (current_isa()) {
    TRM_FAST_ISAS(TRM_FAST_CASE)
    TRM_FAST_BFLOAT16_ISAS(TRM_FAST_BFLOAT16_CASE)
    case Isa::emulated: break;
  }
#undef TRM_FAST_CASE
#undef TRM_FAST_BFLOAT16_CASE
  return portable::Table<Kernels>::kernels;
}

}  // namespace trm_fast
