// The layers of the fused network: each is y = norm(h + part(h)), forward and backward, on raw float32 memory.
// A layer works on whole samples that lie one after the other, each (tokens, channels).
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "ops/gemm.h"
#include "ops/isa.h"

namespace trm_fast {

struct Sizes {
  int64_t tokens, channels;
  double eps;

  int64_t sample() const { return tokens * channels; }
};

// Rows of one product with packed weights: enough for MKL's full rate, few enough for gate and up to stay near L2.
constexpr int64_t kTileRows = 192;

// A layer whose gate and up are products of at most this depth computes them again in the backward: that is cheaper
// than writing them to memory and reading them back (measured at D = 64, L = 16).
constexpr int64_t kShallow = 64;

struct Forward {
  int64_t samples, tile_rows;
  bool keep;         // for a backward: `kept` is filled
  const float* h;
  float* y;
  float* kept;       // kept_size() a sample if `keep`, else work_size() a sample
  float* rstd;       // rstd_size() a sample
};

struct Backward {
  int64_t samples;
  const float* h;
  const float* y;
  const float* kept;
  const float* rstd;
  float* d;          // on entry the gradient of y, on exit that of h
  float* dw_in;      // added to
  float* dw_out;
};

class Layer {
 public:
  Layer(const Sizes& sizes, const float* w_in, const float* w_out, int64_t inner)
      : sizes_(sizes), w_in_(w_in), w_out_(w_out), inner_(inner) {}
  virtual ~Layer() = default;

  // Packs the weights for products of about so many rows.
  virtual void prepare_forward(int64_t) {}
  virtual void prepare_backward(int64_t) {}

  // Floats a sample.
  virtual int64_t kept_size() const = 0;
  virtual int64_t rstd_size() const = 0;
  virtual int64_t work_size() const { return 0; }
  // Floats of scratch that one thread needs.
  virtual int64_t forward_scratch(int64_t tile_rows) const = 0;
  virtual int64_t backward_scratch(int64_t samples) const = 0;

  // The forward runs in phases, each of units that do not depend on each other.
  virtual int64_t phases() const { return 1; }
  virtual int64_t units(int64_t phase, const Forward&) const = 0;
  virtual void forward(const Forward&, int64_t phase, int64_t begin, int64_t end, float* scratch) const = 0;
  virtual void backward(const Backward&, float* scratch) const = 0;

 protected:
  int64_t rows(int64_t samples) const { return samples * sizes_.tokens; }
  int64_t row_tiles(const Forward& f) const { return (rows(f.samples) + f.tile_rows - 1) / f.tile_rows; }

  Sizes sizes_;
  const float* w_in_;
  const float* w_out_;
  int64_t inner_;
};

// SwiGLU over channels: w_in (2 inner, D) gate above up, w_out (D, inner).
std::unique_ptr<Layer> make_mlp(const Sizes&, const float* w_in, const float* w_out, int64_t inner);
// SwiGLU over tokens: w_in (2 inner, L), w_out (L, inner); the norm runs over tokens, too.
std::unique_ptr<Layer> make_token_mixer(const Sizes&, const float* w_in, const float* w_out, int64_t inner);
// Multi-head attention: w_in (3 D, D) queries, keys, values, w_out (D, D). cos and sin (L, D / heads), or null.
std::unique_ptr<Layer> make_attention(const Sizes&, const float* w_in, const float* w_out, int64_t heads,
                                      const float* cos, const float* sin);

}  // namespace trm_fast
