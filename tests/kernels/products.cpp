// Checks of the matrix products, in every layout of their factors.
#include <algorithm>

#include "checks.h"

namespace checks {
namespace {

using trm_fast::GemmKernels;
using trm_fast::Left;
using trm_fast::Right;
using trm_fast::Strided;

constexpr float kUntouched = 1234.5f;  // in memory that a kernel must not write

// A random matrix. Its elements are `row` and `column` floats apart.
struct Matrix {
  int64_t rows, columns, row, column;
  std::vector<float> data;

  Matrix(Random& random, int64_t rows, int64_t columns, bool transposed = false, int64_t padding = 0)
      : rows(rows), columns(columns), row(transposed ? 1 : columns + padding), column(transposed ? rows + padding : 1),
        data(random.values(transposed ? columns * (rows + padding) : rows * (columns + padding))) {}
  float at(int64_t i, int64_t j) const { return data[i * row + j * column]; }
  Strided strided() const { return {data.data(), row, column}; }
};

int64_t slots(const GemmKernels& gemm, int64_t k) { return (k + gemm.steps - 1) / gemm.steps; }

// Element (i, j) of a product, and the error that its rounding may cause.
template <class A, class B>
Truth product(const GemmKernels& gemm, int64_t k, const A& a, const B& b) {
  double sum = 0, magnitude = 0;
  for (int64_t step = 0; step < k; ++step) {
    double x = a(step), y = b(step);
    if (gemm.steps == 2) x = rounded_to_bfloat16(x), y = rounded_to_bfloat16(y);
    sum += x * y, magnitude += std::fabs(x * y);
  }
  return {sum, (8 + 4 * std::sqrt(double(k))) * double(gemm.steps) * kHalfUlp * magnitude + 1e-30};
}
Truth product(const GemmKernels& gemm, const Matrix& a, const Matrix& b, int64_t i, int64_t j) {
  return product(gemm, a.columns, [&](int64_t s) { return a.at(i, s); }, [&](int64_t s) { return b.at(s, j); });
}
// A product and further terms, whose absolute values sum to `size`.
Truth plus(Truth a, double terms, double size) {
  return {a.value + terms, a.bound + 4 * kHalfUlp * (std::fabs(a.value) + size)};
}

// A left factor in one of its layouts.
enum class Layout { rows, padded_rows, chunks, packed, packed_transposed, slots };
constexpr int kLayouts = 6;

struct LeftFactor {
  Matrix matrix;
  std::vector<float> memory;
  Left left;

  LeftFactor(const GemmKernels& gemm, Random& random, int64_t m, int64_t k, Layout layout)
      : matrix(random, m, k, layout == Layout::packed_transposed, layout == Layout::padded_rows ? 5 : 0) {
    if (layout == Layout::rows || layout == Layout::padded_rows) {
      left = {matrix.data.data(), matrix.row, 0, 0};
    } else if (layout == Layout::chunks) {  // panels of 2 widths, as in the outputs of other products
      const int64_t chunk = 2 * gemm.width, chunks = (k + chunk - 1) / chunk;
      memory.assign(chunks * chunk * m, kUntouched);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t s = 0; s < k; ++s) memory[s / chunk * chunk * m + i * chunk + s % chunk] = matrix.at(i, s);
      }
      left = {memory.data(), chunk, chunk, chunk * m};
    } else if (layout == Layout::slots) {
      memory.assign(m * slots(gemm, k), kUntouched);
      left = gemm.to_slots({matrix.data.data(), matrix.row, 0, 0}, m, k, memory.data());
    } else {
      memory.assign(m * slots(gemm, k), 0);
      gemm.pack_left(matrix.strided(), m, k, memory.data());
      left = {memory.data(), 0, 0, k};
    }
  }
};

struct RightFactor {
  std::vector<float> memory;
  Right right;

  RightFactor(const GemmKernels& gemm, const Matrix& b, int64_t padding = 0) {
    const int64_t stride = slots(gemm, b.rows) * gemm.width + padding,
                  panels = (b.columns + gemm.width - 1) / gemm.width;
    memory.assign(panels * stride, kUntouched);
    gemm.pack_right(b.strided(), b.rows, b.columns, memory.data(), stride);
    right = {memory.data(), stride};
  }
};

