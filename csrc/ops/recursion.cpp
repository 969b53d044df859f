// Threads take whole samples through the whole recursion, without barriers; where there are fewer samples than threads,
// they share the units of each layer instead. Memory is laid out sample by sample and results do not depend on timing:
// the same number of threads gives the same bits.
#include "ops/recursion.h"

#include <cstring>

namespace trm_fast {
namespace {

// A group of samples goes through the recursion together. In the backward a group is also the depth of the products
// that make the weights' gradients, whose cost of reading and writing the gradient it spreads.
constexpr int64_t kBackwardRows = 384;
// Floats from which on memory is pooled; below, malloc reuses it, too.
constexpr int64_t kPooled = int64_t(1) << 18;

int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

// Samples a group for about `rows` rows, in groups of about equal size.
int64_t group_size(const Sizes& sizes, int64_t samples, int64_t rows) {
  const int64_t wanted = std::max<int64_t>(1, (rows + sizes.tokens / 2) / sizes.tokens);
  return divided(samples, divided(samples, wanted));
}

// What the forward keeps, each for the whole batch: for each application and layer what the layer wants and its output;
// then the inputs of the applications that have one of their own; then all statistics, whose odd sizes would spoil the
// alignment of what comes after them. No gaps: torch compares and copies all of it.
class Saved {
 public:
  Saved(const Network& net, const Cycle& cycle) : state_(net.batch * net.sizes.sample()) {
    for (const auto& layer : net.layers) {
      kept_.push_back(application_);
      output_.push_back(kept_.back() + net.batch * layer->kept_size());
      application_ = output_.back() + state_;
      rstd_.push_back(statistics_);
      statistics_ += net.batch * layer->rstd_size();
    }
    inputs_ = cycle.applications() * application_;
    first_rstd_ = inputs_ + state_ * (cycle.n + cycle.injects(cycle.n));
    size_ = first_rstd_ + cycle.applications() * statistics_;
  }

  int64_t size() const { return size_; }
  int64_t kept(int64_t application, int64_t layer) const { return application * application_ + kept_[layer]; }
  int64_t output(int64_t application, int64_t layer) const { return application * application_ + output_[layer]; }
  int64_t input(int64_t application) const { return inputs_ + application * state_; }
  int64_t rstd(int64_t application, int64_t layer) const {
    return first_rstd_ + application * statistics_ + rstd_[layer];
  }

 private:
  int64_t state_, application_ = 0, statistics_ = 0, inputs_ = 0, first_rstd_ = 0, size_ = 0;
  std::vector<int64_t> kept_, output_, rstd_;
};

Tensor new_floats(const Tensor& like, int64_t count) { return torch::stable::new_empty(like, {count}); }

Tensor new_saved(const Tensor& like, int64_t count) {
  if (count < kPooled) return new_floats(like, count);
  return torch::stable::from_blob(take_memory(count), {count}, {1}, like.device(), ScalarType::Float, give_memory);
}

void add(const float* a, const float* b, float* to, int64_t count) {
  kernels<AddKernels<float>>().add(a, b, to, count);
}

// Shares `workers` pieces of work out among torch's threads, one each.
template <class Body>
void among(int64_t workers, const Body& body) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) body(worker);
  };
  if (workers == 1) return run(0, 1);
  torch::stable::parallel_for(0, workers, 1, run);
}

// Where each layer's share begins in memory for all of them; the whole size comes last.
std::vector<int64_t> offsets(const Network& net, int64_t (Layer::*size)() const) {
  std::vector<int64_t> at{0};
  for (const auto& layer : net.layers) at.push_back(at.back() + aligned((*layer.*size)()));
  return at;
}

// The addresses of the layers' shares of `memory`.
template <class Float>
std::vector<Float*> addresses(Float* memory, const std::vector<int64_t>& at) {
  std::vector<Float*> shares;
  for (size_t i = 0; i + 1 < at.size(); ++i) shares.push_back(memory + at[i]);
  return shares;
}

// Calls body(layer) for all layers, shared out among the threads.
template <class Body>
void for_layers(const Network& net, const Body& body) {
  const int64_t layers = int64_t(net.layers.size());
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), layers);
  among(workers, [&](int64_t worker) {
    for (int64_t i = layers * worker / workers; i < layers * (worker + 1) / workers; ++i) body(i);
  });
}

// Takes one group of samples through the cycles.
class Group {
 public:
  struct Memory {
    const float *y_in, *z_in, *x;  // of the whole batch
    float *y_out, *z_out, *saved;
    std::vector<const float*> packed;  // each layer's weights
  };

