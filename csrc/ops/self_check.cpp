// Each kernel of an instruction set beside the portable one, on one small input with odd sizes. Microseconds, once a
// process: a compiler's or a machine's fault then costs speed, not answers.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "ops/isa.h"

namespace trm_fast {
namespace {

constexpr int64_t kRows = 3, kSize = 149;

template <class T>
std::vector<T> wave(int64_t count, double frequency) {
  std::vector<T> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = T(4 * std::sin(frequency * double(i + 1)));
  return values;
}

template <class T>
bool close(const std::vector<T>& a, const std::vector<T>& b, double tolerance) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::abs(double(a[i]) - double(b[i])) <= tolerance * (1 + std::abs(double(b[i]))))) return false;
  }
  return true;
}

// Everything the kernels of one set make of the input, one after the other.
template <class T>
std::vector<T> results(Isa isa) {
  const int64_t count = kRows * kSize;
  const auto x = wave<T>(count, 0.7), dy = wave<T>(count, 1.3);
  std::vector<T> all;
  const auto keep = [&all](const auto& values) {
    for (const auto value : values) all.push_back(T(value));
  };

  const auto& norm = kernels<RmsNormKernels<T>>(isa);
  for (const Axis axis : {Axis{kRows, kSize, 1}, Axis{1, kRows, kSize}}) {
    std::vector<T> y(count), dx(count);
    std::vector<Accumulate<T>> rstd(count / axis.size);
    norm.fwd(x.data(), dy.data(), y.data(), rstd.data(), axis, 1e-5, 0, reduction_units(axis));
    norm.bwd(dy.data(), y.data(), rstd.data(), dx.data(), axis, 0, reduction_units(axis));
    keep(y), keep(rstd), keep(dx);
  }

  const auto& gate = kernels<SwiGluKernels<T>>(isa);
  const int64_t half = kSize / 2;
  std::vector<T> out(half), dgate(2 * half);
  gate.fwd(x.data(), out.data(), half, 0, half);
  gate.bwd(dy.data(), x.data(), dgate.data(), half, 0, half);
  keep(out), keep(dgate);
  out.assign(dy.begin(), dy.begin() + half);
  gate.bwd_recompute(out.data(), x.data(), dgate.data(), half, 0, half);
  keep(out), keep(dgate);

  const auto& stablemax = kernels<StablemaxKernels<T>>(isa);
  const int64_t labels[kRows] = {0, -100, kSize - 1};
  const std::vector<double> ones(count, 1.0), weights = wave<double>(count, 0.9);
  std::vector<double> p(count), loss(kRows), total(kRows);
  std::vector<T> dx(count), dlogits(count);
  stablemax.fwd(x.data(), p.data(), {kRows, kSize, 1}, 0, kRows);
  stablemax.bwd(weights.data(), x.data(), dx.data(), {kRows, kSize, 1}, 0, kRows);
  stablemax.cross_entropy_fwd(x.data(), labels, loss.data(), total.data(), kSize, -100, 0, kRows);
  stablemax.cross_entropy_bwd(ones.data(), x.data(), labels, total.data(), dlogits.data(), kSize, -100, 0, kRows);
  keep(p), keep(dx), keep(loss), keep(dlogits);

  const AdamNumbers<T> numbers{T(0.1), T(0.05), T(0.99), T(0.01), T(2), T(0.01), T(1), T(1e-8)};
  for (const auto step : {kernels<AdamKernels<T>>(isa).atan2, kernels<AdamKernels<T>>(isa).adamw}) {
    std::vector<T> param = x, m = dy, v(count, T(0.5)), ema = dy;
    step(param.data(), dy.data(), m.data(), v.data(), ema.data(), numbers, 0, count);
    keep(param), keep(m), keep(v), keep(ema);
  }

  std::vector<T> row = x;
  const int64_t grads[] = {0, 2};
  kernels<SignSgdKernels<T>>(isa).row(row.data(), dy.data(), grads, 2, kSize, T(0.9), T(0.1));
  keep(row);
  return all;
}

