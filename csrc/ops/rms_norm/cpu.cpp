// Residual addition and RMSNorm on a CPU, in two passes over a row, or over a block of columns; the second pass reads
// from cache.
#include <algorithm>

#include "core/cpu/simd.h"
#include "ops/rms_norm/kernels.h"

namespace trm_fast {
namespace TRM_FAST_ISA {
namespace {

template <bool kResidual, class T>
inline Accumulate<T> sum_at(const T* x, const T* residual, int64_t i) {
  if constexpr (kResidual) {
    return load(x[i]) + load(residual[i]);
  } else {
    return load(x[i]);
  }
}

template <class T, bool kResidual>
void fwd_row(const T* x, const T* residual, T* y, Accumulate<T>* rstd, int64_t size, Accumulate<T> eps) {
  using A = Accumulate<T>;
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) {
    const A t = sum_at<kResidual>(x, residual, i);
    squares += t * t;
  }
  const A scale = 1 / sqrt(squares / A(size) + eps);
  *rstd = scale;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) store(y + i, sum_at<kResidual>(x, residual, i) * scale);
}

// Normalizes `width` neighboring columns, each over `size` rows that are `stride` elements apart. kFull makes the width
// a constant, so that the compiler vectorizes the inner loops.
template <class T, bool kResidual, bool kFull>
void fwd_columns(const T* x, const T* residual, T* y, Accumulate<T>* rstd, int64_t size, int64_t stride, int64_t width,
                 Accumulate<T> eps) {
  using A = Accumulate<T>;
  const int64_t columns = kFull ? kColumns : width;
  A squares[kColumns] = {};
  for (int64_t row = 0, at = 0; row < size; ++row, at += stride) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const A t = sum_at<kResidual>(x, residual, at + c);
      squares[c] += t * t;
    }
  }
  A scale[kColumns];
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) rstd[c] = scale[c] = 1 / sqrt(squares[c] / A(size) + eps);
  for (int64_t row = 0, at = 0; row < size; ++row, at += stride) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) store(y + at + c, sum_at<kResidual>(x, residual, at + c) * scale[c]);
  }
}

// Calls row(offset, rstd offset) or columns(offset, rstd offset, width) for each unit of the range.
template <class Row, class Columns>
void for_units(const Axis& axis, int64_t begin, int64_t end, const Row& row, const Columns& columns) {
  if (axis.inner == 1) {
    for (int64_t unit = begin; unit < end; ++unit) row(unit * axis.size, unit);
    return;
  }
  const int64_t blocks = (axis.inner + kColumns - 1) / kColumns;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t outer = unit / blocks, column = unit % blocks * kColumns;
    columns(outer * axis.size * axis.inner + column, outer * axis.inner + column,
            std::min(kColumns, axis.inner - column));
  }
}

template <class T, bool kResidual>
void fwd_range(const T* x, const T* residual, T* y, Accumulate<T>* rstd, Axis axis, Accumulate<T> eps, int64_t begin,
               int64_t end) {
  for_units(
      axis, begin, end,
      [&](int64_t at, int64_t row) {
        fwd_row<T, kResidual>(x + at, residual + at, y + at, rstd + row, axis.size, eps);
      },
      [&](int64_t at, int64_t first, int64_t width) {
        const auto run = width == kColumns ? fwd_columns<T, kResidual, true> : fwd_columns<T, kResidual, false>;
        run(x + at, residual + at, y + at, rstd + first, axis.size, axis.inner, width, eps);
      });
}

template <class T>
void fwd(const T* x, const T* residual, T* y, Accumulate<T>* rstd, Axis axis, double eps, int64_t begin, int64_t end) {
  if (residual) {
    fwd_range<T, true>(x, residual, y, rstd, axis, Accumulate<T>(eps), begin, end);
  } else {
    fwd_range<T, false>(x, x, y, rstd, axis, Accumulate<T>(eps), begin, end);
  }
}

// dx = rstd * (dy - y * mean(dy * y)), which holds for any eps.
template <class T>
void bwd_row(const T* dy, const T* y, Accumulate<T> rstd, T* dx, int64_t size) {
  using A = Accumulate<T>;
  A dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < size; ++i) dot += load(dy[i]) * load(y[i]);
  const A mean = dot / A(size);
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) store(dx + i, rstd * (load(dy[i]) - load(y[i]) * mean));
}

template <class T, bool kFull>
void bwd_columns(const T* dy, const T* y, const Accumulate<T>* rstd, T* dx, int64_t size, int64_t stride,
                 int64_t width) {
  using A = Accumulate<T>;
  const int64_t columns = kFull ? kColumns : width;
  A mean[kColumns] = {};
  for (int64_t row = 0, at = 0; row < size; ++row, at += stride) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) mean[c] += load(dy[at + c]) * load(y[at + c]);
  }
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) mean[c] /= A(size);
  for (int64_t row = 0, at = 0; row < size; ++row, at += stride) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) store(dx + at + c, rstd[c] * (load(dy[at + c]) - load(y[at + c]) * mean[c]));
  }
}

template <class T>
void bwd(const T* dy, const T* y, const Accumulate<T>* rstd, T* dx, Axis axis, int64_t begin, int64_t end) {
  for_units(
      axis, begin, end, [&](int64_t at, int64_t row) { bwd_row(dy + at, y + at, rstd[row], dx + at, axis.size); },
      [&](int64_t at, int64_t first, int64_t width) {
        const auto run = width == kColumns ? bwd_columns<T, true> : bwd_columns<T, false>;
        run(dy + at, y + at, rstd + first, dx + at, axis.size, axis.inner, width);
      });
}

}  // namespace

template <>
const RmsNormKernels<float> Table<RmsNormKernels<float>>::kernels = {fwd<float>, bwd<float>};
template <>
const RmsNormKernels<double> Table<RmsNormKernels<double>>::kernels = {fwd<double>, bwd<double>};
template <>
const RmsNormKernels<BFloat16> Table<RmsNormKernels<BFloat16>>::kernels = {fwd<BFloat16>, bwd<BFloat16>};

}  // namespace TRM_FAST_ISA
}  // namespace trm_fast