  // `team`: threads that share the units of each layer.
  Group(const Network& net, const Cycle& cycle, const Saved& layout, const Memory& memory, bool keep, int64_t first,
        int64_t samples, int64_t tile_rows, int64_t team, float* scratch)
      : net_(net), cycle_(cycle), layout_(layout), keep_(keep), first_(first), samples_(samples),
        count_(samples * net.sizes.sample()), tile_rows_(tile_rows), team_(team) {
    const int64_t at = first * net.sizes.sample();
    z_ = memory.z_in + at, x_ = memory.x ? memory.x + at : nullptr, y_ = memory.y_in ? memory.y_in + at : nullptr;
    y_out_ = memory.y_out + at, z_out_ = memory.z_out + at, saved_ = memory.saved, packed_ = memory.packed.data();
    const int64_t state = aligned(count_);
    injection_ = scratch, input_ = scratch + state, even_ = scratch + 2 * state, odd_ = scratch + 3 * state;
    rstd_ = scratch + 4 * state;
    work_ = rstd_ + aligned(samples * most(net, &Layer::rstd_size));
    thread_scratch_ = work_ + aligned(samples * most(net, &Layer::work_size));
    thread_size_ = thread_scratch(net, tile_rows);
  }

  static int64_t scratch_size(const Network& net, int64_t samples, int64_t tile_rows, int64_t team) {
    return 4 * aligned(samples * net.sizes.sample()) + aligned(samples * most(net, &Layer::rstd_size)) +
           aligned(samples * most(net, &Layer::work_size)) + team * thread_scratch(net, tile_rows);
  }

  void run(int64_t cycles) {
    for (int64_t i = 0; i < cycles; ++i) run_cycle();
    if (!keep_) return;
    std::memcpy(z_out_, z_, count_ * sizeof(float));
    if (cycle_.dual) std::memcpy(y_out_, y_, count_ * sizeof(float));
  }

 private:
  static int64_t most(const Network& net, int64_t (Layer::*size)() const) {
    int64_t largest = 0;
    for (const auto& layer : net.layers) largest = std::max(largest, (*layer.*size)());
    return largest;
  }

  static int64_t thread_scratch(const Network& net, int64_t tile_rows) {
    int64_t largest = 0;
    for (const auto& layer : net.layers) largest = std::max(largest, layer->forward_scratch(tile_rows));
    return aligned(largest);
  }

  void run_cycle() {
    const float* injection = x_;
    if (cycle_.dual) {
      add(y_, x_, injection_, count_);
      injection = injection_;
    }
    for (int64_t i = 0; i < cycle_.n; ++i) z_ = apply(i, sum(i, z_, injection), z_out_);
    if (cycle_.dual) {
      y_ = apply(cycle_.n, sum(cycle_.n, y_, z_), y_out_);
    } else if (cycle_.inject_last) {
      z_ = apply(cycle_.n, sum(cycle_.n, z_, x_), z_out_);
    } else {
      z_ = apply(cycle_.n, apart(z_), z_out_);
    }
  }

  const float* sum(int64_t application, const float* a, const float* b) {
    float* to = keep_ ? saved_ + layout_.input(application) + first_ * net_.sizes.sample() : input_;
    add(a, b, to, count_);
    return to;
  }

  // The last layer writes where the state may lie that the first one reads.
  const float* apart(const float* z) {
    if (z != z_out_) return z;
    std::memcpy(input_, z, count_ * sizeof(float));
    return input_;
  }

  const float* apply(int64_t application, const float* h, float* out) {
    for (size_t i = 0; i < net_.layers.size(); ++i) {
      const Layer& layer = *net_.layers[i];
      float* y = i + 1 == net_.layers.size() ? out : i % 2 ? odd_ : even_;
      Forward f{samples_, tile_rows_, keep_, packed_[i], h, y, work_, rstd_};
      if (keep_) {
        f.y = saved_ + layout_.output(application, i) + first_ * net_.sizes.sample();
        f.kept = saved_ + layout_.kept(application, i) + first_ * layer.kept_size();
        f.rstd = saved_ + layout_.rstd(application, i) + first_ * layer.rstd_size();
      }
      for (int64_t phase = 0; phase < layer.phases(); ++phase) {
        const int64_t units = layer.units(phase, f);
        if (team_ == 1) {
          layer.forward(f, phase, 0, units, thread_scratch_);
        } else {
          among(team_, [&](int64_t member) {
            layer.forward(f, phase, units * member / team_, units * (member + 1) / team_,
                          thread_scratch_ + member * thread_size_);
          });
        }
      }
      h = f.y;
    }
    return h;
  }

