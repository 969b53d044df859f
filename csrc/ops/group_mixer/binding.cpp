// The group mixer on a CPU: the layer, which calls matrix products, and the binding of its op.
#include "core/recursion.h"
#include "ops/group_mixer/kernels.h"
#include "ops/rms_norm/kernels.h"

namespace trm_fast {
namespace {

// Hidden channels per pass, as in the channel MLP, and the rows of a tile in the backward.
constexpr int64_t kForwardChunk = 512, kBackwardChunk = 128, kBackwardTile = 384;

// The first product is split into a product of each position's channels and one of each group's mean, which is computed
// only once per group. A position adds the products of its groups to that of its channels.
class GroupMixer final : public Layer {
 public:
  GroupMixer(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner, const Groups& groups)
      : Layer(sizes, w_in, w_out, inner), groups_(groups), padded_(round_up(inner, kPanel / 2)), L(sizes.tokens),
        D(sizes.channels), G(groups.partitions()), N(groups.count()) {}

  int64_t packed_size() const override { return (1 + G) * gate_up_size() + right_size(inner_, D); }
  void pack(float* to) const override {
    for (int64_t part = 0; part <= G; ++part, to += gate_up_size()) {
      gemm_.pack_gate_up(columns(0, part, false), columns(inner_, part, false), D, inner_, padded_, to);
    }
    pack_right({w_out_, 1, inner_}, inner_, D, to);
  }

  int64_t packed_backward_size() const override {
    return right_size(D, padded_) + (1 + G) * right_size(2 * padded_, D);
  }
  void pack_backward(float* to) const override {
    if (padded_ != inner_) std::fill_n(to, packed_backward_size(), 0.0f);
    pack_right({w_out_, inner_, 1}, D, inner_, to);
    to += right_size(D, padded_);
    const int64_t lanes = gemm_.width / 2, stride = panel(2 * padded_);
    for (int64_t part = 0; part <= G; ++part, to += right_size(2 * padded_, D)) {
      for (int64_t channel = 0; channel < inner_; channel += lanes) {
        const int64_t count = std::min(lanes, inner_ - channel);
        float* strip = to + panel(2 * channel);
        gemm_.pack_right(columns(channel, part, true), count, D, strip, stride);
        gemm_.pack_right(columns(inner_ + channel, part, true), count, D, strip + panel(lanes), stride);
      }
    }
  }

  // The gradient of each part of w_in is transposed, and interleaves the columns of gate and up in groups of width / 2.
  int64_t gradient_size() const override { return (2 * (1 + G) + 1) * D * padded_; }
  void unpack_gradient(const float* gradient, float* dw_in, float* dw_out) const override {
    const int64_t lanes = gemm_.width / 2, stride = (1 + G) * D;
    for (int64_t part = 0; part <= G; ++part, gradient += 2 * D * padded_) {
      for (int64_t channel = 0; channel < inner_; ++channel) {
        const float* gate = gradient + 2 * (channel / lanes * lanes) + channel % lanes;
        float *dgate = dw_in + channel * stride + part * D, *dup = dgate + inner_ * stride;
        for (int64_t i = 0; i < D; ++i) dgate[i] = gate[i * 2 * padded_], dup[i] = gate[i * 2 * padded_ + lanes];
      }
    }
    for (int64_t i = 0; i < D; ++i) std::copy_n(gradient + i * padded_, inner_, dw_out + i * inner_);
  }

  int64_t activations_size() const override { return slots(2 * padded_) * L; }
  int64_t work_size() const override { return N * (D + 2 * padded_); }
  int64_t rstd_size() const override { return L; }
  int64_t forward_scratch(int64_t tile_rows) const override {
    return std::min(kForwardChunk, padded_) * std::min(tile_rows, L);
  }
  int64_t backward_scratch(int64_t) const override {
    const int64_t rows = 2 * left_size(D, tile()) + slots_size(tile(), D) + tile() * (D + 3 * chunk());
    return rows + N * (3 * D + 2 * padded_);
  }

  // First the products of the groups, then tiles of rows. A tile lies within one example.
  int64_t phases() const override { return 2; }
  int64_t units(int64_t phase, const Forward& f) const override { return f.examples * (phase ? tiles(f) : G); }

  void forward(const Forward& f, int64_t phase, int64_t begin, int64_t end, float* scratch) const override {
    for (int64_t unit = begin; unit < end; ++unit) {
      if (phase == 0) {
        group_products(f, unit / G, unit % G);
      } else {
        const int64_t tile = unit % tiles(f), first = tile * L / tiles(f);
        rows_forward(f, unit / tiles(f), first, (tile + 1) * L / tiles(f) - first, scratch);
      }
    }
  }

