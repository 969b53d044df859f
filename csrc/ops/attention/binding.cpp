// Attention on a CPU: the layer, which calls matrix products and the kernels of cpu.cpp, and the binding of its op.
#include <cmath>
#include <limits>

#include "core/recursion.h"
#include "ops/attention/kernels.h"
#include "ops/rms_norm/kernels.h"

namespace trm_fast {
namespace {

// Queries per block. A block has whole rows of scores, so softmax needs no running maximum. In causal order, blocks are
// smaller: each computes scores up to its last query, and masks half of those among its own queries.
constexpr int64_t kQueries = 128, kCausalQueries = 64;

// The keys of one example that its queries may attend to.
struct VisibleKeys {
  const bool* valid;  // one per token; null if all are valid
  int64_t keys;       // the keys up to the last valid one, which are the columns of the scores
  bool has_padding;   // whether some of these keys are padding
};

float dot(const float* a, const float* b, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(const float* x, float scale, int64_t count, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += scale * x[i];
}

// A padded token attends to itself, and no other token attends to it. Its score with itself is stored apart from the
// other scores. The activations have rows of 4 D: queries and keys (both rotated), values, and the heads' output.
class Attention final : public Layer {
 public:
  Attention(const Sizes& sizes, const float* w_in, const float* w_out, int64_t heads, const float* cos,
            const float* sin, bool causal)
      : Layer(sizes, w_in, w_out, sizes.channels), L(sizes.tokens), D(sizes.channels), heads_(heads), width_(D / heads),
        causal_(causal), queries_(std::min(causal ? kCausalQueries : kQueries, L)), blocks_(ceil_div(L, queries_)),
        padded_(round_up(L, kPanel)), scale_(float(1 / std::sqrt(double(width_)))), cos_(cos), sin_(sin) {}

  int64_t packed_size() const override { return right_size(D, 3 * D) + right_size(D, D); }
  void pack(float* to) const override {
    pack_right({w_in_, 1, D}, D, 3 * D, to);
    pack_right({w_out_, 1, D}, D, D, to + right_size(D, 3 * D));
  }

  int64_t packed_backward_size() const override { return right_size(3 * D, D) + right_size(D, D); }
  void pack_backward(float* to) const override {
    pack_right({w_in_, D, 1}, 3 * D, D, to);
    pack_right({w_out_, D, 1}, D, D, to + right_size(3 * D, D));
  }

  int64_t gradient_size() const override { return 4 * D * D; }
  void unpack_gradient(const float* gradient, float* dw_in, float* dw_out) const override {
    std::copy_n(gradient, 3 * D * D, dw_in);
    std::copy_n(gradient + 3 * D * D, D * D, dw_out);
  }

  int64_t activations_size() const override { return 4 * sizes_.example(); }
  int64_t rstd_size() const override { return sizes_.tokens; }
  int64_t work_size() const override { return activations_size(); }
  int64_t forward_scratch(int64_t) const override { return block_size() + kQueries + 2 * factor_size(); }
  int64_t backward_scratch(int64_t examples) const override {
    const int64_t count = rows(examples);
    return count * 7 * D + std::max(count * gemm_.width, 3 * block_size() + 2 * kQueries + 5 * factor_size());
  }

  int64_t phases() const override { return 3; }
  int64_t units(int64_t phase, const Forward& f) const override {
    return phase == 1 ? f.examples * heads_ * blocks_ : row_tiles(f);
  }

  void forward(const Forward& f, int64_t phase, int64_t begin, int64_t end, float* scratch) const override {
    if (phase == 1) return attend(f, begin, end, scratch);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit * f.tile_rows, count = std::min(f.tile_rows, rows(f.examples) - first);
      phase == 0 ? project_in(f, first, count) : project_out(f, first, count);
    }
  }

  void backward(const Backward& b, float* scratch) const override {
    const int64_t count = rows(b.examples);
    float *dout = scratch, *dqkv = dout + count * D, *left = dqkv + count * 3 * D;
    float* work = left + count * 3 * D;
    float* dw_out = b.gradient + 3 * D * D;
    kernels<RmsNormKernels<float>>().bwd(b.d, b.y, b.rstd, b.d, {count, D, 1}, 0, count);
    gemm_.multiply({b.d, D, 0, 0}, right(b.packed + right_size(3 * D, D), D), count, D, D, false, dout, D);
    weight_gradient(b.d, D, D, b.activations + 3 * D, 4 * D, count, left, work, dw_out);
    if (may_skip_keys(b.valid)) std::fill_n(dqkv, count * 3 * D, 0.0f);
    for (int64_t example = 0; example < b.examples; ++example) {
      const VisibleKeys visible = visible_keys(b.valid, example);
      for (int64_t head = 0; head < heads_; ++head) {
        const int64_t row = example * L, at = head * width_;
        attend_bwd(visible, may_skip_keys(b.valid), b.activations + row * 4 * D + at, dout + row * D + at,
                   dqkv + row * 3 * D + at, work);
      }
    }
    if (cos_) {
      kernels<AttentionKernels<float>>().rotate_bwd(dqkv, 3 * D, cos_, sin_, L, heads_, width_, 0, count);
      kernels<AttentionKernels<float>>().rotate_bwd(dqkv + D, 3 * D, cos_, sin_, L, heads_, width_, 0, count);
    }
    weight_gradient(dqkv, 3 * D, 3 * D, b.h, D, count, left, work, b.gradient);
    gemm_.multiply({dqkv, 3 * D, 0, 0}, right(b.packed, 3 * D), count, D, 3 * D, true, b.d, D);
  }

 private:
  int64_t block_size() const { return queries_ * padded_; }
  // Floats of one head's keys or values as a packed right factor.
  int64_t factor_size() const { return std::max(right_size(width_, padded_), right_size(L, width_)); }

  // Whether a block of queries may skip keys. If so, their gradients are accumulated, starting with zeros.
  bool may_skip_keys(const bool* valid) const { return causal_ || valid; }

  VisibleKeys visible_keys(const bool* valid, int64_t example) const {
    if (!valid) return {nullptr, L, false};
    valid += example * L;
    int64_t keys = L;
    while (keys > 1 && !valid[keys - 1]) --keys;
    const bool has_padding = std::find(valid, valid + keys, false) != valid + keys;
    return {has_padding || keys < L ? valid : nullptr, keys, has_padding};
  }

  // dw (n, D) += transposed(dy) x, with dy (count, n) and x (count, D).
  void weight_gradient(const float* dy, int64_t n, int64_t ldy, const float* x, int64_t ldx, int64_t count, float* left,
                       float* work, float* dw) const {
    gemm_.pack_left({dy, 1, ldy}, n, count, left);
    for (int64_t column = 0; column < D; column += gemm_.width) {
      const int64_t columns = std::min(gemm_.width, D - column);
      const Right right = pack_right({x + column, ldx, 1}, count, columns, work);
      gemm_.multiply({left, 0, 0, count}, right, n, columns, count, true, dw + column, D);
    }
  }

  void project_in(const Forward& f, int64_t first, int64_t count) const {
    gemm_.multiply({f.h + first * D, D, 0, 0}, right(f.packed, D), count, 3 * D, D, false,
                   f.activations + first * 4 * D, 4 * D);
    if (!cos_) return;
    const auto rotate = kernels<AttentionKernels<float>>().rotate;
    rotate(f.activations, 4 * D, cos_, sin_, L, heads_, width_, first, first + count);
    rotate(f.activations + D, 4 * D, cos_, sin_, L, heads_, width_, first, first + count);
  }

  void attend(const Forward& f, int64_t begin, int64_t end, float* scores) const {
    float *self_scores = scores + block_size(), *keys = self_scores + kQueries, *values = keys + factor_size();
    VisibleKeys visible{};
    Right keys_t{}, right{};
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t query = unit % blocks_ * queries_, count = std::min(queries_, L - query);
      const int64_t head = unit / blocks_ % heads_, example = unit / blocks_ / heads_;
      float* q = f.activations + example * activations_size() + head * width_;
      if (unit == begin || !query) {
        visible = visible_keys(f.valid, example);
        keys_t = pack_right({q + D, 1, 4 * D}, width_, visible.keys, keys);
        right = pack_right({q + 2 * D, 4 * D, 1}, visible.keys, width_, values);
      }
      const int64_t columns = probabilities(visible, q, query, count, keys_t, scores, self_scores);
      float* out = q + query * 4 * D + 3 * D;
      gemm_.multiply({scores, padded_, 0, 0}, right, count, width_, columns, false, out, 4 * D);
      if (!visible.valid) continue;
      for (int64_t i = 0; i < count; ++i) add_scaled(out + i * 4 * D - D, self_scores[i], width_, out + i * 4 * D);
    }
  }