// The kernels that have float32 only.
std::vector<float> single_results(Isa isa) {
  constexpr int64_t kHeads = 2, kWidth = 38;
  const auto x = wave<float>(kRows * kSize, 0.7), dy = wave<float>(kRows * kSize, 1.3);
  std::vector<float> all;
  const auto keep = [&all](const std::vector<float>& values) { all.insert(all.end(), values.begin(), values.end()); };

  const auto& attention = kernels<AttentionKernels<float>>(isa);
  std::vector<float> p = x, dp = dy, q = x;
  std::unique_ptr<bool[]> there(new bool[kSize]);
  for (int64_t i = 0; i < kSize; ++i) there[i] = i % 3 != 1;
  std::vector<float> own = wave<float>(kRows, 0.9), down = wave<float>(kRows, 0.8);
  for (const Sight<float>& sight : {Sight<float>{kSize, nullptr, nullptr}, {kSize / 2, there.get(), own.data()}}) {
    attention.softmax(p.data(), kRows, kSize, kSize, 0.3f, sight);
    attention.softmax_bwd(dp.data(), p.data(), kRows, kSize, kSize, 0.3f, sight, down.data());
    keep(p), keep(dp);
    p = x;
  }
  keep(own), keep(down);
  for (const auto rotate : {attention.rotate, attention.rotate_bwd}) {
    rotate(q.data(), kSize, x.data(), dy.data(), 2, kHeads, kWidth, 0, kRows);
    keep(q);
  }

  kernels<AddKernels<float>>(isa).add(x.data(), dy.data(), p.data(), kRows * kSize);
  keep(p);
  return all;
}

// Element (i, j) of a matrix in panels of `width` columns and `rows` rows.
int64_t in_panels(int64_t i, int64_t j, int64_t rows, int64_t width) {
  return (j / width * rows + i) * width + j % width;
}

// Exact in bfloat16, so that products of it have nothing to round.
std::vector<float> coarse_wave(int64_t count, double frequency) {
  auto values = wave<float>(count, frequency);
  for (float& value : values) value = std::round(value * 32) / 32;
  return values;
}

