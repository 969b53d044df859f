// What the checks of the CPU kernels share: random numbers, and comparisons with an oracle in double. The checks need
// no torch, so they can be compiled for other processors and run in an emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/isa.h"

namespace checks {

using trm_fast::BFloat16;
using Doubles = std::vector<double>;

constexpr double kHalfUlp = 1.0 / (1 << 24);  // the relative error of one rounding to float32

struct Counts {
  int64_t values = 0, failures = 0;
};
inline Counts counts;

// A number that an oracle computed, and the error that is allowed.
struct Truth {
  double value, bound;
};

inline double rounded_to_bfloat16(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  const double mantissa = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8);
}

inline double value_of(float x) { return x; }
inline double value_of(double x) { return x; }
inline double value_of(BFloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <class T>
T stored(double x) {
  return T(x);
}
template <>
inline BFloat16 stored<BFloat16>(double x) {
  const float value = float(rounded_to_bfloat16(x));
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return {uint16_t(bits >> 16)};
}

// The relative error of storing a result of type T that was computed in the type of T's arithmetic.
template <class T>
constexpr double storing() {
  return std::is_same_v<T, BFloat16> ? 1.0 / (1 << 8) : std::is_same_v<T, float> ? kHalfUlp : 1e-16;
}
// The relative error of a few operations in that arithmetic.
template <class T>
constexpr double arithmetic() {
  return std::is_same_v<T, double> ? 1e-14 : 16 * kHalfUlp;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 88172645463325252u) {}
  uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  double uniform() { return double(int64_t(next() >> 11)) / double(int64_t(1) << 52) - 1; }  // in [-1, 1)
  int64_t below(int64_t count) { return int64_t(next() >> 33) % count; }
  template <class T = float>
  std::vector<T> values(int64_t count, double scale = 1) {
    std::vector<T> result(count);
    for (T& x : result) x = stored<T>(scale * uniform());
    return result;
  }

 private:
  uint64_t state_;
};

// Compares one value with the oracle's. A NaN is wrong, unless the oracle has one too.
inline void expect(const std::string& what, int64_t index, double got, Truth truth) {
  ++counts.values;
  const bool same = std::isnan(truth.value)   ? std::isnan(got)
                    : std::isinf(truth.value) ? got == truth.value
                                              : std::fabs(got - truth.value) <= truth.bound;
  if (same) return;
  if (++counts.failures <= 20) {
    std::printf("  %s [%lld]: %.9g, expected %.9g within %.2g\n", what.c_str(), (long long)index, got, truth.value,
                truth.bound);
  }
}

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void check_products(const trm_fast::GemmKernels& gemm);
void check_ops();

}  // namespace checks
