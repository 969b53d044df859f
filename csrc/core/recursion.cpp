// Divides a recursion among threads. Each thread runs whole examples through the whole recursion, without barriers. If
// there are fewer examples than threads, the threads divide the units of each layer. Results do not depend on timing:
// the same number of threads gives the same bits.
#include "core/recursion.h"

#include <cstring>

#include "core/memory.h"
#include "core/recursion_group.h"

namespace trm_fast {
namespace {

// The target number of rows (examples times tokens) per group in the backward. It is the depth of the products that
// compute the gradients of the weights: a deeper product reads and writes these gradients fewer times.
constexpr int64_t kBackwardRows = 384;
// Tensors of at least this many floats come from the pool. For smaller ones, malloc reuses memory itself.
constexpr int64_t kMinPooled = int64_t(1) << 18;

// The number of examples per group, for groups of about `rows` rows and nearly equal size.
int64_t group_size(const Sizes& sizes, int64_t examples, int64_t rows) {
  const int64_t ideal = std::max<int64_t>(1, (rows + sizes.tokens / 2) / sizes.tokens);
  return ceil_div(examples, ceil_div(examples, ideal));
}

Tensor new_floats(const Tensor& like, int64_t count) {
  return torch::stable::new_empty(like, {count}, ScalarType::Float);
}

// `count` uninitialized floats. A large tensor's memory comes from the pool and returns to it.
Tensor new_saved(const Tensor& like, int64_t count) {
  if (count < kMinPooled) return new_floats(like, count);
  return torch::stable::from_blob(acquire_memory(count), {count}, {1}, like.device(), ScalarType::Float,
                                  release_memory);
}

// The offsets, in floats, of the layers' parts of one allocation, each aligned to 64 bytes. The last entry is the sum.
std::vector<int64_t> offsets(const Network& net, int64_t (Layer::*size)() const) {
  std::vector<int64_t> at{0};
  for (const auto& layer : net.layers) at.push_back(at.back() + aligned((*layer.*size)()));
  return at;
}

// The addresses of the layers' parts of `memory`.
template <class Float>
std::vector<Float*> addresses(Float* memory, const std::vector<int64_t>& at) {
  std::vector<Float*> pointers;
  for (size_t i = 0; i + 1 < at.size(); ++i) pointers.push_back(memory + at[i]);
  return pointers;
}

// Calls body(i) for each layer i, in parallel.
template <class Body>
void for_layers(const Network& net, const Body& body) {
  const int64_t layers = int64_t(net.layers.size());
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), layers);
  parallel_over(workers, [&](int64_t worker) {
    for (int64_t i = layers * worker / workers; i < layers * (worker + 1) / workers; ++i) body(i);
  });
}

const float* maybe_read(const MaybeTensor& tensor) { return tensor ? read<float>(*tensor) : nullptr; }

MaybeTensor maybe_floats(const MaybeTensor& tensor) { return tensor ? MaybeTensor(floats(*tensor)) : tensor; }

Tensor new_state(const Tensor& z, bool needed) {
  return needed ? torch::stable::new_empty(z, z.sizes()) : new_floats(z, 0);
}

// A gradient to update in place: a copy of `incoming`, zeros if that is nullopt, or an empty tensor unless `needed`.
Tensor new_gradient(const Tensor& z, const MaybeTensor& incoming, bool needed) {
  if (!needed) return new_floats(z, 0);
  if (!incoming) return torch::stable::new_zeros(z, z.sizes());
  Tensor gradient = torch::stable::new_empty(z, z.sizes());
  const Tensor from = dense(*incoming);
  if (gradient.numel()) std::memcpy(gradient.mutable_data_ptr(), from.const_data_ptr(), gradient.numel() * 4);
  return gradient;
}

// recursion_fwd on float32 states. The products may be in bfloat16.
States floats_fwd(Network& net, const Cycle& cycle, const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                  int64_t cycles, bool keep) {
  const SavedLayout layout(net, cycle);
  States states{new_state(z, cycle.has_answer_state), new_state(z, true),
                keep ? new_saved(z, layout.size()) : new_floats(z, 0)};
  if (!net.batch) return states;

  const MaybeTensor y_in = maybe_floats(y), x_in = maybe_floats(x);
  const Tensor z_in = dense(z);
  const auto packed_at = offsets(net, &Layer::packed_size);
  const Memory packed(acquire_memory(packed_at.back()));
  for_layers(net, [&](int64_t i) { net.layers[i]->pack(packed.get() + packed_at[i]); });
  const Group::Buffers buffers{maybe_read(y_in),
                               read<float>(z_in),
                               maybe_read(x_in),
                               write<float>(states.y),
                               write<float>(states.z),
                               write<float>(states.saved),
                               addresses<const float>(packed.get(), packed_at)};
  const int64_t threads = torch::stable::get_num_threads(), L = net.sizes.tokens;
  const bool whole_examples = net.batch >= threads;  // otherwise all threads work on one group
  const int64_t workers = whole_examples ? threads : 1, team = whole_examples ? 1 : threads;
  const int64_t size = whole_examples ? group_size(net.sizes, ceil_div(net.batch, workers), kTileRows) : net.batch;
  const int64_t rows = size * L, tiles = std::max((rows + kTileRows / 2) / kTileRows, team);
  const int64_t tile_rows = ceil_div(rows, tiles);
  const int64_t scratch_size = Group::scratch_size(net, size, tile_rows, team);
  const Memory scratch(acquire_memory(workers * scratch_size));
  parallel_over(workers, [&](int64_t worker) {
    const int64_t end = net.batch * (worker + 1) / workers;
    for (int64_t first = net.batch * worker / workers; first < end; first += size) {
      Group(net, cycle, layout, buffers, keep, first, std::min(size, end - first), tile_rows, team,
            scratch.get() + worker * scratch_size)
          .run(cycles);
    }
  });
  return states;
}

}  // namespace

