// Checks of the kernels of the ops and of additions: each against the formula of its op, in double.
#include <algorithm>

#include "checks.h"
#include "ops/adam_atan2_/kernels.h"
#include "ops/attention/kernels.h"
#include "ops/group_mixer/kernels.h"
#include "ops/rms_norm/kernels.h"
#include "ops/sign_sgd_rows_/kernels.h"
#include "ops/stablemax/kernels.h"
#include "ops/swiglu/kernels.h"

namespace checks {
namespace {

using trm_fast::Accumulate;
using trm_fast::Axis;
using trm_fast::kernels;

const Axis kAxes[] = {{3, 1, 1}, {2, 16, 1}, {5, 67, 1}, {2, 5, 3}, {2, 9, 64}, {1, 33, 150}};

// The error of a result of type T whose terms have the size `size`.
template <class T>
double bound(double value, double size) {
  return storing<T>() * std::fabs(value) + arithmetic<T>() * size + 1e-30;
}

template <class T>
void check_swiglu(Random& random) {
  for (const int64_t half : {1, 5, 64, 129}) {
    const int64_t outer = 3, count = outer * half;
    const auto gate_up = random.values<T>(2 * count, 8), dout = random.values<T>(count);
    std::vector<T> out(count), gradient(2 * count);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, count / 2}, {count / 2, count}}) {
      kernels<trm_fast::SwiGluKernels<T>>().fwd(gate_up.data(), out.data(), half, begin, end);
      kernels<trm_fast::SwiGluKernels<T>>().bwd(dout.data(), gate_up.data(), gradient.data(), half, begin, end);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t gate_at = i / half * 2 * half + i % half, up_at = gate_at + half;
      const double gate = value_of(gate_up[gate_at]), up = value_of(gate_up[up_at]), d = value_of(dout[i]);
      const double s = sigmoid(gate), value = gate * s * up;
      expect("swiglu", i, value_of(out[i]), {value, bound<T>(value, std::fabs(value))});
      const double dgate = d * up * s * (1 + gate * (1 - s)), dup = d * gate * s;
      expect("swiglu's gate", i, value_of(gradient[gate_at]),
             {dgate, bound<T>(dgate, std::fabs(d * up * s) * (1 + std::fabs(gate)))});
      expect("swiglu's up", i, value_of(gradient[up_at]), {dup, bound<T>(dup, std::fabs(dup))});
    }
  }
}

template <class T>
void check_rms_norm(Random& random, const Axis& axis, bool with_residual) {
  const int64_t count = axis.outer * axis.size * axis.inner, lines = axis.outer * axis.inner;
  const int64_t units = trm_fast::reduction_units(axis);
  const auto x = random.values<T>(count, 3), residual = random.values<T>(count), dy = random.values<T>(count);
  std::vector<T> y(count), dx(count);
  std::vector<Accumulate<T>> rstd(lines);
  const double eps = 1e-5;
  for (int64_t unit = 0; unit < units; ++unit) {
    const auto& table = kernels<trm_fast::RmsNormKernels<T>>();
    table.fwd(x.data(), with_residual ? residual.data() : nullptr, y.data(), rstd.data(), axis, eps, unit, unit + 1);
    table.bwd(dy.data(), y.data(), rstd.data(), dx.data(), axis, unit, unit + 1);
  }
  for (int64_t line = 0; line < lines; ++line) {
    const auto at = [&](int64_t i) { return (line / axis.inner * axis.size + i) * axis.inner + line % axis.inner; };
    const auto sum = [&](int64_t i) { return value_of(x[at(i)]) + (with_residual ? value_of(residual[at(i)]) : 0); };
    double squares = 0, dot = 0, magnitude = 0;
    for (int64_t i = 0; i < axis.size; ++i) {
      squares += sum(i) * sum(i);
      const double term = value_of(dy[at(i)]) * value_of(y[at(i)]);
      dot += term, magnitude += std::fabs(term);
    }
    const double scale = 1 / std::sqrt(squares / double(axis.size) + eps);
    expect("rms_norm's rstd", line, rstd[line], {scale, arithmetic<T>() * scale});
    for (int64_t i = 0; i < axis.size; ++i) {
      const double value = sum(i) * scale;
      expect("rms_norm", at(i), value_of(y[at(i)]), {value, bound<T>(value, std::fabs(value) + scale)});
      const double d = value_of(dy[at(i)]), out = value_of(y[at(i)]), gradient = scale * (d - out * dot / axis.size);
      expect("rms_norm_bwd", at(i), value_of(dx[at(i)]),
             {gradient, bound<T>(gradient, scale * (std::fabs(d) + std::fabs(out) * magnitude / axis.size))});
    }
  }
}

