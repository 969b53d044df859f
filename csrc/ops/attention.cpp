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
      : Layer(sizes, w_in, w_out, sizes.channels), heads_(heads), width_(sizes.channels / heads),
        blocks_((sizes.tokens + kQueries - 1) / kQueries), scale_(float(1 / std::sqrt(double(width_)))), cos_(cos),
        sin_(sin) {}

  void prepare_forward(int64_t tile_rows) override {
    const int64_t D = sizes_.channels;
    in_ = RightFactor(true, D, 3 * D, w_in_, D, tile_rows);
    out_ = RightFactor(true, D, D, w_out_, D, tile_rows);
  }

  void prepare_backward(int64_t rows) override {
    const int64_t D = sizes_.channels;
    in_ = RightFactor(false, 3 * D, D, w_in_, D, rows);
    out_ = RightFactor(false, D, D, w_out_, D, rows);
  }

  int64_t kept_size() const override { return 4 * sizes_.sample(); }
  int64_t rstd_size() const override { return sizes_.tokens; }
  int64_t work_size() const override { return kept_size(); }
  int64_t forward_scratch(int64_t) const override { return block_size(); }
  int64_t backward_scratch(int64_t samples) const override {
    return 4 * sizes_.sample() * samples + 2 * block_size();
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
    const int64_t L = sizes_.tokens, D = sizes_.channels, count = rows(b.samples);
    float* dout = scratch;
    float* dqkv = dout + count * D;
    float* p = dqkv + count * 3 * D;
    kernels<RmsNormKernels<float>>().bwd(b.d, b.y, b.rstd, b.d, {count, D, 1}, 0, count);
    out_.multiply(count, b.d, D, 0, dout, D);
    gemm(true, false, D, D, count, b.d, D, b.kept + 3 * D, 4 * D, 1, b.dw_out, D);
    for (int64_t sample = 0; sample < b.samples; ++sample) {
      for (int64_t head = 0; head < heads_; ++head) {
        const int64_t row = sample * L, at = head * width_;
        attend_bwd(b.kept + row * 4 * D + at, dout + row * D + at, dqkv + row * 3 * D + at, p);
      }
    }
    if (cos_) {
      kernels<AttentionKernels<float>>().rotate_bwd(dqkv, 3 * D, cos_, sin_, L, heads_, width_, 0, count);
      kernels<AttentionKernels<float>>().rotate_bwd(dqkv + D, 3 * D, cos_, sin_, L, heads_, width_, 0, count);
    }
    gemm(true, false, 3 * D, D, count, dqkv, 3 * D, b.h, D, 1, b.dw_in, D);
    in_.multiply(count, dqkv, 3 * D, 1, b.d, D);
  }

 private:
  int64_t block_size() const { return std::min(kQueries, sizes_.tokens) * sizes_.tokens; }

  void project(const Forward& f, int64_t first, int64_t count) const {
    const int64_t L = sizes_.tokens, D = sizes_.channels;
    in_.multiply(count, f.h + first * D, D, 0, f.kept + first * 4 * D, 4 * D);
    if (!cos_) return;
    const auto rotate = kernels<AttentionKernels<float>>().rotate;
    rotate(f.kept, 4 * D, cos_, sin_, L, heads_, width_, first, first + count);
    rotate(f.kept + D, 4 * D, cos_, sin_, L, heads_, width_, first, first + count);
  }

  void attend(const Forward& f, int64_t unit, float* scores) const {
    const int64_t L = sizes_.tokens, D = sizes_.channels;
    const int64_t query = unit % blocks_ * kQueries, count = std::min(kQueries, L - query);
    const int64_t head = unit / blocks_ % heads_, sample = unit / blocks_ / heads_;
    float* q = f.kept + sample * kept_size() + head * width_;
    gemm(false, true, count, L, width_, q + query * 4 * D, 4 * D, q + D, 4 * D, 0, scores, L);
    kernels<AttentionKernels<float>>().softmax(scores, count, L, scale_);
    gemm(false, false, count, width_, L, scores, L, q + 2 * D, 4 * D, 0, q + query * 4 * D + 3 * D, 4 * D);
  }

  void join(const Forward& f, int64_t first, int64_t count) const {
    const int64_t D = sizes_.channels;
    float* y = f.y + first * D;
    out_.multiply(count, f.kept + first * 4 * D + 3 * D, 4 * D, 0, y, D);
    kernels<RmsNormKernels<float>>().fwd(y, f.h + first * D, y, f.rstd + first, {count, D, 1}, sizes_.eps, 0, count);
  }

  // One head of one sample; the probabilities are computed again.
  void attend_bwd(const float* q, const float* dout, float* dq, float* p) const {
    const int64_t L = sizes_.tokens, D = sizes_.channels, wide = 4 * D, narrow = 3 * D;
    float* dp = p + block_size();
    for (int64_t query = 0; query < L; query += kQueries) {
      const int64_t count = std::min(kQueries, L - query);
      const float beta = query ? 1 : 0;
      gemm(false, true, count, L, width_, q + query * wide, wide, q + D, wide, 0, p, L);
      kernels<AttentionKernels<float>>().softmax(p, count, L, scale_);
      gemm(true, false, L, width_, count, p, L, dout + query * D, D, beta, dq + 2 * D, narrow);
      gemm(false, true, count, L, width_, dout + query * D, D, q + 2 * D, wide, 0, dp, L);
      kernels<AttentionKernels<float>>().softmax_bwd(dp, p, count, L, scale_);
      gemm(false, false, count, width_, L, dp, L, q + D, wide, 0, dq + query * narrow, narrow);
      gemm(true, false, L, width_, count, dp, L, q + query * wide, wide, beta, dq + D, narrow);
    }
  }

  int64_t heads_, width_, blocks_;
  float scale_;
  const float* cos_;
  const float* sin_;
  RightFactor in_, out_;
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
