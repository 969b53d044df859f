// A network of layers for states of one size, on a CPU: float32, or bfloat16 if the CPU has products in bfloat16.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/binding.h"
#include "core/layer.h"

namespace trm_fast {

using MaybeTensor = std::optional<Tensor>;

class Network {
 public:
  // For states of the size of `state` (B, L, D). `op` names the caller in messages. `mask`: bool (B, L), false on
  // padding.
  Network(const char* op, const Tensor& state, double eps, const MaybeTensor& mask = std::nullopt);

  // (2 inner, D) and (D, inner)
  void add_mlp(const Tensor& gate_up, const Tensor& down);
  // (2 inner, L) and (L, inner)
  void add_token_mixer(const Tensor& gate_up, const Tensor& down);
  // (3 D, D) and (D, D); cos and sin (L, D / heads), or neither
  void add_attention(const Tensor& qkv, const Tensor& out, int64_t heads, const MaybeTensor& cos,
                     const MaybeTensor& sin, bool causal);
  // Four weights a block: token mixer (heads = 0) or attention, then MLP.
  void add_blocks(const std::vector<Tensor>& weights, int64_t heads, const MaybeTensor& cos, const MaybeTensor& sin,
                  bool causal);

  const char* op;
  int64_t batch;
  ScalarType dtype;
  Sizes sizes;
  const bool* valid = nullptr;  // (batch, tokens), false on padding; null without padding
  std::vector<std::unique_ptr<Layer>> layers;
  std::vector<Tensor> weights;  // two a layer

 private:
  const float* hold(const Tensor& tensor, std::initializer_list<int64_t> shape, bool table = false);
  std::vector<Tensor> held_;
};

// The tensor in contiguous float32, the type of all arithmetic but the products.
inline Tensor floats(const Tensor& tensor) {
  return dense(tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float));
}

}  // namespace trm_fast