void check_multiply(const GemmKernels& gemm, Random& random, int64_t m, int64_t n, int64_t k, Layout layout, bool add) {
  const LeftFactor a(gemm, random, m, k, layout);
  const Matrix b(random, k, n, random.below(2), random.below(3));
  const RightFactor right(gemm, b, gemm.width * random.below(2));
  const int64_t ldc = n + 3;
  auto c = random.values(m * ldc, 10);
  for (int64_t i = 0; i < m; ++i) std::fill_n(c.data() + i * ldc + n, 3, kUntouched);
  const auto before = c;
  gemm.multiply(a.left, right.right, m, n, k, add, c.data(), ldc);
  const std::string what = "multiply " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
                           ", layout " + std::to_string(int(layout)) + (add ? ", added" : "");
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double old = add ? before[i * ldc + j] : 0;
      const Truth truth = plus(product(gemm, a.matrix, b, i, j), old, std::fabs(old));
      expect(what, i * ldc + j, c[i * ldc + j], truth);
    }
    for (int64_t j = n; j < ldc; ++j) expect(what + ", beyond the edge", i * ldc + j, c[i * ldc + j], {kUntouched, 0});
  }
}

Truth swiglu(Truth gate, Truth up) {
  const double s = sigmoid(gate.value), silu = gate.value * s, value = silu * up.value;
  return {value,
          1.1 * gate.bound * std::fabs(up.value) + std::fabs(silu) * up.bound + 32 * kHalfUlp * std::fabs(value)};
}

// A half of a float that holds two bfloat16 numbers.
double half_of(float pair, int index) {
  BFloat16 both[2];
  std::memcpy(both, &pair, sizeof(both));
  return value_of(both[index]);
}

// A result that is stored in the type of the factors.
Truth in_slots(const GemmKernels& gemm, Truth x) {
  return {x.value, x.bound + (gemm.steps == 1 ? 0 : storing<BFloat16>() * std::fabs(x.value))};
}

// The gate and up values that the forward keeps for the backward: two floats, or in bfloat16 the halves of one.
struct Kept {
  const GemmKernels& gemm;
  std::vector<float> data;

  Kept(const GemmKernels& gemm, int64_t count) : gemm(gemm), data(count / gemm.steps * 2, kUntouched) {}
  void set(int64_t gate_at, int64_t up_at, double gate, double up) {
    if (gemm.steps == 1) {
      data[gate_at] = float(gate), data[up_at] = float(up);
    } else {
      const BFloat16 both[] = {stored<BFloat16>(gate), stored<BFloat16>(up)};
      std::memcpy(&data[gate_at], both, sizeof(both));
    }
  }
  double gate(int64_t gate_at) const { return gemm.steps == 1 ? double(data[gate_at]) : half(gate_at, 0); }
  double up(int64_t gate_at, int64_t up_at) const { return gemm.steps == 1 ? double(data[up_at]) : half(gate_at, 1); }
  double half(int64_t at, int index) const { return half_of(data[at], index); }
  Truth rounded(Truth x) const { return in_slots(gemm, x); }
};

// The gradients of swiglu: of gate, and of up.
Truth gate_gradient(Truth dout, double gate, double up) {
  const double s = sigmoid(gate), slope = s * (1 + gate * (1 - s));
  return {dout.value * up * slope, std::fabs(up * slope) * dout.bound + 32 * kHalfUlp * std::fabs(dout.value * up)};
}
Truth up_gradient(Truth dout, double gate) {
  const double silu = gate * sigmoid(gate);
  return {dout.value * silu, std::fabs(silu) * dout.bound + 32 * kHalfUlp * std::fabs(dout.value * silu)};
}