double score(double x) { return x < 0 ? 1 / (1 - x) : x + 1; }
double slope(double x) { return x < 0 ? score(x) * score(x) : 1; }

template <class T>
void check_stablemax(Random& random, const Axis& axis) {
  const int64_t count = axis.outer * axis.size * axis.inner, lines = axis.outer * axis.inner;
  const auto logits = random.values<T>(count, 20);
  const auto gradient = random.values<double>(count);
  const auto& table = kernels<trm_fast::StablemaxKernels<T>>();
  Doubles probabilities(count);
  std::vector<T> dlogits(count);
  table.fwd(logits.data(), probabilities.data(), axis, 0, lines);
  table.bwd(gradient.data(), logits.data(), dlogits.data(), axis, 0, lines);
  for (int64_t line = 0; line < lines; ++line) {
    const auto at = [&](int64_t i) { return (line / axis.inner * axis.size + i) * axis.inner + line % axis.inner; };
    const auto x = [&](int64_t i) { return value_of(logits[at(i)]); };
    double total = 0, dot = 0;
    for (int64_t i = 0; i < axis.size; ++i) total += score(x(i));
    for (int64_t i = 0; i < axis.size; ++i) dot += gradient[at(i)] * score(x(i)) / total;
    for (int64_t i = 0; i < axis.size; ++i) {
      expect("stablemax", at(i), probabilities[at(i)], {score(x(i)) / total, 1e-13});
      const double d = (gradient[at(i)] - dot) / total * slope(x(i));
      expect("stablemax_bwd", at(i), value_of(dlogits[at(i)]), {d, storing<T>() * std::fabs(d) + 1e-13});
    }
  }
}

template <class T>
void check_cross_entropy(Random& random) {
  for (const int64_t classes : {1, 11, 40}) {
    const int64_t rows = 9, ignored = -100;
    const auto logits = random.values<T>(rows * classes, 20);
    const auto gradient = random.values<double>(rows);
    std::vector<int64_t> labels(rows, ignored);
    for (int64_t i = 1; i < rows; ++i) labels[i] = random.below(classes);
    const auto& table = kernels<trm_fast::StablemaxKernels<T>>();
    Doubles loss(rows), total(rows);
    std::vector<T> dlogits(rows * classes, stored<T>(9));
    const auto wrong =
        table.cross_entropy_fwd(logits.data(), labels.data(), loss.data(), total.data(), classes, ignored, 0, rows);
    expect("cross_entropy's check", 0, double(wrong), {-1, 0});
    table.cross_entropy_bwd(gradient.data(), logits.data(), labels.data(), total.data(), dlogits.data(), classes,
                            ignored, 0, rows);
    for (int64_t row = 0; row < rows; ++row) {
      const auto x = [&](int64_t i) { return value_of(logits[row * classes + i]); };
      double sum = 0;
      for (int64_t i = 0; i < classes; ++i) sum += score(x(i));
      const bool counts = labels[row] != ignored;
      expect("cross_entropy", row, loss[row], {counts ? std::log(sum) - std::log(score(x(labels[row]))) : 0, 1e-13});
      for (int64_t i = 0; i < classes; ++i) {
        const double of_label = i == labels[row] ? 1 / score(x(i)) : 0;
        const double d = counts ? gradient[row] * slope(x(i)) * (1 / sum - of_label) : 0;
        expect("cross_entropy_bwd", row * classes + i, value_of(dlogits[row * classes + i]),
               {d, storing<T>() * std::fabs(d) + 1e-13});
      }
    }
    labels[4] = classes;
    const auto row =
        table.cross_entropy_fwd(logits.data(), labels.data(), loss.data(), total.data(), classes, ignored, 0, rows);
    expect("cross_entropy's check", 1, double(row), {4, 0});
  }
}

