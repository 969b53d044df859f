// The channel MLP on a CPU: the layer, which calls matrix products, and the binding of its op.
#include "core/recursion.h"
#include "ops/rms_norm/kernels.h"

namespace trm_fast {
namespace {

// Hidden channels per pass, few enough that their values, gate, up and gradients stay in L2.
constexpr int64_t kForwardChunk = 512, kBackwardChunk = 128;

class Mlp final : public Layer {
 public:
  Mlp(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner)
      : Layer(sizes, w_in, w_out, inner), padded_(round_up(inner, kPanel / 2)), D(sizes.channels) {}

  int64_t packed_size() const override { return gate_up_size() + right_size(inner_, D); }
  void pack(float* to) const override {
    gemm_.pack_gate_up({w_in_, 1, D}, {w_in_ + inner_ * D, 1, D}, D, inner_, padded_, to);
    pack_right({w_out_, 1, inner_}, inner_, D, to + gate_up_size());
  }

  int64_t packed_backward_size() const override { return right_size(D, padded_) + right_size(2 * padded_, D); }
  void pack_backward(float* to) const override {
    if (padded_ != inner_) std::fill_n(to, packed_backward_size(), 0.0f);
    pack_right({w_out_, inner_, 1}, D, inner_, to);
    to += right_size(D, padded_);
    const int64_t lanes = gemm_.width / 2, stride = panel(2 * padded_);
    for (int64_t channel = 0; channel < inner_; channel += lanes) {
      const int64_t count = std::min(lanes, inner_ - channel);
      float* strip = to + panel(2 * channel);
      gemm_.pack_right({w_in_ + channel * D, D, 1}, count, D, strip, stride);
      gemm_.pack_right({w_in_ + (inner_ + channel) * D, D, 1}, count, D, strip + panel(lanes), stride);
    }
  }

  // The gradient of w_in is transposed, and interleaves the columns of gate and up in groups of width / 2.
  int64_t gradient_size() const override { return 3 * D * padded_; }
  void unpack_gradient(const float* gradient, float* dw_in, float* dw_out) const override {
    const int64_t lanes = gemm_.width / 2;
    for (int64_t channel = 0; channel < inner_; ++channel) {
      const float* gate = gradient + 2 * (channel / lanes * lanes) + channel % lanes;
      for (int64_t i = 0; i < D; ++i) {
        dw_in[channel * D + i] = gate[i * 2 * padded_];
        dw_in[(inner_ + channel) * D + i] = gate[i * 2 * padded_ + lanes];
      }
    }
    gradient += 2 * D * padded_;
    for (int64_t i = 0; i < D; ++i) std::copy_n(gradient + i * padded_, inner_, dw_out + i * inner_);
  }

  int64_t activations_size() const override { return slots(2 * padded_) * sizes_.tokens; }
  int64_t rstd_size() const override { return sizes_.tokens; }
  int64_t forward_scratch(int64_t tile_rows) const override { return std::min(kForwardChunk, padded_) * tile_rows; }
  int64_t backward_scratch(int64_t examples) const override {
    const int64_t count = rows(examples);
    return 2 * left_size(D, count) + slots_size(count, D) + count * (D + 3 * chunk());
  }
  int64_t units(int64_t, const Forward& f) const override { return row_tiles(f); }

  void forward(const Forward& f, int64_t, int64_t begin, int64_t end, float* scratch) const override {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * f.tile_rows, count = std::min(f.tile_rows, rows(f.examples) - first);
      const float* h = f.h + first * D;
      float* y = f.y + first * D;
      for (int64_t channel = 0; channel < padded_; channel += kForwardChunk) {
        const int64_t channels = std::min(kForwardChunk, padded_ - channel);
        const Panels<float> activations{
            f.keep ? f.activations + first * slots(2 * padded_) + slots(2 * channel) : nullptr, slots(2 * padded_),
            slots(gemm_.width)};
        const Right gate_up = right(f.packed + channel / (gemm_.width / 2) * panel(D), D);
        gemm_.swiglu({h, D, 0, 0}, gate_up, count, channels, D, {}, activations, scratch, slots(channels));
        const Right down{f.packed + gate_up_size() + panel(channel), panel(inner_)};
        gemm_.multiply({scratch, slots(channels), 0, 0, true}, down, count, D, std::min(channels, inner_ - channel),
                       channel > 0, y, D);
      }
      kernels<RmsNormKernels<float>>().fwd(y, h, y, f.rstd + first, {count, D, 1}, sizes_.eps, 0, count);
    }
  }

  void backward(const Backward& b, float* scratch) const override {
    const int64_t count = rows(b.examples), width = gemm_.width, chunk = this->chunk();
    float *d_left = scratch, *h_left = d_left + left_size(D, count), *dh = h_left + left_size(D, count);
    float *out = dh + count * D, *dgate_up = out + count * chunk, *d_slots = dgate_up + 2 * count * chunk;
    kernels<RmsNormKernels<float>>().bwd(b.d, b.y, b.rstd, b.d, {count, D, 1}, 0, count);
    gemm_.pack_left({b.d, 1, D}, D, count, d_left);
    gemm_.pack_left({b.h, 1, D}, D, count, h_left);
    std::copy_n(b.d, count * D, dh);
    const Left d = gemm_.to_slots({b.d, D, 0, 0}, count, D, d_slots);
    const float* in = b.packed + right_size(D, padded_);
    float* dw_out = b.gradient + 2 * D * padded_;
    for (int64_t channel = 0; channel < padded_; channel += chunk) {
      const int64_t channels = std::min(chunk, padded_ - channel);
      gemm_.swiglu_bwd(d, right(b.packed + channel / width * panel(D), D), count, channels, D,
                       {b.activations + slots(2 * channel), slots(2 * padded_), slots(width)}, out, dgate_up);
      const Left d_t{d_left, 0, 0, count}, h_t{h_left, 0, 0, count}, dgu{dgate_up, width, width, count * width};
      gemm_.multiply(dgu, {in + panel(2 * channel), panel(2 * padded_)}, count, D, 2 * channels, true, dh, D);
      gemm_.multiply(d_t, repack(out, count, channels, count * width), D, channels, count, true, dw_out + channel,
                     padded_);
      gemm_.multiply(h_t, repack(dgate_up, count, 2 * channels, count * width), D, 2 * channels, count, true,
                     b.gradient + 2 * channel, 2 * padded_);
    }
    std::copy_n(dh, count * D, b.d);
  }

 private:
  int64_t chunk() const { return std::min(kBackwardChunk, round_up(padded_, kPanel)); }
  int64_t gate_up_size() const { return right_size(D, 2 * padded_); }

  int64_t padded_, D;
};

}  // namespace

std::unique_ptr<Layer> make_mlp(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner) {
  return std::make_unique<Mlp>(sizes, w_in, w_out, inner);
}

constexpr GatedOp kMlp{"mlp", &Network::add_mlp};

}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("mlp_fwd", TORCH_BOX(&trm_fast::gated_fwd<trm_fast::kMlp>));
  m.impl("mlp_bwd", TORCH_BOX(&trm_fast::gated_bwd<trm_fast::kMlp>));
}
