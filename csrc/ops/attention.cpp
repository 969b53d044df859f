#include <cmath>

#include "ops/recursion.h"

namespace trm_fast {
namespace {

constexpr int64_t kQueries = 128;  // a block of queries' scores: whole rows, so softmax needs no second pass

// Keeps queries, keys (both rotated), values and the heads' output side by side: rows of 4 D.
class Attention final : public Layer {
 public:
  Attention(const Sizes& sizes, const float* w_in, const float* w_out, int64_t heads, const float* cos,
            const float* sin)
      : Layer(sizes, w_in, w_out, sizes.channels), L(sizes.tokens), D(sizes.channels), heads_(heads),
        width_(D / heads), blocks_(divided(L, kQueries)), padded_(rounded(L, kPanel)),
        scale_(float(1 / std::sqrt(double(width_)))), cos_(cos), sin_(sin) {}

  int64_t packed_size() const override { return D * (panels(3 * D) + panels(D)); }
  void pack(float* to) const override {
    pack_right({w_in_, 1, D}, D, 3 * D, to);
    pack_right({w_out_, 1, D}, D, D, to + D * panels(3 * D));
  }

  int64_t packed_backward_size() const override { return 4 * D * panels(D); }
  void pack_backward(float* to) const override {
    pack_right({w_in_, D, 1}, 3 * D, D, to);
    pack_right({w_out_, D, 1}, D, D, to + 3 * D * panels(D));
  }

  int64_t gradient_size() const override { return 4 * D * D; }
  void unpack_gradient(const float* gradient, float* dw_in, float* dw_out) const override {
    std::copy_n(gradient, 3 * D * D, dw_in);
    std::copy_n(gradient + 3 * D * D, D * D, dw_out);
  }

  int64_t kept_size() const override { return 4 * sizes_.sample(); }
  int64_t rstd_size() const override { return sizes_.tokens; }
  int64_t work_size() const override { return kept_size(); }
  int64_t forward_scratch(int64_t) const override { return block_size() + factor_size(); }
  int64_t backward_scratch(int64_t samples) const override {
    const int64_t count = rows(samples);
    return count * 7 * D + std::max(count * gemm_.width, 3 * block_size() + 5 * factor_size());
  }

  int64_t phases() const override { return 3; }
  int64_t units(int64_t phase, const Forward& f) const override {
    return phase == 1 ? f.samples * heads_ * blocks_ : row_tiles(f);
  }

  void forward(const Forward& f, int64_t phase, int64_t begin, int64_t end, float* scratch) const override {
    for (int64_t unit = begin; unit < end; ++unit) {
      if (phase == 1) {
        attend(f, unit, scratch);
      } else {
        const int64_t first = unit * f.tile_rows, count = std::min(f.tile_rows, rows(f.samples) - first);
        phase == 0 ? project(f, first, count) : join(f, first, count);
      }
    }
  }