  void backward(const Backward& b, float* scratch) const override {
    const auto& group = kernels<GroupKernels>();
    const int64_t width = gemm_.width, tiles = ceil_div(L, kBackwardTile);
    float *means = scratch, *packed_means = means + N * D, *dmeans = packed_means + N * D, *dproducts = dmeans + N * D;
    float* work = dproducts + N * 2 * padded_;
    const float* in = b.packed + right_size(D, padded_);
    for (int64_t example = 0; example < b.examples; ++example) {
      const float *h = b.h + example * L * D, *activations = b.activations + example * activations_size();
      float* d = b.d + example * L * D;
      kernels<RmsNormKernels<float>>().bwd(d, b.y + example * L * D, b.rstd + example * L, d, {L, D, 1}, 0, L);
      group_means(h, 0, G, means);
      std::fill_n(dproducts, N * 2 * padded_, 0.0f);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = tile * L / tiles;
        rows_backward(b, h, activations, first, (tile + 1) * L / tiles - first, d, dproducts, work);
      }
      float* gradient = b.gradient + 2 * D * padded_;
      for (int64_t g = 0; g < G; ++g, gradient += 2 * D * padded_) {
        const int64_t first = groups_.first[g], count = groups_.first[g + 1] - first;
        gemm_.pack_left({means + first * D, 1, D}, D, count, packed_means);
        const Left rows{dproducts + first * width, width, width, N * width};
        const Right weights = right(in + (1 + g) * right_size(2 * padded_, D), 2 * padded_);
        gemm_.multiply(rows, weights, count, D, 2 * padded_, false, dmeans + first * D, D);
        const Right dgate_up = repack(dproducts + first * width, count, 2 * padded_, N * width);
        gemm_.multiply({packed_means, 0, 0, count}, dgate_up, D, 2 * padded_, count, true, gradient, 2 * padded_);
      }
      group.scale(groups_.factor.data(), N, D, dmeans);
      group.spread(dmeans, groups_.index.data(), G, L, D, d);
    }
  }

 private:
  // Part `part` of w_in, D columns, from row `row` on: as a factor (rows, D) if `as_rows`, otherwise as (D, rows).
  Strided columns(int64_t row, int64_t part, bool as_rows) const {
    const int64_t stride = (1 + G) * D;
    const float* data = w_in_ + row * stride + part * D;
    return as_rows ? Strided{data, stride, 1} : Strided{data, 1, stride};
  }

  int64_t gate_up_size() const { return right_size(D, 2 * padded_); }
  int64_t chunk() const { return std::min(kBackwardChunk, round_up(padded_, kPanel)); }
  int64_t tile() const { return ceil_div(L, ceil_div(L, kBackwardTile)); }
  int64_t tiles(const Forward& f) const { return ceil_div(L, f.tile_rows); }

  // Writes the scaled means of h (L, D) over the groups of partitions [begin, end) to their rows of `means` (N, D).
  void group_means(const float* h, int64_t begin, int64_t end, float* means) const {
    const auto& group = kernels<GroupKernels>();
    const int64_t first = groups_.first[begin], count = groups_.first[end] - first;
    std::fill_n(means + first * D, count * D, 0.0f);
    if (begin == 0 && end == G) {
      group.sum(h, groups_.index.data(), G, L, D, means);
    } else {
      group.sum(h, groups_.by_partition.data() + begin * L, 1, L, D, means);
    }
    group.scale(groups_.factor.data() + first, count, D, means + first * D);
  }

  float* work(const Forward& f, int64_t example) const { return f.work + example * work_size(); }

  void group_products(const Forward& f, int64_t example, int64_t g) const {
    const int64_t first = groups_.first[g], count = groups_.first[g + 1] - first;
    const int64_t width = gemm_.width;
    float *means = work(f, example), *products = means + N * D + first * width;
    group_means(f.h + example * L * D, g, g + 1, means);
    Right weights = right(f.packed + (1 + g) * gate_up_size(), D);
    const Left left = gemm_.to_slots({means + first * D, D, 0, 0}, count, D, means + first * D);
    for (int64_t column = 0; column < 2 * padded_; column += width, weights.data += weights.stride) {
      gemm_.multiply(left, weights, count, width, D, false, products + column * N, width);
    }
  }