  // Writes the attention probabilities of `count` queries to p, in rows `padded_` floats apart, and those of padded
  // tokens for themselves to `self_scores`. Returns the number of columns.
  int64_t probabilities(const VisibleKeys& visible, const float* q, int64_t query, int64_t count, const Right& keys,
                        float* p, float* self_scores) const {
    const int64_t columns = causal_ ? std::min(visible.keys, query + count) : visible.keys;
    q += query * 4 * D;
    gemm_.multiply({q, 4 * D, 0, 0}, keys, count, round_up(columns, gemm_.width / 2), width_, false, p, padded_);
    for (int64_t i = 0; visible.valid && i < count; ++i, q += 4 * D) {
      self_scores[i] = visible.valid[query + i] ? -std::numeric_limits<float>::infinity() : dot(q, q + D, width_);
    }
    kernels<AttentionKernels<float>>().softmax(p, count, columns, padded_, scale_,
                                               make_mask(visible, query, self_scores));
    return columns;
  }

  AttentionMask<float> make_mask(const VisibleKeys& visible, int64_t query, float* self_scores) const {
    return {causal_ ? query + 1 : L, visible.has_padding ? visible.valid : nullptr,
            visible.valid ? self_scores : nullptr};
  }

  void project_out(const Forward& f, int64_t first, int64_t count) const {
    float* y = f.y + first * D;
    gemm_.multiply({f.activations + first * 4 * D + 3 * D, 4 * D, 0, 0}, right(f.packed + right_size(D, 3 * D), D),
                   count, D, D, false, y, D);
    kernels<RmsNormKernels<float>>().fwd(y, f.h + first * D, y, f.rstd + first, {count, D, 1}, sizes_.eps, 0, count);
  }

