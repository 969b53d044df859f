// The layers of the network on a CPU: y = norm(h + sublayer(h)), forward and backward, on raw float32 memory. A layer
// works on whole, contiguous examples, each (tokens, channels). All sizes are in floats.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/isa.h"

namespace trm_fast {

struct Sizes {
  int64_t tokens, channels;
  double eps;
  const GemmKernels* products;

  int64_t example() const { return tokens * channels; }
};

// Rows per product with packed weights, few enough that the rows, their hidden channels and the result stay in L2.
constexpr int64_t kTileRows = 192;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t count, int64_t unit) { return ceil_div(count, unit) * unit; }

// The widest panel of any instruction set. Activations saved for the backward are padded to it, so that their size is
// the same for all instruction sets; in bfloat16 those of gate and up have half the size. In an MLP, the gate and up
// values of a hidden channel share a panel.
constexpr int64_t kPanel = 32;

struct Forward {
  int64_t examples, tile_rows;
  bool keep;            // whether the backward needs `activations`
  const float* packed;  // the weights, from pack()
  const bool* valid;    // (examples, tokens), false at padding; null if all tokens are valid
  const float* h;       // the input
  float* y;             // the output; must not alias h
  float* activations;   // activations_size() floats per example if `keep`, otherwise the same as `work`
  float* work;          // work_size() floats per example, for values that later phases read
  float* rstd;          // rstd_size() floats per example
};

struct Backward {
  int64_t examples;
  const float* packed;  // the weights, from pack_backward()
  const bool* valid;
  const float* h;
  const float* y;
  const float* activations;
  const float* rstd;
  float* d;         // on entry the gradient of y, on exit that of h
  float* gradient;  // that of the weights, gradient_size() floats; the backward adds to it
};

// Partitions of the positions into groups. The groups of all partitions are numbered in one sequence.
struct Groups {
  std::vector<int32_t> index;         // (tokens, partitions): the group of each position in each partition
  std::vector<int32_t> by_partition;  // the same, transposed
  std::vector<int64_t> first{0};      // the first group of each partition, and the number of all groups
  std::vector<float> factor;          // of each group: its scaled mean divided by its sum

  int64_t partitions() const { return int64_t(first.size()) - 1; }
  int64_t count() const { return first.back(); }
};

class Layer {
 public:
  Layer(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner)
      : gemm_(*sizes.products), sizes_(sizes), w_in_(w_in), w_out_(w_out), inner_(inner) {}
  virtual ~Layer() = default;

  // Packs the weights for the products of the forward, and of the backward.
  virtual int64_t packed_size() const = 0;
  virtual void pack(float* to) const = 0;
  virtual int64_t packed_backward_size() const = 0;
  virtual void pack_backward(float* to) const = 0;
  // The layer accumulates the gradients of the weights in a layout of its choice. unpack_gradient converts them to the
  // shapes of the weights.
  virtual int64_t gradient_size() const = 0;
  virtual void unpack_gradient(const float* gradient, float* dw_in, float* dw_out) const = 0;

  // Whether h must be zero at padding. If so, the caller clears the padding of h and of its gradient.
  virtual bool zero_padding() const { return false; }

  // Floats per example.
  virtual int64_t activations_size() const = 0;
  virtual int64_t rstd_size() const = 0;
  virtual int64_t work_size() const { return 0; }
  // Floats of scratch per thread.
  virtual int64_t forward_scratch(int64_t tile_rows) const = 0;
  virtual int64_t backward_scratch(int64_t examples) const = 0;

  // The forward runs in phases, one after another. The units of a phase are independent. A call computes units
  // [begin, end) of a phase.
  virtual int64_t phases() const { return 1; }
  virtual int64_t units(int64_t phase, const Forward&) const = 0;
  virtual void forward(const Forward&, int64_t phase, int64_t begin, int64_t end, float* scratch) const = 0;
  virtual void backward(const Backward&, float* scratch) const = 0;

 protected:
  // Packs a right factor into `to` and returns it.
  Right pack_right(const Strided& b, int64_t k, int64_t n, float* to) const {
    gemm_.pack_right(b, k, n, to, panel(k));
    return right(to, k);
  }
  Right right(const float* packed, int64_t k) const { return {packed, panel(k)}; }
  // Repacks panels (k, width) of n columns, `stride` floats apart, as a right factor, in place, and returns it.
  Right repack(float* panels, int64_t k, int64_t n, int64_t stride) const {
    gemm_.pack_panels(panels, k, ceil_div(n, gemm_.width), stride);
    return {panels, stride};
  }
  int64_t slots(int64_t k) const { return ceil_div(k, gemm_.steps); }  // floats of k steps in a packed factor
  int64_t panel(int64_t k) const { return slots(k) * gemm_.width; }    // floats of a packed panel of depth k
  // Floats of a right factor (k, n), which is padded to whole panels.
  int64_t right_size(int64_t k, int64_t n) const { return ceil_div(n, gemm_.width) * panel(k); }
  int64_t left_size(int64_t m, int64_t k) const { return m * slots(k); }  // floats of a packed left factor
  // Floats that to_slots writes for a left factor (m, k).
  int64_t slots_size(int64_t m, int64_t k) const { return gemm_.steps > 1 ? m * slots(k) : 0; }
  int64_t rows(int64_t examples) const { return examples * sizes_.tokens; }
  int64_t row_tiles(const Forward& f) const { return ceil_div(rows(f.examples), f.tile_rows); }

  const GemmKernels& gemm_;
  Sizes sizes_;
  const float* w_in_;
  const float* w_out_;
  int64_t inner_;
};

// SwiGLU over channels. w_in (2 inner, D): gate, then up; w_out (D, inner).
std::unique_ptr<Layer> make_mlp(const Sizes&, const float* w_in, const float* w_out, int64_t inner);
// SwiGLU and norm over tokens. w_in (2 inner, L): gate, then up; w_out (L, inner).
std::unique_ptr<Layer> make_token_mixer(const Sizes&, const float* w_in, const float* w_out, int64_t inner);
// SwiGLU over channels and over means of groups. w_in (2 inner, (1 + partitions) D): gate, then up; w_out (D, inner).
// `groups` must outlive the layer.
std::unique_ptr<Layer> make_group_mixer(const Sizes&, const float* w_in, const float* w_out, int64_t inner,
                                        const Groups& groups);
// Multi-head attention. w_in (3 D, D): queries, keys, values; w_out (D, D); cos and sin (L, D / heads), or null.
// `causal`: a token attends only to itself and earlier tokens. Only a padded token itself attends to that token.
std::unique_ptr<Layer> make_attention(const Sizes&, const float* w_in, const float* w_out, int64_t heads,
                                      const float* cos, const float* sin, bool causal);

}  // namespace trm_fast
