// The token mixer on a CPU: the layer, which calls matrix products, and the binding of its op.
#include "core/recursion.h"
#include "ops/rms_norm/kernels.h"

namespace trm_fast {
namespace {

// The layer works on tiles of whole columns, so the norm of a tile needs no other tile. The weights are the left
// factors of both products. A tile is packed as the right factor of the first product, whose output already has the
// layout of the right factor of the second.
constexpr int64_t kForwardTile = 64, kBackwardTile = 128;  // columns; multiples of kPanel and of the norm's blocks

class TokenMixer final : public Layer {
 public:
  TokenMixer(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner)
      : Layer(sizes, w_in, w_out, inner), L(sizes.tokens), D(sizes.channels), tiles_(ceil_div(D, kForwardTile)),
        padded_(round_up(L, kPanel)) {}

  int64_t packed_size() const override { return left_size(2 * inner_, L) + slots_size(L, inner_); }
  void pack(float* to) const override {
    gemm_.pack_gate_up_left({w_in_, L, 1}, {w_in_ + inner_ * L, L, 1}, inner_, L, to);
    gemm_.to_slots(rows_of_w_out(), L, inner_, to + left_size(2 * inner_, L));
  }

  int64_t packed_backward_size() const override { return left_size(inner_, L) + left_size(L, 2 * inner_); }
  void pack_backward(float* to) const override {
    gemm_.pack_left({w_out_, 1, inner_}, inner_, L, to);
    gemm_.pack_left({w_in_, 1, L}, L, 2 * inner_, to + left_size(inner_, L));
  }

  // The gradient of w_out is transposed.
  int64_t gradient_size() const override { return 3 * inner_ * padded_; }
  void unpack_gradient(const float* gradient, float* dw_in, float* dw_out) const override {
    for (int64_t i = 0; i < 2 * inner_; ++i) std::copy_n(gradient + i * padded_, L, dw_in + i * L);
    gradient += 2 * inner_ * padded_;
    for (int64_t token = 0; token < L; ++token) {
      for (int64_t i = 0; i < inner_; ++i) dw_out[token * inner_ + i] = gradient[i * padded_ + token];
    }
  }

  bool zero_padding() const override { return true; }
  int64_t activations_size() const override { return kept(round_up(D, kPanel)); }
  int64_t rstd_size() const override { return D; }
  int64_t forward_scratch(int64_t) const override { return (L + inner_) * kForwardTile; }
  int64_t backward_scratch(int64_t) const override { return (L + 3 * inner_ + 2 * padded_) * kBackwardTile; }
  int64_t units(int64_t, const Forward& f) const override { return f.examples * tiles_; }

  void forward(const Forward& f, int64_t, int64_t begin, int64_t end, float* scratch) const override {
    float* out = scratch + L * kForwardTile;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t example = unit / tiles_, column = unit % tiles_ * kForwardTile;
      const int64_t width = std::min(kForwardTile, D - column);
      const float* h = f.h + example * L * D;
      float* y = f.y + example * L * D;
      float* activations = f.keep ? f.activations + example * activations_size() + kept(column) : nullptr;
      const Right columns = pack_right({h + column, D, 1}, L, width, scratch);
      gemm_.swiglu_left(f.packed, columns, inner_, ceil_div(width, gemm_.width), L, activations, out);
      if (activations != nullptr) {  // pads the panels to kPanel columns with zeros
        const int64_t written = round_up(width, gemm_.width);
        std::fill_n(activations + kept(written), kept(round_up(width, kPanel) - written), 0.0f);
      }
      gemm_.multiply(packed_w_out(f.packed), repack(out, inner_, width, inner_ * gemm_.width), L, width, inner_, false,
                     y + column, D);
      kernels<RmsNormKernels<float>>().fwd(y, h, y, f.rstd + example * D, {1, L, D}, sizes_.eps, column / kColumns,
                                           ceil_div(column + width, kColumns));
    }
  }

  void backward(const Backward& b, float* scratch) const override {
    float *out = scratch + L * kBackwardTile, *dgate_up = out + inner_ * kBackwardTile;
    float *d_right = dgate_up + 2 * inner_ * kBackwardTile, *h_right = d_right + padded_ * kBackwardTile;
    const float *w_out = b.packed, *w_in = w_out + left_size(inner_, L);
    const int64_t panel = gemm_.width, lanes = panel / 2, columns_of_w = round_up(L, lanes);
    for (int64_t example = 0; example < b.examples; ++example) {
      const float* h = b.h + example * L * D;
      const Axis axis{1, L, D};
      float* d = b.d + example * L * D;
      kernels<RmsNormKernels<float>>().bwd(d, b.y + example * L * D, b.rstd + example * D, d, axis, 0,
                                           reduction_units(axis));
      for (int64_t column = 0; column < D; column += kBackwardTile) {
        const int64_t width = std::min(kBackwardTile, D - column), panels = ceil_div(width, panel);
        const float* activations = b.activations + example * activations_size() + kept(column);
        const Right columns = pack_right({d + column, D, 1}, L, width, scratch);
        gemm_.swiglu_left_bwd({w_out, 0, 0, L}, columns, inner_, panels, L, activations, out, dgate_up);
        const Right dt = pack_right({d + column, 1, D}, width, L, d_right);
        const Right ht = pack_right({h + column, 1, D}, width, L, h_right);
        gemm_.multiply({dgate_up, panel, panel, 2 * inner_ * panel}, ht, 2 * inner_, columns_of_w, width, true,
                       b.gradient, padded_);
        gemm_.multiply({out, panel, panel, inner_ * panel}, dt, inner_, columns_of_w, width, true,
                       b.gradient + 2 * inner_ * padded_, padded_);
        gemm_.multiply({w_in, 0, 0, 2 * inner_}, repack(dgate_up, 2 * inner_, width, 2 * inner_ * panel), L, width,
                       2 * inner_, true, d + column, D);
      }
    }
  }

 private:
  Left rows_of_w_out() const { return {w_out_, inner_, 0, 0}; }
  Left packed_w_out(const float* packed) const {
    if (gemm_.steps == 1) return rows_of_w_out();
    return {packed + left_size(2 * inner_, L), slots(inner_), 0, 0, true};
  }
  // Floats of the gate and up values that the forward keeps of `columns` columns.
  int64_t kept(int64_t columns) const { return slots(2 * inner_) * columns; }

  int64_t L, D, tiles_, padded_;
};

}  // namespace

std::unique_ptr<Layer> make_token_mixer(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner) {
  return std::make_unique<TokenMixer>(sizes, w_in, w_out, inner);
}

constexpr GatedOp kTokenMixer{"token_mixer", &Network::add_token_mixer};

}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("token_mixer_fwd", TORCH_BOX(&trm_fast::gated_fwd<trm_fast::kTokenMixer>));
  m.impl("token_mixer_bwd", TORCH_BOX(&trm_fast::gated_bwd<trm_fast::kTokenMixer>));
}