  // The backward of one head of one example, which recomputes the probabilities. If `accumulate`, dq must start as
  // zeros.
  void attend_bwd(const VisibleKeys& visible, bool accumulate, const float* q, const float* dout, float* dq,
                  float* p) const {
    const int64_t stride = 4 * D, dstride = 3 * D, keys_count = visible.keys;
    float *dp = p + block_size(), *transposed = dp + block_size(), *self_scores = transposed + block_size();
    float *dself_score = self_scores + kQueries, *factor = dself_score + kQueries;
    const Right keys_t = pack_right({q + D, 1, stride}, width_, keys_count, factor);
    const Right keys = pack_right({q + D, stride, 1}, keys_count, width_, factor += factor_size());
    const Right values_t = pack_right({q + 2 * D, 1, stride}, width_, keys_count, factor += factor_size());
    factor += factor_size();
    for (int64_t query = 0; query < L; query += queries_) {
      const int64_t count = std::min(queries_, L - query);
      const bool add = accumulate || query > 0;
      const float *q_block = q + query * stride, *dout_block = dout + query * D;
      float* dq_block = dq + query * dstride;
      const Left left{transposed, 0, 0, count};
      const int64_t columns = probabilities(visible, q, query, count, keys_t, p, self_scores);
      gemm_.pack_left({p, 1, padded_}, columns, count, transposed);
      const Right dout_right = pack_right({dout_block, D, 1}, count, width_, factor);
      gemm_.multiply(left, dout_right, columns, width_, count, add, dq + 2 * D, dstride);
      gemm_.multiply({dout_block, D, 0, 0}, values_t, count, round_up(columns, gemm_.width / 2), width_, false, dp,
                     padded_);
      for (int64_t i = 0; visible.valid && i < count; ++i) {
        dself_score[i] = dot(dout_block + i * D, q_block + i * stride + 2 * D, width_);
      }
      kernels<AttentionKernels<float>>().softmax_bwd(dp, p, count, columns, padded_, scale_,
                                                     make_mask(visible, query, self_scores), dself_score);
      gemm_.multiply({dp, padded_, 0, 0}, keys, count, width_, columns, false, dq_block, dstride);
      gemm_.pack_left({dp, 1, padded_}, columns, count, transposed);
      const Right queries = pack_right({q_block, stride, 1}, count, width_, factor + factor_size());
      gemm_.multiply(left, queries, columns, width_, count, add, dq + D, dstride);
      for (int64_t i = 0; visible.valid && i < count; ++i, q_block += stride, dq_block += dstride) {
        add_scaled(q_block + D, dself_score[i], width_, dq_block);
        add_scaled(q_block, dself_score[i], width_, dq_block + D);
        add_scaled(dout_block + i * D, self_scores[i], width_, dq_block + 2 * D);
      }
    }
  }

  int64_t L, D;
  int64_t heads_, width_;
  bool causal_;
  int64_t queries_, blocks_, padded_;
  float scale_;
  const float* cos_;
  const float* sin_;
};

}  // namespace

std::unique_ptr<Layer> make_attention(const Sizes& sizes, const float* w_in, const float* w_out, int64_t heads,
                                      const float* cos, const float* sin, bool causal) {
  return std::make_unique<Attention>(sizes, w_in, w_out, heads, cos, sin, causal);
}

namespace {

std::tuple<Tensor, Tensor> fwd(const Tensor& h, bool keep, const Tensor& qkv, const Tensor& out, const MaybeTensor& cos,
                               const MaybeTensor& sin, const MaybeTensor& mask, int64_t heads, double eps,
                               bool causal) {
  Network net("attention", h, eps, mask);
  net.add_attention(qkv, out, heads, cos, sin, causal);
  return layer_fwd(net, h, keep);
}

std::tuple<Tensor, Tensor, Tensor> bwd(const Tensor& dy, const Tensor& h, const Tensor& saved, const Tensor& qkv,
                                       const Tensor& out, const MaybeTensor& cos, const MaybeTensor& sin,
                                       const MaybeTensor& mask, int64_t heads, double eps, bool causal) {
  Network net("attention", h, eps, mask);
  net.add_attention(qkv, out, heads, cos, sin, causal);
  return layer_bwd(net, dy, h, saved);
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("attention_fwd", TORCH_BOX(&trm_fast::fwd));
  m.impl("attention_bwd", TORCH_BOX(&trm_fast::bwd));
}