template <class T>
void check_adam(Random& random, bool adamw, bool with_ema) {
  const int64_t count = 83, begin = 3, end = 80;
  const auto g = random.values<T>(count);
  auto p = random.values<T>(count), m = random.values<T>(count), ema = random.values<T>(count);
  auto v = random.values<T>(count);
  for (T& x : v) x = std::fabs(x);
  m[7] = v[7] = 0, m[8] = 0;
  auto grads = g;
  grads[7] = 0;  // 0 / 0
  const auto p0 = p, m0 = m, v0 = v, ema0 = ema;
  const trm_fast::AdamCoefficients<T> c{T(0.1), T(0.05), T(0.99), T(0.02), T(1.5), T(0.3), T(0.7), T(1e-8)};
  const auto& table = kernels<trm_fast::AdamKernels<T>>();
  (adamw ? table.adamw : table.atan2)(p.data(), grads.data(), m.data(), v.data(), with_ema ? ema.data() : nullptr, c,
                                      begin, end);
  for (int64_t i = 0; i < count; ++i) {
    const bool inside = begin <= i && i < end;
    const double gradient = double(grads[i]) * double(c.grad_scale);
    const double mean = inside ? m0[i] + double(c.one_minus_beta1) * (gradient - m0[i]) : m0[i];
    const double square = inside ? v0[i] + double(c.one_minus_beta2) * (gradient * gradient - v0[i]) : v0[i];
    const double root = std::sqrt(square) * double(c.rsqrt_bias_correction2);
    const double direction = adamw ? mean / (root + double(c.eps)) : std::atan2(mean, root);
    const double parameter = inside ? p0[i] * double(c.decay_factor) - double(c.step_size) * direction : p0[i];
    const double average =
        inside && with_ema ? ema0[i] + double(c.one_minus_ema_decay) * (parameter - ema0[i]) : ema0[i];
    expect("adam's mean", i, m[i], {mean, bound<T>(mean, 1)});
    expect("adam's square", i, v[i], {square, bound<T>(square, 1)});
    expect("adam", i, p[i], {parameter, bound<T>(parameter, 1)});
    expect("adam's average", i, ema[i], {average, bound<T>(average, 1)});
  }
}

template <class T>
void check_sign_sgd(Random& random) {
  for (const int64_t columns : {1, 64, 77}) {
    const auto grads = random.values<T>(5 * columns);
    auto weight = random.values<T>(columns);
    const auto before = weight;
    const int64_t rows[] = {4, 1, 2};
    kernels<trm_fast::SignSgdKernels<T>>().row(weight.data(), grads.data(), rows, 3, columns, T(0.75), T(0.125));
    for (int64_t i = 0; i < columns; ++i) {
      double sum = 0;
      for (const int64_t row : rows) sum += grads[row * columns + i];
      const double value = before[i] * 0.75 - 0.125 * ((sum > 0) - (sum < 0));
      expect("sign_sgd", i, weight[i], {value, bound<T>(value, 1)});
    }
  }
}

void check_softmax(Random& random, int64_t columns, bool causal, bool masked, bool with_self) {
  const int64_t rows = 6, step = columns + 2, first = causal ? std::max<int64_t>(1, columns - 5) : columns;
  const float scale = 0.3f, infinity = std::numeric_limits<float>::infinity();
  auto scores = random.values(rows * step, 30), d = random.values(rows * step);
  auto self = random.values(rows, 30), dself = random.values(rows);
  if (with_self) self[2] = -infinity;
  const auto scores0 = scores, d0 = d, self0 = self, dself0 = dself;
  std::vector<char> valid(columns, 1);
  for (int64_t j = 1; masked && j < columns; ++j) valid[j] = random.below(3) > 0;
  const trm_fast::AttentionMask<float> mask{first, masked ? reinterpret_cast<const bool*>(valid.data()) : nullptr,
                                            with_self ? self.data() : nullptr};
  const auto& table = kernels<trm_fast::AttentionKernels<float>>();
  table.softmax(scores.data(), rows, columns, step, scale, mask);
  table.softmax_bwd(d.data(), scores.data(), rows, columns, step, scale, mask, with_self ? dself.data() : nullptr);
  for (int64_t row = 0; row < rows; ++row) {
    // The last column, number `columns`, is the row's own score.
    const auto seen = [&](int64_t j) { return j == columns ? with_self : j < first + row && valid[j]; };
    const auto at = [&](int64_t j) { return double(j == columns ? self0[row] : scores0[row * step + j]); };
    const auto gradient = [&](int64_t j) { return double(j == columns ? dself0[row] : d0[row * step + j]); };
    double largest = -infinity, total = 0, dot = 0;
    for (int64_t j = 0; j <= columns; ++j) {
      if (seen(j)) largest = std::max(largest, at(j));
    }
    const auto weight = [&](int64_t j) { return seen(j) ? std::exp((at(j) - largest) * scale) : 0; };
    for (int64_t j = 0; j <= columns; ++j) total += weight(j);
    for (int64_t j = 0; j <= columns; ++j) dot += weight(j) / total * gradient(j);
    for (int64_t j = 0; j < columns + with_self; ++j) {
      const double p = weight(j) / total, back = (gradient(j) - dot) * p * scale;
      expect("softmax", row * step + j, j == columns ? self[row] : scores[row * step + j], {p, 64 * kHalfUlp * p});
      expect("softmax_bwd", row * step + j, j == columns ? dself[row] : d[row * step + j], {back, 64 * kHalfUlp * p});
    }
    for (int64_t j = columns; j < step; ++j) {
      expect("softmax's edge", row * step + j, scores[row * step + j], {scores0[row * step + j], 0});
    }
  }
}

