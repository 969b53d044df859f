// float16 as on the device.
#pragma once

struct __half {
  _Float16 value;
};

inline float __half2float(__half x) { return float(x.value); }
inline __half __float2half_rn(float f) { return {_Float16(f)}; }
