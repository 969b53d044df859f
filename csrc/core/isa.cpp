// Chooses the instruction set: the machine's best, or a lower one if the environment variable TRM_FAST_CPU names it.
#include "core/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace trm_fast {
namespace {

#define TRM_FAST_NAME(isa) #isa,
#define TRM_FAST_BFLOAT16_NAME(isa, base) #isa,
constexpr const char* kNames[] = {TRM_FAST_ISAS(TRM_FAST_NAME)
                                      TRM_FAST_BFLOAT16_ISAS(TRM_FAST_BFLOAT16_NAME) "emulated"};
#undef TRM_FAST_NAME
#undef TRM_FAST_BFLOAT16_NAME
constexpr int kCount = sizeof(kNames) / sizeof(kNames[0]);

Isa parse(const std::string& name) {
  std::string names;
  for (int i = 0; i < kCount; ++i) {
    if (name == kNames[i]) return Isa(i);
    names += (i ? ", " : "") + std::string(kNames[i]);
  }
  throw std::invalid_argument("TRM_FAST_CPU: no instruction set '" + name + "': choose one of " + names);
}

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#if defined(TRM_FAST_BFLOAT16)
// Whether the processor has AMX products in bfloat16, and the system lets this process use its tiles.
bool has_amx() {
#if defined(__linux__)
  constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kBFloat16 | kTiles)) != (kBFloat16 | kTiles)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, which older headers lack
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif
#elif defined(__aarch64__) && defined(TRM_FAST_BFLOAT16)
bool has_bfloat16() {
#if defined(__linux__)
  return getauxval(AT_HWCAP2) & (1 << 14);  // HWCAP2_BF16, which older headers lack
#elif defined(__APPLE__)
  int32_t value = 0;
  size_t size = sizeof(value);
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &value, &size, nullptr, 0) == 0 && value;
#else
  return false;
#endif
}
#endif

// Whether this machine can run the kernels of a set, and they were built.
bool runs(Isa isa) {
  switch (isa) {
    case Isa::portable:
    case Isa::emulated: return true;
#if defined(__x86_64__)
    case Isa::avx2: return has_avx2();
    case Isa::avx512: return has_avx512();
#ifdef TRM_FAST_BFLOAT16
    case Isa::avx512bf16: return has_avx512() && __builtin_cpu_supports("avx512bf16");
    case Isa::amxbf16: return runs(Isa::avx512bf16) && has_amx();
#endif
#elif defined(__aarch64__)
    case Isa::neon: return true;
#ifdef TRM_FAST_BFLOAT16
    case Isa::neonbf16: return has_bfloat16();
#endif
#endif
    default: return false;
  }
}

// The highest set up to `cap` that this machine can run.
Isa best(Isa cap) {
  int isa = int(cap);
  while (!runs(Isa(isa))) --isa;  // ends at portable
  return Isa(isa);
}

Isa choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const char* cap = std::getenv("TRM_FAST_CPU");
  return best(cap && *cap ? parse(cap) : Isa(int(Isa::emulated) - 1));
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{choose()};
  return isa;
}

}  // namespace

Isa current_isa() { return current().load(std::memory_order_relaxed); }

void set_isa(const char* name) {
  const Isa isa = parse(name);
  if (!runs(isa)) throw std::invalid_argument(std::string("this machine cannot run the ") + name + " kernels");
  current().store(isa, std::memory_order_relaxed);
}

const GemmKernels* bfloat16_products() {
  switch (current_isa()) {
#ifdef TRM_FAST_BFLOAT16
#define TRM_FAST_CASE(isa, base) \
  case Isa::isa: return &isa::Table<GemmKernels>::kernels;
    TRM_FAST_BFLOAT16_ISAS(TRM_FAST_CASE)
#undef TRM_FAST_CASE
#endif
    case Isa::emulated: return &emulated::Table<GemmKernels>::kernels;
    default: return nullptr;
  }
}

bool prefers_bfloat16() {
  switch (current_isa()) {
#if defined(__x86_64__) && defined(TRM_FAST_BFLOAT16)
    case Isa::amxbf16: return true;
    case Isa::avx512bf16: return __builtin_cpu_is("amd");  // Intel's take twice as long as in float32
#endif
    default: return false;
  }
}

const char* isa_name(Isa isa) { return kNames[int(isa)]; }

}  // namespace trm_fast
