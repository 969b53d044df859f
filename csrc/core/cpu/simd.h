// Scalar functions that GCC can vectorize, because they have no branches or calls. Their namespace is that of the
// instruction set: the linker merges inline functions of the same name, and might otherwise keep one with instructions
// that the machine lacks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Conversions from the storage type to the arithmetic type and back.
inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(BFloat16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }

inline void store(float* to, float x) { *to = x; }
inline void store(double* to, double x) { *to = x; }
inline void store(BFloat16* to, float x) {
  const uint32_t u = bits_as<uint32_t>(x);
  const uint32_t nearest_even = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  to->bits = uint16_t((u & 0x7fffffff) > 0x7f800000 ? 0x7fc0u : nearest_even);
}
inline void store(float* to, double x) { *to = float(x); }
inline void store(BFloat16* to, double x) { store(to, float(x)); }

// What functions of a float, or of a vector of floats, need besides arithmetic.
template <class Floats>
struct Lanewise;
template <>
struct Lanewise<float> {
  using Bits = uint32_t;
  // x, but at most or at least `limit`. NaN stays NaN.
  static float at_most(float x, float limit) { return x > limit ? limit : x; }
  static float at_least(float x, float limit) { return x < limit ? limit : x; }
  // 1 / x for x >= 1, and 0 for infinity.
  static float inverse(float x) { return 1.0f / x; }
};

// Range reduction for e^x = 2^n e^r: returns e^r; the low bits of `shifted` hold the integer n. On |r| <= ln(2)/2, e^r
// = 1 + r + r^2 P(r), where P is a minimax fit (relative error 3e-9). `Floats` is float or a vector of floats.
template <class Floats>
inline Floats reduced_exp(Floats x, Floats& shifted) {
  shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 moves the integer to the low bits
  const Floats n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = 0.0013813144760206342f * r + 0.008369418792426586f;
  p = p * r + 0.04166845604777336f;
  p = p * r + 0.16666515171527863f;
  p = p * r + 0.4999999403953552f;
  return 1.0f + (r + r * r * p);
}

// e^x, with an error of at most 1 ulp, even if the result is denormal.
inline float exp(float x) {
  x = Lanewise<float>::at_least(Lanewise<float>::at_most(x, 89.0f), -104.0f);  // a larger x gives infinity anyway
  float shifted;
  const float e = reduced_exp(x, shifted);
  // 2^n as two factors, because it may be outside the range of float.
  const int32_t i = int32_t(bits_as<uint32_t>(shifted) - 0x4b400000u);
  const int32_t half = i >> 1;
  return e * bits_as<float>(uint32_t(half + 127) << 23) * bits_as<float>(uint32_t(i - half + 127) << 23);
}

// 1 / (1 + e^-x); zero below -88.4. A denormal e^-x vanishes when added to 1, so a single factor 2^n is enough, which
// makes the forward of a small model 8 % faster. `Floats` is float or a vector of floats.
template <class Floats>
inline Floats sigmoid(Floats x) {
  using Lanes = Lanewise<Floats>;
  using Bits = typename Lanes::Bits;
  Floats shifted;
  const Floats e =
      reduced_exp<Floats>(-Lanes::at_least(Lanes::at_most(x, 87.0f), -89.0f), shifted);  // e^89 is infinite
  return Lanes::inverse(1.0f + e * bits_as<Floats>((bits_as<Bits>(shifted) << 23) + 0x3f800000u));
}
inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// atan2(y, x) for x >= 0, all that Adam-atan2 needs, with an error of at most 2 ulp. On [0, 1], atan(q) = q + q^3
// P(q^2), where P is a minimax fit (relative error 2e-8).
inline float atan2_nonnegative_x(float y, float x) {
  const float a = std::fabs(y);
  const bool steep = a > x;
  const float low = steep ? x : a;
  const float high = steep ? a : x;
  float q = low / high;
  q = low == high ? 1.0f : q;   // infinity over infinity
  q = high == 0.0f ? 0.0f : q;  // zero over zero
  const float t = q * q;
  float p = 0.0029206890612840652f;
  p = p * t - 0.016367916017770767f;
  p = p * t + 0.04321184381842613f;
  p = p * t - 0.07552212476730347f;
  p = p * t + 0.10666003823280334f;
  p = p * t - 0.14211055636405945f;
  p = p * t + 0.19993773102760315f;
  p = p * t - 0.33333152532577515f;
  const float angle = q + q * t * p;
  const float folded = steep ? 1.57079632679f - angle : angle;
  return std::copysign(folded, y);
}
inline double atan2_nonnegative_x(double y, double x) { return std::atan2(y, x); }

inline float sqrt(float x) { return std::sqrt(x); }
inline double sqrt(double x) { return std::sqrt(x); }

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