// The matrix products, with their results in an order that does not depend on the set's panels.
std::vector<float> product_results(const GemmKernels& gemm) {
  constexpr int64_t kM = 29, kN = 64, kK = 23, kColumns = kN - 3;
  const int64_t width = gemm.width, lanes = width / 2;
  const auto a = coarse_wave(kM * kK, 0.7), b = coarse_wave(kK * kN, 1.3), w = coarse_wave(2 * kK * kN, 0.4);
  std::vector<float> all, left(kM * kK), pairs(2 * kN * kK), right(kK * kN), gate_up(2 * kK * kN);
  const auto keep = [&all](const std::vector<float>& values) { all.insert(all.end(), values.begin(), values.end()); };

  std::vector<float> c(kM * kN, 1.0f);
  for (const Strided& from : {Strided{b.data(), kN, 1}, Strided{b.data(), 1, kK}}) {
    gemm.pack_right(from, kK, kColumns, right.data(), kK * width);
    gemm.multiply({a.data(), kK, 0, 0}, {right.data(), kK * width}, kM, kColumns, kK, true, c.data(), kN);
    keep(c);
  }
  for (const Strided& from : {Strided{a.data(), kK, 1}, Strided{a.data(), 1, kM}}) {
    gemm.pack_left(from, kM, kK, left.data());
    gemm.multiply({left.data(), 0, 0, kK}, {right.data(), kK * width}, kM, kColumns, kK, false, c.data(), kN);
    keep(c);
  }

  // swiglu(a w) with kN hidden channels, and its gradient for dout = a b.
  const auto in_order = [&](const std::vector<float>& values, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) all.push_back(values[in_panels(i, j, rows, width)]);
    }
  };
  const float *gate = w.data(), *up = gate + kK * kN;
  std::vector<float> hidden(kM * kN), kept(2 * kM * kN), out(kM * kN), dgate_up(2 * kM * kN);
  gemm.pack_gate_up({gate, kN, 1}, {up, kN, 1}, kK, kN, kN, gate_up.data());
  gemm.pack_right({b.data(), kN, 1}, kK, kN, right.data(), kK * width);
  const Left rows{a.data(), kK, 0, 0};
  gemm.swiglu(rows, {gate_up.data(), (kK + gemm.steps - 1) / gemm.steps * width}, kM, kN, kK, kept.data(), 2 * kN, hidden.data(), kN);
  gemm.swiglu_bwd(rows, {right.data(), kK * width}, kM, kN, kK, kept.data(), 2 * kN, out.data(), dgate_up.data());
  keep(hidden), in_order(out, kM, kN);
  for (int64_t i = 0; i < kM; ++i) {
    for (int64_t j = 0; j < kN; ++j) {
      const int64_t at = in_panels(i, j / lanes * width + j % lanes, kM, width);
      all.push_back(dgate_up[at]), all.push_back(dgate_up[at + lanes]);
    }
  }

  // The same from the left: kM hidden rows for kN columns.
  gemm.pack_gate_up_left({w.data(), kK, 1}, {w.data() + kM * kK, kK, 1}, kM, kK, pairs.data());
  gemm.swiglu_left(pairs.data(), {right.data(), kK * width}, kM, kN / width, kK, kept.data(), out.data());
  in_order(out, kM, kN), in_order(kept, 2 * kM, kN);
  gemm.swiglu_left_bwd(rows, {right.data(), kK * width}, kM, kN / width, kK, kept.data(), out.data(), dgate_up.data());
  in_order(out, kM, kN), in_order(dgate_up, 2 * kM, kN);
  return all;
}

bool bfloat16_agrees(Isa isa) {
  std::vector<BFloat16> x(kSize - 1);
  for (int64_t i = 0; i < kSize - 1; ++i) x[i].bits = uint16_t(0x3f00 + 13 * i);  // 0.5 and up, exact in float
  const auto run = [&x](Isa set) {
    std::vector<BFloat16> y(x.size()), out(x.size() / 2);
    float rstd = 0;
    kernels<RmsNormKernels<BFloat16>>(set).fwd(x.data(), nullptr, y.data(), &rstd, {1, kSize - 1, 1}, 1e-5, 0, 1);
    kernels<SwiGluKernels<BFloat16>>(set).fwd(x.data(), out.data(), int64_t(out.size()), 0, int64_t(out.size()));
    std::vector<int> bits;
    for (const auto& values : {y, out}) {
      for (const BFloat16 value : values) bits.push_back(value.bits);
    }
    return bits;
  };
  const auto ours = run(isa), portable = run(Isa::portable);
  for (size_t i = 0; i < ours.size(); ++i) {
    if (std::abs(ours[i] - portable[i]) > 1) return false;  // one unit in the last place
  }
  return true;
}

bool bfloat16_products_agree() {
#ifdef TRM_FAST_AVX512BF16
  const auto ours = product_results(avx512bf16::Table<GemmKernels>::kernels);
  return close(ours, product_results(kernels<GemmKernels>(Isa::portable)), 1e-4);
#else
  return false;
#endif
}

}  // namespace

bool self_check(Isa isa) {
  return close(results<float>(isa), results<float>(Isa::portable), 1e-4) &&
         close(single_results(isa), single_results(Isa::portable), 1e-4) &&
         close(product_results(kernels<GemmKernels>(isa)), product_results(kernels<GemmKernels>(Isa::portable)), 1e-4) &&
         close(results<double>(isa), results<double>(Isa::portable), 1e-11) && bfloat16_agrees(isa) &&
         (isa != Isa::avx512bf16 || bfloat16_products_agree());
}

}  // namespace trm_fast