void check_swiglu(const GemmKernels& gemm, Random& random, int64_t m, int64_t halves, int64_t k, int64_t per_row,
                  bool keep) {
  const int64_t half = gemm.width / 2, inner = halves * half, width = gemm.width, ldo = slots(gemm, inner) + 3;
  const LeftFactor a(gemm, random, m, k, Layout(random.below(kLayouts)));
  const Matrix gate(random, k, inner, true), up(random, k, inner, true);
  std::vector<float> packed(halves * slots(gemm, k) * width);
  gemm.pack_gate_up(gate.strided(), up.strided(), k, inner, inner, packed.data());
  const auto rows = random.values(7 * halves * width);  // 7 rows to add
  std::vector<int32_t> index(m * per_row);
  for (int32_t& i : index) i = int32_t(random.below(7));
  const int64_t kept_width = width / gemm.steps;
  Kept gate_up(gemm, m * halves * width);
  std::vector<float> out(m * ldo, kUntouched);
  gemm.swiglu(
      a.left, {packed.data(), slots(gemm, k) * width}, m, inner, k,
      {{rows.data(), width, 7 * width}, index.data(), per_row},
      keep ? trm_fast::Panels<float>{gate_up.data.data(), kept_width, m * kept_width} : trm_fast::Panels<float>{},
      out.data(), ldo);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      const int64_t panel = j / half, column = j % half;
      double added[2] = {}, size = 0;
      for (int64_t r = 0; r < per_row; ++r) {
        const float* row = rows.data() + (panel * 7 + index[i * per_row + r]) * width + column;
        added[0] += row[0], added[1] += row[half], size += std::fabs(row[0]) + std::fabs(row[half]);
      }
      const Truth g = plus(product(gemm, a.matrix, gate, i, j), added[0], size);
      const Truth u = plus(product(gemm, a.matrix, up, i, j), added[1], size);
      const float slot = out[i * ldo + j / gemm.steps];
      const double value = gemm.steps == 1 ? double(slot) : half_of(slot, int(j % 2));
      expect("swiglu", i * ldo + j / gemm.steps, value, in_slots(gemm, swiglu(g, u)));
      const int64_t at = (panel * m + i) * kept_width + column;
      if (!keep) continue;
      expect("swiglu's gate", at, gate_up.gate(at), gate_up.rounded(g));
      expect("swiglu's up", at, gate_up.up(at, at + half), gate_up.rounded(u));
    }
    for (int64_t j = slots(gemm, inner); j < ldo; ++j)
      expect("swiglu's edge", i * ldo + j, out[i * ldo + j], {kUntouched, 0});
  }
}

void check_swiglu_bwd(const GemmKernels& gemm, Random& random, int64_t m, int64_t halves, int64_t k) {
  const int64_t half = gemm.width / 2, inner = halves * half, width = gemm.width, panels = (halves + 1) / 2;
  const LeftFactor a(gemm, random, m, k, Layout(random.below(kLayouts)));
  const Matrix b(random, k, inner);
  const RightFactor right(gemm, b);
  const int64_t kept_width = width / gemm.steps;
  Kept gate_up(gemm, 2 * panels * m * width);
  for (int64_t row = 0; row < 2 * panels * m; ++row) {
    for (int64_t c = 0; c < half; ++c) {
      const int64_t at = row * kept_width + c;
      gate_up.set(at, at + half, 4 * random.uniform(), 4 * random.uniform());
    }
  }
  std::vector<float> out(panels * m * width), gradient(2 * panels * m * width);
  gemm.swiglu_bwd(a.left, right.right, m, inner, k, {gate_up.data.data(), kept_width, m * kept_width}, out.data(),
                  gradient.data());
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      const int64_t at = (j / half * m + i) * width + j % half;
      const int64_t kept_at = (j / half * m + i) * kept_width + j % half;
      const double gate = gate_up.gate(kept_at), up = gate_up.up(kept_at, kept_at + half);
      const Truth dout = product(gemm, a.matrix, b, i, j);
      expect("swiglu_bwd", at, out[(j / width * m + i) * width + j % width], swiglu({gate, 0}, {up, 0}));
      expect("swiglu_bwd's gate", at, gradient[at], gate_gradient(dout, gate, up));
      expect("swiglu_bwd's up", at, gradient[at + half], up_gradient(dout, gate));
    }
  }
}