  void backward(const Backward& b, float* scratch) const override {
    const int64_t count = rows(b.samples);
    float *dout = scratch, *dqkv = dout + count * D, *left = dqkv + count * 3 * D;
    float* work = left + count * 3 * D;
    float* dw_out = b.gradient + 3 * D * D;
    kernels<RmsNormKernels<float>>().bwd(b.d, b.y, b.rstd, b.d, {count, D, 1}, 0, count);
    gemm_.multiply({b.d, D, 0, 0}, right(b.packed + 3 * D * panels(D), D), count, D, D, false, dout, D);
    weight_gradient(b.d, D, D, b.kept + 3 * D, 4 * D, count, left, work, dw_out);
    for (int64_t sample = 0; sample < b.samples; ++sample) {
      for (int64_t head = 0; head < heads_; ++head) {
        const int64_t row = sample * L, at = head * width_;
        attend_bwd(b.kept + row * 4 * D + at, dout + row * D + at, dqkv + row * 3 * D + at, work);
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
  int64_t block_size() const { return std::min(kQueries, L) * padded_; }
  // Keys or values of one head as a right factor.
  int64_t factor_size() const { return std::max(width_ * padded_, L * panels(width_)); }

  // dw (n, D) += dyT x over `count` rows.
  void weight_gradient(const float* dy, int64_t n, int64_t ldy, const float* x, int64_t ldx, int64_t count,
                       float* left, float* work, float* dw) const {
    gemm_.pack_left({dy, 1, ldy}, n, count, left);
    for (int64_t column = 0; column < D; column += gemm_.width) {
      const int64_t columns = std::min(gemm_.width, D - column);
      const Right right = pack_right({x + column, ldx, 1}, count, columns, work);
      gemm_.multiply({left, 0, 0, count}, right, n, columns, count, true, dw + column, D);
    }
  }

  void project(const Forward& f, int64_t first, int64_t count) const {
    gemm_.multiply({f.h + first * D, D, 0, 0}, right(f.packed, D), count, 3 * D, D, false, f.kept + first * 4 * D,
                   4 * D);
    if (!cos_) return;
    const auto rotate = kernels<AttentionKernels<float>>().rotate;
    rotate(f.kept, 4 * D, cos_, sin_, L, heads_, width_, first, first + count);
    rotate(f.kept + D, 4 * D, cos_, sin_, L, heads_, width_, first, first + count);
  }

  void attend(const Forward& f, int64_t unit, float* scores) const {
    const int64_t query = unit % blocks_ * kQueries, count = std::min(kQueries, L - query);
    const int64_t head = unit / blocks_ % heads_, sample = unit / blocks_ / heads_;
    float* q = f.kept + sample * kept_size() + head * width_;
    float* factor = scores + block_size();
    probabilities(q, query, count, pack_right({q + D, 1, 4 * D}, width_, L, factor), scores);
    const Right values = pack_right({q + 2 * D, 4 * D, 1}, L, width_, factor);
    gemm_.multiply({scores, padded_, 0, 0}, values, count, width_, L, false, q + query * 4 * D + 3 * D, 4 * D);
  }

  // Of some queries; rows `padded_` apart.
  void probabilities(const float* q, int64_t query, int64_t count, const Right& keys, float* p) const {
    gemm_.multiply({q + query * 4 * D, 4 * D, 0, 0}, keys, count, rounded(L, gemm_.width / 2), width_, false, p,
                   padded_);
    kernels<AttentionKernels<float>>().softmax(p, count, L, padded_, scale_);
  }

  void join(const Forward& f, int64_t first, int64_t count) const {
    float* y = f.y + first * D;
    gemm_.multiply({f.kept + first * 4 * D + 3 * D, 4 * D, 0, 0}, right(f.packed + D * panels(3 * D), D), count, D, D,
                   false, y, D);
    kernels<RmsNormKernels<float>>().fwd(y, f.h + first * D, y, f.rstd + first, {count, D, 1}, sizes_.eps, 0, count);
  }

  // One head of one sample; the probabilities are computed again.
  void attend_bwd(const float* q, const float* dout, float* dq, float* p) const {
    const int64_t wide = 4 * D, narrow = 3 * D, columns = rounded(L, gemm_.width / 2);
    float *dp = p + block_size(), *transposed = dp + block_size(), *factor = transposed + block_size();
    const Right keys_t = pack_right({q + D, 1, wide}, width_, L, factor);
    const Right keys = pack_right({q + D, wide, 1}, L, width_, factor += factor_size());
    const Right values_t = pack_right({q + 2 * D, 1, wide}, width_, L, factor += factor_size());
    factor += factor_size();
    for (int64_t query = 0; query < L; query += kQueries) {
      const int64_t count = std::min(kQueries, L - query);
      const Left left{transposed, 0, 0, count};
      probabilities(q, query, count, keys_t, p);
      gemm_.pack_left({p, 1, padded_}, L, count, transposed);
      const Right dout_right = pack_right({dout + query * D, D, 1}, count, width_, factor);
      gemm_.multiply(left, dout_right, L, width_, count, query > 0, dq + 2 * D, narrow);
      gemm_.multiply({dout + query * D, D, 0, 0}, values_t, count, columns, width_, false, dp, padded_);
      kernels<AttentionKernels<float>>().softmax_bwd(dp, p, count, L, padded_, scale_);
      gemm_.multiply({dp, padded_, 0, 0}, keys, count, width_, L, false, dq + query * narrow, narrow);
      gemm_.pack_left({dp, 1, padded_}, L, count, transposed);
      const Right queries = pack_right({q + query * wide, wide, 1}, count, width_, factor + factor_size());
      gemm_.multiply(left, queries, L, width_, count, query > 0, dq + D, narrow);
    }
  }

  int64_t L, D;
  int64_t heads_, width_, blocks_, padded_;
  float scale_;
  const float* cos_;
  const float* sin_;
};

}  // namespace

std::unique_ptr<Layer> make_attention(const Sizes& sizes, const float* w_in, const float* w_out, int64_t heads,
                                      const float* cos, const float* sin) {
  return std::make_unique<Attention>(sizes, w_in, w_out, heads, cos, sin);
}

namespace {

std::tuple<Tensor, Tensor> fwd_cpu(const Tensor& h, const Tensor& qkv, const Tensor& out, int64_t heads,
                                   const MaybeTensor& cos, const MaybeTensor& sin, double eps, bool keep) {
  Network net("attention", h, eps);
  net.add_attention(qkv, out, heads, cos, sin);
  const States states = recursion_fwd(net, kOnce, std::nullopt, h, std::nullopt, 1, keep);
  return {states.z, states.saved};
}

std::tuple<Tensor, Tensor, Tensor> bwd_cpu(const Tensor& dy, const Tensor& h, const Tensor& saved,
                                           const Tensor& qkv, const Tensor& out, int64_t heads,
                                           const MaybeTensor& cos, const MaybeTensor& sin, double eps) {
  Network net("attention", h, eps);
  net.add_attention(qkv, out, heads, cos, sin);
  const Gradients g = recursion_bwd(net, kOnce, std::nullopt, dy, h, saved);
  return {g.dz, g.dweights[0], g.dweights[1]};
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def(
      "attention_fwd(Tensor h, Tensor qkv, Tensor out, int heads, Tensor? cos, Tensor? sin, float eps, bool keep) "
      "-> (Tensor y, Tensor saved)");
  m.def(
      "attention_bwd(Tensor dy, Tensor h, Tensor saved, Tensor qkv, Tensor out, int heads, Tensor? cos, Tensor? sin, "
      "float eps) -> "
      "(Tensor dh, Tensor dqkv, Tensor dout)");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("attention_fwd", TORCH_BOX(&trm_fast::fwd_cpu));
  m.impl("attention_bwd", TORCH_BOX(&trm_fast::bwd_cpu));
}