States recursion_fwd(Network& net, const Cycle& cycle, const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                     int64_t cycles, bool keep) {
  STD_TORCH_CHECK(y.has_value() == cycle.has_answer_state, net.op,
                  ": y is required in dual state and not allowed in single state");
  STD_TORCH_CHECK(x || (!cycle.has_answer_state && !cycle.latent_steps && !cycle.inject_last), net.op,
                  ": x is missing");
  STD_TORCH_CHECK(cycles == 1 || (cycles > 1 && !keep), net.op, ": gradients need exactly one cycle");
  if (y) check_like(net.op, *y, z);
  if (x) check_like(net.op, *x, z);
  if (net.dtype == ScalarType::Float) return floats_fwd(net, cycle, y, z, x, cycles, keep);
  const States wide = floats_fwd(net, cycle, maybe_floats(y), floats(z), maybe_floats(x), cycles, keep);
  return {torch::stable::to(wide.y, net.dtype), torch::stable::to(wide.z, net.dtype), wide.saved};
}

namespace {

// recursion_bwd on float32 states. Gradients are float32. The products may be in bfloat16.
Gradients floats_bwd(Network& net, const Cycle& cycle, const MaybeTensor& dy, const MaybeTensor& dz, const Tensor& z,
                     const Tensor& saved) {
  const SavedLayout layout(net, cycle);
  STD_TORCH_CHECK(saved.numel() == layout.size() && saved.scalar_type() == ScalarType::Float, net.op,
                  ": the tensor that the forward saved has the wrong size or dtype");
  const bool injects = cycle.latent_steps || cycle.injects(cycle.latent_steps);
  Gradients gradients{new_gradient(z, dy, cycle.has_answer_state),
                      new_gradient(z, dz, true),
                      new_gradient(z, std::nullopt, injects),
                      {}};
  for (const Tensor& weight : net.weights) {
    gradients.dweights.push_back(net.batch ? torch::stable::new_empty(weight, weight.sizes(), ScalarType::Float)
                                           : torch::stable::new_zeros(weight, weight.sizes(), ScalarType::Float));
  }
  if (!net.batch) return gradients;

  const Tensor z_in = dense(z);
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), net.batch);
  const int64_t size = group_size(net.sizes, ceil_div(net.batch, workers), kBackwardRows);
  const auto packed_at = offsets(net, &Layer::packed_backward_size), at = offsets(net, &Layer::gradient_size);
  const Memory packed(acquire_memory(packed_at.back())), partial_gradients(acquire_memory(workers * at.back()));
  for_layers(net, [&](int64_t i) { net.layers[i]->pack_backward(packed.get() + packed_at[i]); });
  const int64_t scratch_size = GroupBackward::scratch_size(net, size);
  const Memory scratch(acquire_memory(workers * scratch_size));
  parallel_over(workers, [&](int64_t worker) {
    float* partial = partial_gradients.get() + worker * at.back();
    std::memset(partial, 0, at.back() * sizeof(float));
    const GroupBackward::Buffers buffers{read<float>(z_in),          read<float>(saved),
                                         write<float>(gradients.dy), write<float>(gradients.dz),
                                         write<float>(gradients.dx), addresses<const float>(packed.get(), packed_at),
                                         addresses(partial, at)};
    const int64_t end = net.batch * (worker + 1) / workers;
    for (int64_t first = net.batch * worker / workers; first < end; first += size) {
      GroupBackward(net, cycle, layout, buffers, first, std::min(size, end - first),
                    scratch.get() + worker * scratch_size)
          .run();
    }
  });
  parallel(at.back(), workers - 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = 1; worker < workers; ++worker) {
      float* to = partial_gradients.get() + begin;
      add(to, to + worker * at.back(), to, end - begin);
    }
  });
  for_layers(net, [&](int64_t i) {
    net.layers[i]->unpack_gradient(partial_gradients.get() + at[i], write<float>(gradients.dweights[2 * i]),
                                   write<float>(gradients.dweights[2 * i + 1]));
  });
  return gradients;
}

}  // namespace

Gradients recursion_bwd(Network& net, const Cycle& cycle, const MaybeTensor& dy, const MaybeTensor& dz, const Tensor& z,
                        const Tensor& saved) {
  if (dy) check_like(net.op, *dy, z);
  if (dz) check_like(net.op, *dz, z);
  if (net.dtype == ScalarType::Float) return floats_bwd(net, cycle, dy, dz, z, saved);
  Gradients g = floats_bwd(net, cycle, maybe_floats(dy), maybe_floats(dz), floats(z), saved);
  for (Tensor* state : {&g.dy, &g.dz, &g.dx}) *state = torch::stable::to(*state, net.dtype);
  for (size_t i = 0; i < g.dweights.size(); ++i) {
    const ScalarType dtype = net.weights[i].scalar_type();
    if (dtype != ScalarType::Float) g.dweights[i] = torch::stable::to(g.dweights[i], dtype);
  }
  return g;
}

// One application of the network, without an injection.
constexpr Cycle kOnce{0, false, false};

std::tuple<Tensor, Tensor> layer_fwd(Network& net, const Tensor& h, bool keep) {
  const States states = recursion_fwd(net, kOnce, std::nullopt, h, std::nullopt, 1, keep);
  return {states.z, states.saved};
}

std::tuple<Tensor, Tensor, Tensor> layer_bwd(Network& net, const Tensor& dy, const Tensor& h, const Tensor& saved) {
  const Gradients g = recursion_bwd(net, kOnce, std::nullopt, dy, h, saved);
  return {g.dz, g.dweights[0], g.dweights[1]};
}

}  // namespace trm_fast