  void rows_forward(const Forward& f, int64_t example, int64_t first, int64_t count, float* scratch) const {
    const int64_t width = gemm_.width;
    const float *h = f.h + (example * L + first) * D, *products = work(f, example) + N * D;
    float* y = f.y + (example * L + first) * D;
    const float* w_out = f.packed + (1 + G) * gate_up_size();
    for (int64_t channel = 0; channel < padded_; channel += kForwardChunk) {
      const int64_t channels = std::min(kForwardChunk, padded_ - channel);
      const Panels<float> activations{
          f.keep ? f.activations + example * activations_size() + slots(2 * channel) * L + first * slots(width)
                 : nullptr,
          slots(width), L * slots(width)};
      const Right gate_up = right(f.packed + channel / (gemm_.width / 2) * panel(D), D);
      const Added added{{products + 2 * channel * N, width, N * width}, groups_.index.data() + first * G, G};
      gemm_.swiglu({h, D, 0, 0}, gate_up, count, channels, D, added, activations, scratch, slots(channels));
      const Right down{w_out + panel(channel), panel(inner_)};
      gemm_.multiply({scratch, slots(channels), 0, 0, true}, down, count, D, std::min(channels, inner_ - channel),
                     channel > 0, y, D);
    }
    kernels<RmsNormKernels<float>>().fwd(y, h, y, f.rstd + example * L + first, {count, D, 1}, sizes_.eps, 0, count);
  }

  // Rows [first, first + count) of an example: adds to the gradients of w_out and of the first part of w_in, adds the
  // part of dh that does not come from the means to d, and the gradients of the groups' products to `dproducts`.
  void rows_backward(const Backward& b, const float* h, const float* activations, int64_t first, int64_t count,
                     float* d, float* dproducts, float* scratch) const {
    const int64_t width = gemm_.width, chunk = this->chunk();
    float *d_left = scratch, *h_left = d_left + left_size(D, count), *dh = h_left + left_size(D, count);
    float *out = dh + count * D, *dgate_up = out + count * chunk, *d_slots = dgate_up + 2 * count * chunk;
    d += first * D, h += first * D;
    gemm_.pack_left({d, 1, D}, D, count, d_left);
    gemm_.pack_left({h, 1, D}, D, count, h_left);
    std::copy_n(d, count * D, dh);
    const Left left = gemm_.to_slots({d, D, 0, 0}, count, D, d_slots);
    const float* in = b.packed + right_size(D, padded_);
    float* dw_out = b.gradient + 2 * (1 + G) * D * padded_;
    for (int64_t channel = 0; channel < padded_; channel += chunk) {
      const int64_t channels = std::min(chunk, padded_ - channel);
      gemm_.swiglu_bwd(left, right(b.packed + channel / width * panel(D), D), count, channels, D,
                       {activations + slots(2 * channel) * L + first * slots(width), slots(width), L * slots(width)},
                       out, dgate_up);
      for (int64_t column = 0; column < 2 * channels; column += width) {
        kernels<GroupKernels>().sum(dgate_up + column * count, groups_.index.data() + first * G, G, count, width,
                                    dproducts + (2 * channel + column) * N);
      }
      const Left d_t{d_left, 0, 0, count}, h_t{h_left, 0, 0, count};
      const Left rows{dgate_up, width, width, count * width};
      gemm_.multiply(rows, {in + panel(2 * channel), panel(2 * padded_)}, count, D, 2 * channels, true, dh, D);
      gemm_.multiply(d_t, repack(out, count, channels, count * width), D, channels, count, true, dw_out + channel,
                     padded_);
      gemm_.multiply(h_t, repack(dgate_up, count, 2 * channels, count * width), D, 2 * channels, count, true,
                     b.gradient + 2 * channel, 2 * padded_);
    }
    std::copy_n(dh, count * D, d);
  }

  const Groups& groups_;
  int64_t padded_, L, D, G, N;
};

std::tuple<Tensor, Tensor> fwd(const Tensor& h, bool keep, const Tensor& gate_up, const Tensor& down,
                               const Tensor& groups, double scale, double eps) {
  Network net("group_mixer", h, eps);
  net.set_groups(groups, scale);
  net.add_group_mixer(gate_up, down);
  return layer_fwd(net, h, keep);
}

std::tuple<Tensor, Tensor, Tensor> bwd(const Tensor& dy, const Tensor& h, const Tensor& saved, const Tensor& gate_up,
                                       const Tensor& down, const Tensor& groups, double scale, double eps) {
  Network net("group_mixer", h, eps);
  net.set_groups(groups, scale);
  net.add_group_mixer(gate_up, down);
  return layer_bwd(net, dy, h, saved);
}

}  // namespace

std::unique_ptr<Layer> make_group_mixer(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner,
                                        const Groups& groups) {
  return std::make_unique<GroupMixer>(sizes, w_in, w_out, inner, groups);
}

}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("group_mixer_fwd", TORCH_BOX(&trm_fast::fwd));
  m.impl("group_mixer_bwd", TORCH_BOX(&trm_fast::bwd));
}