  const Network& net_;
  const Cycle& cycle_;
  const Saved& layout_;
  bool keep_;
  int64_t first_, samples_, count_, tile_rows_, team_, thread_size_;
  const float *y_, *z_, *x_;
  float *y_out_, *z_out_, *saved_;
  const float* const* packed_;
  float *injection_, *input_, *even_, *odd_, *rstd_, *work_, *thread_scratch_;
};

// Takes one group of samples back through a cycle. Its gradients flow in the places where they are wanted: dz holds
// that of the state, layer by layer, dx gathers that of the injection.
class GroupBackward {
 public:
  struct Memory {
    const float *z, *saved;
    float *dy, *dz, *dx;
    std::vector<const float*> packed;  // each layer's weights
    std::vector<float*> gradients;     // and where their gradients gather
  };

  GroupBackward(const Network& net, const Cycle& cycle, const Saved& layout, const Memory& memory, int64_t first,
                int64_t samples, float* scratch)
      : net_(net), cycle_(cycle), layout_(layout), memory_(memory), first_(first), samples_(samples),
        count_(samples * net.sizes.sample()), scratch_(scratch) {}

  static int64_t scratch_size(const Network& net, int64_t samples) {
    int64_t largest = 0;
    for (const auto& layer : net.layers) largest = std::max(largest, layer->backward_scratch(samples));
    return aligned(largest);
  }

  void run() {
    const int64_t at = first_ * net_.sizes.sample();
    float *dy = memory_.dy + at, *dz = memory_.dz + at, *dx = memory_.dx + at;
    if (cycle_.dual) {
      apply(cycle_.n, dy);
      add(dz, dy, dz, count_);
    } else {
      apply(cycle_.n, dz);
      if (cycle_.inject_last) add(dx, dz, dx, count_);
    }
    for (int64_t i = cycle_.n - 1; i >= 0; --i) {
      apply(i, dz);
      add(dx, dz, dx, count_);
    }
    if (cycle_.dual) add(dy, dx, dy, count_);
  }

 private:
  // d: on entry the gradient of the application's output, on exit that of its input.
  void apply(int64_t application, float* d) {
    for (int64_t i = int64_t(net_.layers.size()) - 1; i >= 0; --i) {
      const Layer& layer = *net_.layers[i];
      const int64_t at = first_ * net_.sizes.sample();
      const float* saved = memory_.saved;
      const float* h = i ? saved + layout_.output(application, i - 1) + at : input(application) + at;
      layer.backward({samples_, memory_.packed[i], h, saved + layout_.output(application, i) + at,
                      saved + layout_.kept(application, i) + first_ * layer.kept_size(),
                      saved + layout_.rstd(application, i) + first_ * layer.rstd_size(), d, memory_.gradients[i]},
                     scratch_);
    }
  }

  const float* input(int64_t application) const {
    if (cycle_.injects(application)) return memory_.saved + layout_.input(application);
    return application ? memory_.saved + layout_.output(application - 1, int64_t(net_.layers.size()) - 1) : memory_.z;
  }

  const Network& net_;
  const Cycle& cycle_;
  const Saved& layout_;
  const Memory& memory_;
  int64_t first_, samples_, count_;
  float* scratch_;
};

const float* maybe_read(const MaybeTensor& tensor) { return tensor ? read<float>(*tensor) : nullptr; }

// Contiguous float32, in which all but the products is computed.
Tensor floats(const Tensor& tensor) {
  return dense(tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float));
}

MaybeTensor maybe_floats(const MaybeTensor& tensor) { return tensor ? MaybeTensor(floats(*tensor)) : tensor; }

Tensor new_state(const Tensor& z, bool wanted) {
  return wanted ? torch::stable::new_empty(z, z.sizes()) : new_floats(z, 0);
}

// A gradient to work on in place: a copy of the incoming one, or zeros.
Tensor new_gradient(const Tensor& z, const MaybeTensor& incoming, bool wanted) {
  if (!wanted) return new_floats(z, 0);
  if (!incoming) return torch::stable::new_zeros(z, z.sizes());
  Tensor gradient = torch::stable::new_empty(z, z.sizes());
  const Tensor from = dense(*incoming);
  if (gradient.numel()) std::memcpy(gradient.mutable_data_ptr(), from.const_data_ptr(), gradient.numel() * 4);
  return gradient;
}

}  // namespace

