// The processor's own peak: the arithmetic that its registers allow, without memory. A product cannot be faster.
#pragma once

#include "core/kernels.h"

namespace trm_fast {

// A loop of multiply-adds on registers, with the instruction of the matrix products of a set.
struct PeakKernels {
  int64_t flop;  // of a round
  void (*run)(int64_t rounds);
};

// FLOP per second of `threads` threads that run the loop at the same time, with the instructions of the current set: in
// float32, or products in bfloat16 with sums in float32. It is the best of several short runs, because other load on
// the machine only makes them slower. Zero if the set has no products in bfloat16. Throws std::invalid_argument for an
// impossible number of threads, and std::system_error if a thread cannot be started.
double peak_flops(bool bfloat16, int64_t threads);

}  // namespace trm_fast