void check_swiglu_left(const GemmKernels& gemm, Random& random, int64_t inner, int64_t columns, int64_t k) {
  const int64_t width = gemm.width, panels = (columns + width - 1) / width;
  const Matrix gate(random, inner, k), up(random, inner, k), b(random, k, columns);
  const RightFactor right(gemm, b);
  std::vector<float> packed(2 * inner * slots(gemm, k)), out(panels * inner * width);
  Kept gate_up(gemm, 2 * int64_t(out.size()));
  gemm.pack_gate_up_left(gate.strided(), up.strided(), inner, k, packed.data());
  gemm.swiglu_left(packed.data(), right.right, inner, panels, k, gate_up.data.data(), out.data());
  // The backward, with another product as the gradient of the output.
  const LeftFactor d(gemm, random, inner, k, Layout(random.below(kLayouts)));
  std::vector<float> again(out.size()), gradient(2 * out.size());
  gemm.swiglu_left_bwd(d.left, right.right, inner, panels, k, gate_up.data.data(), again.data(), gradient.data());
  for (int64_t i = 0; i < inner; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t at = (j / width * inner + i) * width + j % width;
      const int64_t gate_at = (j / width * 2 * inner + i) * width + j % width, up_at = gate_at + inner * width;
      const Truth g = product(gemm, gate, b, i, j), u = product(gemm, up, b, i, j);
      expect("swiglu_left", at, out[at], swiglu(g, u));
      const int64_t kept_at = gemm.steps == 1 ? gate_at : at;
      const double kept_gate = gate_up.gate(kept_at), kept_up = gate_up.up(kept_at, up_at);
      expect("swiglu_left's gate", gate_at, kept_gate, gate_up.rounded(g));
      expect("swiglu_left's up", up_at, kept_up, gate_up.rounded(u));
      const Truth dout = product(gemm, d.matrix, b, i, j);
      expect("swiglu_left_bwd", at, again[at], swiglu({kept_gate, 0}, {kept_up, 0}));
      expect("swiglu_left_bwd's gate", gate_at, gradient[gate_at], gate_gradient(dout, kept_gate, kept_up));
      expect("swiglu_left_bwd's up", up_at, gradient[up_at], up_gradient(dout, kept_gate));
    }
  }
  // The output as the right factor of the next product.
  const auto values = out;
  gemm.pack_panels(out.data(), inner, panels, inner * width);
  const LeftFactor next(gemm, random, 3, inner, Layout::rows);
  std::vector<float> c(3 * columns);
  gemm.multiply(next.left, {out.data(), inner * width}, 3, columns, inner, false, c.data(), columns);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const auto right_at = [&](int64_t s) { return values[(j / width * inner + s) * width + j % width]; };
      const auto left_at = [&](int64_t s) { return next.matrix.at(i, s); };
      expect("pack_panels", i * columns + j, c[i * columns + j], product(gemm, inner, left_at, right_at));
    }
  }
}

}  // namespace

void check_products(const GemmKernels& gemm) {
  Random random(uint64_t(gemm.width * gemm.steps));
  for (const int64_t m : {int64_t(1), int64_t(2), gemm.rows, gemm.rows + 1, 2 * gemm.rows + 5}) {
    for (const int64_t n : {int64_t(1), gemm.width / 2, gemm.width / 2 + 1, gemm.width, 2 * gemm.width + 3}) {
      for (const int64_t k : {1, 2, 7, 48, 131}) {
        for (int layout = 0; layout < kLayouts; ++layout) {
          check_multiply(gemm, random, m, n, k, Layout(layout), false);
          check_multiply(gemm, random, m, n, k, Layout(layout), true);
        }
      }
    }
  }
  for (int layout = 0; layout < kLayouts; ++layout)
    check_multiply(gemm, random, 5, gemm.width + 1, 2101, Layout(layout), true);
  for (const int64_t m : {int64_t(1), gemm.rows, 3 * gemm.rows + 1}) {
    for (const int64_t halves : {1, 2, 3}) {
      for (const int64_t k : {1, 8, 33}) {
        for (const int64_t per_row : {0, 1, 3}) check_swiglu(gemm, random, m, halves, k, per_row, per_row != 1);
        check_swiglu_bwd(gemm, random, m, halves, k);
      }
    }
  }
  for (const int64_t inner : {int64_t(1), gemm.rows / 2, gemm.rows + 3}) {
    for (const int64_t columns : {int64_t(1), gemm.width, 2 * gemm.width + 1}) {
      for (const int64_t k : {1, 16, 81}) check_swiglu_left(gemm, random, inner, columns, k);
    }
  }
}

}  // namespace checks