Network::Network(const char* op, const Tensor& state, double eps) : op(op) {
  const bool half = state.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(state.dim() == 3 && (half || state.scalar_type() == ScalarType::Float), op,
                  ": the state must be (B, L, D) in float32 or bfloat16");
  batch = state.size(0), dtype = state.scalar_type();
  sizes = {state.size(1), state.size(2), eps, half ? bfloat16_products() : &kernels<GemmKernels>()};
  STD_TORCH_CHECK(sizes.products, op, ": bfloat16 needs avx512_bf16, and the kernels run as ",
                  isa_name(current_isa()));
  STD_TORCH_CHECK(sizes.tokens > 0 && sizes.channels > 0, op, ": no tokens or no channels");
}

const float* Network::hold(const Tensor& tensor, std::initializer_list<int64_t> shape, bool table) {
  const auto have = tensor.sizes();
  const bool fits = tensor.scalar_type() == dtype || (table && tensor.scalar_type() == ScalarType::Float);
  STD_TORCH_CHECK(fits, op, ": weights must have the state's dtype");
  STD_TORCH_CHECK(have.size() == shape.size() && std::equal(shape.begin(), shape.end(), have.begin()), op,
                  ": a weight's shape does not fit");
  held_.push_back(floats(tensor));
  return read<float>(held_.back());
}

void Network::add_mlp(const Tensor& gate_up, const Tensor& down) {
  const int64_t inner = down.size(-1), D = sizes.channels;
  layers.push_back(make_mlp(sizes, hold(gate_up, {2 * inner, D}), hold(down, {D, inner}), inner));
  weights.insert(weights.end(), {gate_up, down});
}

void Network::add_token_mixer(const Tensor& gate_up, const Tensor& down) {
  const int64_t inner = down.size(-1), L = sizes.tokens;
  layers.push_back(make_token_mixer(sizes, hold(gate_up, {2 * inner, L}), hold(down, {L, inner}), inner));
  weights.insert(weights.end(), {gate_up, down});
}

void Network::add_attention(const Tensor& qkv, const Tensor& out, int64_t heads, const MaybeTensor& cos,
                            const MaybeTensor& sin) {
  const int64_t L = sizes.tokens, D = sizes.channels;
  STD_TORCH_CHECK(heads > 0 && D % heads == 0, op, ": the channels do not divide among the heads");
  STD_TORCH_CHECK(!cos == !sin && (!cos || D / heads % 2 == 0), op,
                  ": rotary positions need cos and sin and an even number of channels a head");
  const float* cosines = cos ? hold(*cos, {L, D / heads}, true) : nullptr;
  const float* sines = sin ? hold(*sin, {L, D / heads}, true) : nullptr;
  layers.push_back(make_attention(sizes, hold(qkv, {3 * D, D}), hold(out, {D, D}), heads, cosines, sines));
  weights.insert(weights.end(), {qkv, out});
}

void Network::add_blocks(const std::vector<Tensor>& list, int64_t heads, const MaybeTensor& cos,
                         const MaybeTensor& sin) {
  STD_TORCH_CHECK(list.size() % 4 == 0 && !list.empty(), op, ": a block has four weights");
  for (size_t i = 0; i < list.size(); i += 4) {
    if (heads) {
      add_attention(list[i], list[i + 1], heads, cos, sin);
    } else {
      add_token_mixer(list[i], list[i + 1]);
    }
    add_mlp(list[i + 2], list[i + 3]);
  }
}

namespace {

// On float32 states, whatever the products' type.
States floats_fwd(Network& net, const Cycle& cycle, const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                  int64_t cycles, bool keep) {
  const Saved layout(net, cycle);
  States states{new_state(z, cycle.dual), new_state(z, true), keep ? new_saved(z, layout.size()) : new_floats(z, 0)};
  if (!net.batch) return states;

  const MaybeTensor y_in = maybe_floats(y), x_in = maybe_floats(x);
  const Tensor z_in = dense(z);
  const auto packed_at = offsets(net, &Layer::packed_size);
  const Memory packed(packed_at.back());
  for_layers(net, [&](int64_t i) { net.layers[i]->pack(packed.get() + packed_at[i]); });
  const Group::Memory memory{maybe_read(y_in), read<float>(z_in), maybe_read(x_in), write<float>(states.y),
                             write<float>(states.z), write<float>(states.saved),
                             addresses<const float>(packed.get(), packed_at)};
  const int64_t threads = torch::stable::get_num_threads(), L = net.sizes.tokens;
  const bool alone = net.batch >= threads;  // each thread has samples of its own
  const int64_t workers = alone ? threads : 1, team = alone ? 1 : threads;
  const int64_t size = alone ? group_size(net.sizes, divided(net.batch, workers), kTileRows) : net.batch;
  const int64_t rows = size * L, tiles = std::max((rows + kTileRows / 2) / kTileRows, team);
  const int64_t tile_rows = divided(rows, tiles);
  const int64_t scratch_size = Group::scratch_size(net, size, tile_rows, team);
  const Memory scratch(workers * scratch_size);
  among(workers, [&](int64_t worker) {
    const int64_t end = net.batch * (worker + 1) / workers;
    for (int64_t first = net.batch * worker / workers; first < end; first += size) {
      Group(net, cycle, layout, memory, keep, first, std::min(size, end - first), tile_rows, team,
            scratch.get() + worker * scratch_size)
          .run(cycles);
    }
  });
  return states;
}

}  // namespace

