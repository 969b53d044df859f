#include "ops/recursion.h"

namespace trm_fast {
namespace {

class Mlp final : public Layer {
 public:
  using Layer::Layer;

  void prepare_forward(int64_t tile_rows) override {
    const int64_t D = sizes_.channels;
    in_ = RightFactor(true, D, 2 * inner_, w_in_, D, tile_rows);
    out_ = RightFactor(true, inner_, D, w_out_, inner_, tile_rows);
  }

  void prepare_backward(int64_t rows) override {
    const int64_t D = sizes_.channels;
    in_ = RightFactor(false, 2 * inner_, D, w_in_, D, rows);
    if (shallow()) again_ = RightFactor(true, D, 2 * inner_, w_in_, D, rows);
    out_ = RightFactor(false, D, inner_, w_out_, inner_, rows);
  }

  int64_t kept_size() const override { return shallow() ? 0 : 2 * inner_ * sizes_.tokens; }
  int64_t rstd_size() const override { return sizes_.tokens; }
  int64_t forward_scratch(int64_t tile_rows) const override { return 2 * inner_ * tile_rows; }
  int64_t backward_scratch(int64_t samples) const override { return (shallow() ? 5 : 3) * inner_ * rows(samples); }
  int64_t units(int64_t, const Forward& f) const override { return row_tiles(f); }

  void forward(const Forward& f, int64_t, int64_t begin, int64_t end, float* scratch) const override {
    const int64_t D = sizes_.channels;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * f.tile_rows, count = std::min(f.tile_rows, rows(f.samples) - first);
      const float* h = f.h + first * D;
      float* y = f.y + first * D;
      // Where gate and up are not kept, SwiGLU's result moves into their place.
      float* gate_up = f.keep && !shallow() ? f.kept + first * 2 * inner_ : scratch;
      in_.multiply(count, h, D, 0, gate_up, 2 * inner_);
      kernels<SwiGluKernels<float>>().fwd(gate_up, scratch, inner_, 0, count * inner_);
      out_.multiply(count, scratch, inner_, 0, y, D);
      kernels<RmsNormKernels<float>>().fwd(y, h, y, f.rstd + first, {count, D, 1}, sizes_.eps, 0, count);
    }
  }

  void backward(const Backward& b, float* scratch) const override {
    const int64_t D = sizes_.channels, count = rows(b.samples);
    float* out = scratch;
    float* dgate_up = scratch + count * inner_;
    const float* gate_up = b.kept;
    if (shallow()) {
      float* again = dgate_up + 2 * count * inner_;
      again_.multiply(count, b.h, D, 0, again, 2 * inner_);
      gate_up = again;
    }
    kernels<RmsNormKernels<float>>().bwd(b.d, b.y, b.rstd, b.d, {count, D, 1}, 0, count);
    out_.multiply(count, b.d, D, 0, out, inner_);
    kernels<SwiGluKernels<float>>().bwd_recompute(out, gate_up, dgate_up, inner_, 0, count * inner_);
    gemm(true, false, D, inner_, count, b.d, D, out, inner_, 1, b.dw_out, inner_);
    gemm(true, false, 2 * inner_, D, count, dgate_up, 2 * inner_, b.h, D, 1, b.dw_in, D);
    in_.multiply(count, dgate_up, 2 * inner_, 1, b.d, D);
  }

 private:
  bool shallow() const { return sizes_.channels <= kShallow; }

  RightFactor in_, out_, again_;
};

}  // namespace

std::unique_ptr<Layer> make_mlp(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner) {
  return std::make_unique<Mlp>(sizes, w_in, w_out, inner);
}

namespace {

std::tuple<Tensor, Tensor> fwd_cpu(const Tensor& h, const Tensor& gate_up, const Tensor& down, double eps,
                                   bool keep) {
  Network net("mlp", h, eps);
  net.add_mlp(gate_up, down);
  const States states = recursion_fwd(net, kOnce, std::nullopt, h, std::nullopt, 1, keep);
  return {states.z, states.saved};
}

std::tuple<Tensor, Tensor, Tensor> bwd_cpu(const Tensor& dy, const Tensor& h, const Tensor& saved,
                                           const Tensor& gate_up, const Tensor& down, double eps) {
  Network net("mlp", h, eps);
  net.add_mlp(gate_up, down);
  const Gradients g = recursion_bwd(net, kOnce, std::nullopt, dy, h, saved);
  return {g.dz, g.dweights[0], g.dweights[1]};
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def(
      "mlp_fwd(Tensor h, Tensor gate_up, Tensor down, float eps, bool keep) -> "
      "(Tensor y, Tensor saved)");
  m.def(
      "mlp_bwd(Tensor dy, Tensor h, Tensor saved, Tensor gate_up, Tensor down, float eps) -> "
      "(Tensor dh, Tensor dgate_up, Tensor ddown)");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("mlp_fwd", TORCH_BOX(&trm_fast::fwd_cpu));
  m.impl("mlp_bwd", TORCH_BOX(&trm_fast::bwd_cpu));
}
