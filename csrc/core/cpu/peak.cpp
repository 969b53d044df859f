// The loop that measures a processor's peak: independent sums in registers, enough to hide the latency of an
// instruction.
#include "core/peak.h"

#include "core/cpu/blocks.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

#if defined(TRM_FAST_AMX)
// Products of tiles in registers: four sums are enough.
constexpr int64_t kFlop = 4 * 2 * kTile * kTile * kTile * kSteps;

void run(int64_t rounds) {
  TileShapes shapes;
  for (int tile = 0; tile < 6; ++tile) shapes.set(tile, kTile, kTile);
  configure_tiles(shapes);
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_release();
}
#else
// The sums, the factors and a temporary product fit in 16 vector registers, or in 32.
#if defined(__AVX512F__) || defined(TRM_FAST_NEON)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif

constexpr int64_t kFlop = 2 * kSteps * kLanes * kSums;

// Each step needs the one before it, so that the compiler cannot merge steps.
#if defined(TRM_FAST_PAIRS)
inline Vector step(Vector sum, float a, Vector b) { return multiply_add(sum, a, b); }
#else
inline Vector step(Vector sum, float a, Vector b) { return sum * a + b; }
#endif

void run(int64_t rounds) {
  volatile float half = 0.5f;  // volatile, because the compiler would drop steps whose result it knows
  const float a = half;
  const Vector b = Vector{} + a;
  Vector sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = Vector{} + float(i);
#pragma GCC unroll 2
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = step(sum[i], a, b);
  }
  float results[kSums * kLanes];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) store_vector(results + i * kLanes, sum[i]);
  __asm__ volatile("" : : "r"(results) : "memory");  // the compiler must not drop a sum that nobody reads
}
#endif

}  // namespace

template <>
const PeakKernels Table<PeakKernels>::kernels = {kFlop, run};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
