// Chooses the instruction set: the machine's best, or a lower one if the environment variable TRM_FAST_CPU names it.
#include "core/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace trm_fast {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512bf16"};

Isa parse(const std::string& name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kNames[i]) return Isa(i);
  }
  throw std::invalid_argument("TRM_FAST_CPU: no instruction set '" + name +
                              "': choose one of portable, avx2, avx512, avx512bf16");
}

Isa machine_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#ifdef TRM_FAST_AVX512BF16
  if (avx2 && avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::avx512bf16;
#endif
  if (avx2 && avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa choose() {
  const char* cap = std::getenv("TRM_FAST_CPU");
  return cap && *cap ? std::min(parse(cap), machine_isa()) : machine_isa();
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{choose()};
  return isa;
}

}  // namespace

Isa current_isa() { return current().load(std::memory_order_relaxed); }

void set_isa(const char* name) {
  const Isa isa = parse(name);
  if (isa > machine_isa()) throw std::invalid_argument(std::string("this machine cannot run the ") + name + " kernels");
  current().store(isa, std::memory_order_relaxed);
}

const GemmKernels* bfloat16_products() {
#ifdef TRM_FAST_AVX512BF16
  if (current_isa() == Isa::avx512bf16) return &avx512bf16::Table<GemmKernels>::kernels;
#endif
  return nullptr;
}

const char* isa_name(Isa isa) { return kNames[int(isa)]; }

}  // namespace trm_fast
