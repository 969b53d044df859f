// A network of layers on a CPU, for states of one size. The dtype is float32, or bfloat16 if the CPU has bfloat16
// products. Invalid arguments throw torch's error.
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
  // For states with the size and dtype of `state` (B, L, D). `op` names the caller in messages. `mask` is bool (B, L),
  // false at padding.
  Network(const char* op, const Tensor& state, double eps, const MaybeTensor& mask = std::nullopt);

  // gate_up (2 inner, D): gate, then up; down (D, inner).
  void add_mlp(const Tensor& gate_up, const Tensor& down);
  // gate_up (2 inner, L): gate, then up; down (L, inner).
  void add_token_mixer(const Tensor& gate_up, const Tensor& down);
  // Sets the partitions that group mixers read, int64 (partitions, L), and the factor of the means.
  void set_groups(const Tensor& groups, double scale);
  // gate_up (2 inner, (1 + partitions) D): gate, then up; down (D, inner).
  void add_group_mixer(const Tensor& gate_up, const Tensor& down);
  // qkv (3 D, D): queries, keys, values; out (D, D); cos and sin (L, D / heads), or neither.
  void add_attention(const Tensor& qkv, const Tensor& out, int64_t heads, const MaybeTensor& cos,
                     const MaybeTensor& sin, bool causal);
  // With groups: two weights per block, those of a group mixer. Otherwise four: two of a token mixer (if heads == 0)
  // or of attention, then two of an MLP.
  void add_blocks(const std::vector<Tensor>& weights, int64_t heads, const MaybeTensor& cos, const MaybeTensor& sin,
                  bool causal);

  const char* op;
  int64_t batch;
  ScalarType dtype;
  Sizes sizes;
  const bool* valid = nullptr;  // (batch, tokens), false at padding; null if all tokens are valid
  std::vector<std::unique_ptr<Layer>> layers;
  std::vector<Tensor> weights;  // two per layer

 private:
  // Checks a weight, stores it as contiguous float32 and returns its memory. The weight must have the network's dtype
  // or be float32, of which products in bfloat16 round what they pack.
  const float* store_weight(const Tensor& tensor, std::initializer_list<int64_t> shape);
  std::vector<Tensor> stored_;
  Groups groups_;
};

// The tensor as contiguous float32, the type of all arithmetic except bfloat16 products. Copies only if needed.
inline Tensor floats(const Tensor& tensor) {
  return dense(tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float));
}

}  // namespace trm_fast