States recursion_fwd(Network& net, const Cycle& cycle, const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                     int64_t cycles, bool keep) {
  STD_TORCH_CHECK(y.has_value() == cycle.dual, net.op, ": y belongs to dual state");
  STD_TORCH_CHECK(x || (!cycle.dual && !cycle.n && !cycle.inject_last), net.op, ": x is missing");
  STD_TORCH_CHECK(cycles == 1 || (cycles > 1 && !keep), net.op, ": gradients need exactly one cycle");
  if (y) check_like(net.op, *y, z);
  if (x) check_like(net.op, *x, z);
  if (net.dtype == ScalarType::BFloat16) {
    STD_TORCH_CHECK(!keep, net.op, ": bfloat16 has no gradient");
    const States wide = floats_fwd(net, cycle, maybe_floats(y), floats(z), maybe_floats(x), cycles, false);
    return {torch::stable::to(wide.y, net.dtype), torch::stable::to(wide.z, net.dtype), new_floats(z, 0)};
  }
  return floats_fwd(net, cycle, y, z, x, cycles, keep);
}

Gradients recursion_bwd(Network& net, const Cycle& cycle, const MaybeTensor& dy, const MaybeTensor& dz,
                        const Tensor& z, const Tensor& saved) {
  STD_TORCH_CHECK(net.dtype == ScalarType::Float, net.op, ": gradients need float32");
  const Saved layout(net, cycle);
  STD_TORCH_CHECK(saved.numel() == layout.size(), net.op, ": what the forward saved does not fit");
  if (dy) check_like(net.op, *dy, z);
  if (dz) check_like(net.op, *dz, z);
  const bool injects = cycle.n || cycle.injects(cycle.n);
  Gradients gradients{new_gradient(z, dy, cycle.dual), new_gradient(z, dz, true),
                      new_gradient(z, std::nullopt, injects), {}};
  for (const Tensor& weight : net.weights) {
    gradients.dweights.push_back(net.batch ? torch::stable::new_empty(weight, weight.sizes())
                                           : torch::stable::new_zeros(weight, weight.sizes()));
  }
  if (!net.batch) return gradients;

  const Tensor z_in = dense(z);
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), net.batch);
  const int64_t size = group_size(net.sizes, divided(net.batch, workers), kBackwardRows);
  const auto packed_at = offsets(net, &Layer::packed_backward_size), at = offsets(net, &Layer::gradient_size);
  const Memory packed(packed_at.back()), gathered(workers * at.back());
  for_layers(net, [&](int64_t i) { net.layers[i]->pack_backward(packed.get() + packed_at[i]); });
  const int64_t scratch_size = GroupBackward::scratch_size(net, size);
  const Memory scratch(workers * scratch_size);
  among(workers, [&](int64_t worker) {
    float* slab = gathered.get() + worker * at.back();
    std::memset(slab, 0, at.back() * sizeof(float));
    const GroupBackward::Memory memory{read<float>(z_in),
                                       read<float>(saved),
                                       write<float>(gradients.dy),
                                       write<float>(gradients.dz),
                                       write<float>(gradients.dx),
                                       addresses<const float>(packed.get(), packed_at),
                                       addresses(slab, at)};
    const int64_t end = net.batch * (worker + 1) / workers;
    for (int64_t first = net.batch * worker / workers; first < end; first += size) {
      GroupBackward(net, cycle, layout, memory, first, std::min(size, end - first),
                    scratch.get() + worker * scratch_size)
          .run();
    }
  });
  parallel(at.back(), workers - 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = 1; worker < workers; ++worker) {
      float* to = gathered.get() + begin;
      add(to, to + worker * at.back(), to, end - begin);
    }
  });
  for_layers(net, [&](int64_t i) {
    net.layers[i]->unpack_gradient(gathered.get() + at[i], write<float>(gradients.dweights[2 * i]),
                                   write<float>(gradients.dweights[2 * i + 1]));
  });
  return gradients;
}

}  // namespace trm_fast
