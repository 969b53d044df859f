// Checks a network's weights against its states and creates its layers.
#include "core/network.h"

#include <algorithm>

namespace trm_fast {

Network::Network(const char* op, const Tensor& state, double eps, const MaybeTensor& mask) : op(op) {
  const bool bfloat16 = state.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(state.dim() == 3 && (bfloat16 || state.scalar_type() == ScalarType::Float), op,
                  ": the state must be (B, L, D) in float32 or bfloat16");
  batch = state.size(0), dtype = state.scalar_type();
  sizes = {state.size(1), state.size(2), eps, bfloat16 ? bfloat16_products() : &kernels<GemmKernels>()};
  STD_TORCH_CHECK(sizes.products, op, ": bfloat16 needs a CPU with products of bfloat16, and the kernels run as ",
                  isa_name(current_isa()));
  STD_TORCH_CHECK(sizes.tokens > 0 && sizes.channels > 0, op, ": the state must have tokens and channels");
  if (!mask) return;
  STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool && mask->dim() == 2 && mask->size(0) == batch &&
                      mask->size(1) == sizes.tokens && mask->is_cpu(),
                  op, ": the mask must be bool and (B, L)");
  stored_.push_back(dense(*mask));
  valid = read<bool>(stored_.back());
}

const float* Network::store_weight(const Tensor& tensor, std::initializer_list<int64_t> shape) {
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(tensor.scalar_type() == dtype || tensor.scalar_type() == ScalarType::Float, op,
                  ": weights must have the state's dtype or be float32");
  STD_TORCH_CHECK(sizes.size() == shape.size() && std::equal(shape.begin(), shape.end(), sizes.begin()), op,
                  ": a weight's shape does not fit");
  stored_.push_back(floats(tensor));
  return read<float>(stored_.back());
}

void Network::add_mlp(const Tensor& gate_up, const Tensor& down) {
  const int64_t inner = down.size(-1), D = sizes.channels;
  layers.push_back(make_mlp(sizes, store_weight(gate_up, {2 * inner, D}), store_weight(down, {D, inner}), inner));
  weights.insert(weights.end(), {gate_up, down});
}

void Network::add_token_mixer(const Tensor& gate_up, const Tensor& down) {
  const int64_t inner = down.size(-1), L = sizes.tokens;
  layers.push_back(
      make_token_mixer(sizes, store_weight(gate_up, {2 * inner, L}), store_weight(down, {L, inner}), inner));
  weights.insert(weights.end(), {gate_up, down});
}

void Network::set_groups(const Tensor& groups, double scale) {
  const int64_t L = sizes.tokens;
  STD_TORCH_CHECK(
      groups.dim() == 2 && groups.size(1) == L && groups.scalar_type() == ScalarType::Long && groups.is_cpu(), op,
      ": the groups must be int64 and (partitions, L)");
  const Tensor numbers = dense(groups);
  const int64_t partitions = numbers.size(0);
  groups_ = {};
  groups_.index.resize(L * partitions);
  for (int64_t g = 0; g < partitions; ++g) {
    const int64_t* number = read<int64_t>(numbers) + g * L;
    std::vector<int64_t> size;
    for (int64_t i = 0; i < L; ++i) {
      STD_TORCH_CHECK(0 <= number[i] && number[i] < L, op, ": the groups must be numbers from 0 to L - 1");
      if (number[i] >= int64_t(size.size())) size.resize(number[i] + 1);
      ++size[number[i]];
      const int32_t group = int32_t(groups_.count() + number[i]);
      groups_.index[i * partitions + g] = group;
      groups_.by_partition.push_back(group);
    }
    for (const int64_t count : size) groups_.factor.push_back(count ? float(scale / count) : 0.0f);
    groups_.first.push_back(groups_.count() + int64_t(size.size()));
  }
}

void Network::add_group_mixer(const Tensor& gate_up, const Tensor& down) {
  const int64_t inner = down.size(-1), D = sizes.channels, read = (1 + groups_.partitions()) * D;
  layers.push_back(make_group_mixer(sizes, store_weight(gate_up, {2 * inner, read}), store_weight(down, {D, inner}),
                                    inner, groups_));
  weights.insert(weights.end(), {gate_up, down});
}

void Network::add_attention(const Tensor& qkv, const Tensor& out, int64_t heads, const MaybeTensor& cos,
                            const MaybeTensor& sin, bool causal) {
  const int64_t L = sizes.tokens, D = sizes.channels;
  STD_TORCH_CHECK(heads > 0 && D % heads == 0, op, ": the number of channels must be a multiple of heads");
  STD_TORCH_CHECK(!cos == !sin && (!cos || D / heads % 2 == 0), op,
                  ": rotary positions need both cos and sin, and an even number of channels per head");
  const float* cosines = cos ? store_weight(*cos, {L, D / heads}) : nullptr;
  const float* sines = sin ? store_weight(*sin, {L, D / heads}) : nullptr;
  layers.push_back(
      make_attention(sizes, store_weight(qkv, {3 * D, D}), store_weight(out, {D, D}), heads, cosines, sines, causal));
  weights.insert(weights.end(), {qkv, out});
}

void Network::add_blocks(const std::vector<Tensor>& list, int64_t heads, const MaybeTensor& cos, const MaybeTensor& sin,
                         bool causal) {
  STD_TORCH_CHECK(heads || !causal, op, ": causal order needs attention, not a token mixer");
  if (groups_.partitions()) {
    STD_TORCH_CHECK(!heads && !causal && !valid, op, ": a group mixer has neither heads, mask nor causal order");
    STD_TORCH_CHECK(list.size() % 2 == 0 && !list.empty(), op, ": expected two weights per block");
    for (size_t i = 0; i < list.size(); i += 2) add_group_mixer(list[i], list[i + 1]);
    return;
  }
  STD_TORCH_CHECK(list.size() % 4 == 0 && !list.empty(), op, ": expected four weights per block");
  for (size_t i = 0; i < list.size(); i += 4) {
    if (heads) {
      add_attention(list[i], list[i + 1], heads, cos, sin, causal);
    } else {
      add_token_mixer(list[i], list[i + 1]);
    }
    add_mlp(list[i + 2], list[i + 3]);
  }
}

}  // namespace trm_fast