void check_rotation(Random& random, int64_t width) {
  const int64_t tokens = 3, heads = 2, rows = 5, stride = heads * width + 1, half = width / 2;
  const auto cos = random.values(tokens * width), sin = random.values(tokens * width);
  for (const bool back : {false, true}) {
    auto x = random.values(rows * stride);
    const auto before = x;
    const auto& table = kernels<trm_fast::AttentionKernels<float>>();
    (back ? table.rotate_bwd : table.rotate)(x.data(), stride, cos.data(), sin.data(), tokens, heads, width, 1, rows);
    for (int64_t i = 0; i < rows * stride; ++i) {
      const int64_t row = i / stride, channel = i % stride % width, token = row % tokens * width;
      double value = before[i];
      if (row > 0 && i % stride < heads * width) {
        const int64_t other = channel < half ? i + half : i - half;
        const double sign = (channel < half) == back ? 1 : -1;
        const int64_t angle = token + (back ? (channel + half) % width : channel);
        value = value * cos[token + channel] + sign * before[other] * sin[angle];
      }
      expect(back ? "rotate_bwd" : "rotate", i, x[i], {value, 4 * kHalfUlp});
    }
  }
}

void check_groups(Random& random, int64_t width) {
  const int64_t rows = 133, partitions = 3, groups = 12;
  const auto x = random.values(rows * width), values = random.values(groups * width), factors = random.values(groups);
  std::vector<int32_t> index(rows * partitions);
  for (int64_t i = 0; i < rows * partitions; ++i) index[i] = int32_t(i % partitions * 4 + i / partitions / 3 % 4);
  std::vector<float> sums(groups * width, 1), spread = x, scaled = values;
  const auto& table = kernels<trm_fast::GroupKernels>();
  table.sum(x.data(), index.data(), partitions, rows, width, sums.data());
  table.spread(values.data(), index.data(), partitions, rows, width, spread.data());
  table.scale(factors.data(), groups, width, scaled.data());
  Doubles truth(groups * width, 1), magnitude(groups * width, 1);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t c = 0; c < width; ++c) {
      double value = x[i * width + c];
      for (int64_t g = 0; g < partitions; ++g) {
        const int64_t group = index[i * partitions + g] * width + c;
        truth[group] += x[i * width + c], magnitude[group] += std::fabs(x[i * width + c]);
        value += values[group];
      }
      expect("spread", i * width + c, spread[i * width + c], {value, 16 * kHalfUlp});
    }
  }
  for (int64_t i = 0; i < groups * width; ++i) {
    expect("sum", i, sums[i], {truth[i], 32 * kHalfUlp * magnitude[i]});
    expect("scale", i, scaled[i], {double(values[i]) * factors[i / width], kHalfUlp});
  }
}

void check_add(Random& random) {
  const auto a = random.values(77), b = random.values(77);
  auto to = a;
  kernels<trm_fast::AddKernels<float>>().add(to.data(), b.data(), to.data(), 75);
  for (int64_t i = 0; i < 77; ++i) expect("add", i, to[i], {i < 75 ? a[i] + b[i] : a[i], 0});
}

}  // namespace

void check_ops() {
  Random random(1);
  check_swiglu<float>(random), check_swiglu<double>(random), check_swiglu<BFloat16>(random);
  for (const Axis& axis : kAxes) {
    for (const bool residual : {false, true}) {
      check_rms_norm<float>(random, axis, residual);
      check_rms_norm<double>(random, axis, residual);
      check_rms_norm<BFloat16>(random, axis, residual);
    }
    check_stablemax<float>(random, axis), check_stablemax<double>(random, axis);
    check_stablemax<BFloat16>(random, axis);
  }
  check_cross_entropy<float>(random), check_cross_entropy<double>(random), check_cross_entropy<BFloat16>(random);
  for (const bool adamw : {false, true}) {
    for (const bool ema : {false, true}) check_adam<float>(random, adamw, ema), check_adam<double>(random, adamw, ema);
  }
  check_sign_sgd<float>(random), check_sign_sgd<double>(random);
  for (const int64_t columns : {1, 9, 97}) {
    for (int options = 0; options < 8; ++options) {
      check_softmax(random, columns, options & 1, options & 2, options & 4);
    }
  }
  for (const int64_t width : {2, 24, 66}) check_rotation(random, width);
  for (const int64_t width : {1, 24, 72}) check_groups(random, width);
  check_add(random);
}

}  // namespace checks
