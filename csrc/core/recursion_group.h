// Takes one group of examples through a cycle, forward and backward. A group passes every layer in turn, so the output
// of one application is still in the cache when the next one reads it.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/products.h"
#include "core/recursion.h"

namespace trm_fast {

inline int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

// The layout of the tensor that the forward keeps. In this order, each for the whole batch: for each application and
// layer the layer's own tensors and its output; the inputs of the applications that are no layer's output; all
// statistics, last because their odd sizes break the alignment of what follows. No gaps, because torch compares and
// copies the whole tensor.
class Saved {
 public:
  Saved(const Network& net, const Cycle& cycle) : state_(net.batch * net.sizes.example()) {
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

// The mask of valid tokens from an example on; null without padding.
inline const bool* valid_from(const Network& net, int64_t first) {
  return net.valid ? net.valid + first * net.sizes.tokens : nullptr;
}

inline bool clears_padding(const Network& net, size_t layer) { return net.valid && net.layers[layer]->zero_padding(); }

inline void add(const float* a, const float* b, float* to, int64_t count) {
  kernels<AddKernels<float>>().add(a, b, to, count);
}

// Writes zeros to the padding of x (examples, tokens, channels).
inline void clear_padding(const Network& net, int64_t first, int64_t examples, float* x) {
  const int64_t L = net.sizes.tokens, D = net.sizes.channels;
  for (int64_t row = 0; row < examples * L; ++row) {
    if (!net.valid[first * L + row]) std::fill_n(x + row * D, D, 0.0f);
  }
}

// Calls body(worker) for each of `workers`, on one of torch's threads each.
template <class Body>
void among(int64_t workers, const Body& body) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) body(worker);
  };
  if (workers == 1) return run(0, 1);
  torch::stable::parallel_for(0, workers, 1, run);
}

// Takes one group of examples through the cycles.
class Group {
 public:
  struct Memory {
    const float *y_in, *z_in, *x;  // of the whole batch
    float *y_out, *z_out, *saved;
    std::vector<const float*> packed;  // each layer's weights
  };

  // `team`: how many threads divide the units of each layer.
  Group(const Network& net, const Cycle& cycle, const Saved& layout, const Memory& memory, bool keep, int64_t first,
        int64_t examples, int64_t tile_rows, int64_t team, float* scratch)
      : net_(net), cycle_(cycle), layout_(layout), keep_(keep), first_(first), examples_(examples),
        count_(examples * net.sizes.example()), tile_rows_(tile_rows), team_(team) {
    const int64_t at = first * net.sizes.example();
    z_ = memory.z_in + at, x_ = memory.x ? memory.x + at : nullptr, y_ = memory.y_in ? memory.y_in + at : nullptr;
    y_out_ = memory.y_out + at, z_out_ = memory.z_out + at, saved_ = memory.saved, packed_ = memory.packed.data();
    const int64_t state = aligned(count_);
    injection_ = scratch, input_ = scratch + state, even_ = scratch + 2 * state, odd_ = scratch + 3 * state;
    rstd_ = scratch + 4 * state;
    work_ = rstd_ + aligned(examples * most(net, &Layer::rstd_size));
    thread_scratch_ = work_ + aligned(examples * most(net, &Layer::work_size));
    thread_size_ = thread_scratch(net, tile_rows);
  }

  static int64_t scratch_size(const Network& net, int64_t examples, int64_t tile_rows, int64_t team) {
    return 4 * aligned(examples * net.sizes.example()) + aligned(examples * most(net, &Layer::rstd_size)) +
           aligned(examples * most(net, &Layer::work_size)) + team * thread_scratch(net, tile_rows);
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
    float* to = keep_ ? saved_ + layout_.input(application) + first_ * net_.sizes.example() : input_;
    add(a, b, to, count_);
    prepare(to, 0);
    return to;
  }

  // A copy of the input where the last layer may overwrite the state that the first one reads, or where padding must
  // become zero (in the copy only: the state keeps its padding).
  const float* apart(const float* z) {
    if (z != z_out_ && !clears_padding(net_, 0)) return z;
    std::memcpy(input_, z, count_ * sizeof(float));
    prepare(input_, 0);
    return input_;
  }

  void prepare(float* h, size_t layer) {
    if (clears_padding(net_, layer)) clear_padding(net_, first_, examples_, h);
  }

  const float* apply(int64_t application, const float* h, float* out) {
    for (size_t i = 0; i < net_.layers.size(); ++i) {
      const Layer& layer = *net_.layers[i];
      float* y = i + 1 == net_.layers.size() ? out : i % 2 ? odd_ : even_;
      Forward f{examples_, tile_rows_, keep_, packed_[i], valid_from(net_, first_), h, y, work_, rstd_};
      if (keep_) {
        f.y = saved_ + layout_.output(application, i) + first_ * net_.sizes.example();
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
      if (i + 1 < net_.layers.size()) prepare(f.y, i + 1);
      h = f.y;
    }
    return h;
  }

  const Network& net_;
  const Cycle& cycle_;
  const Saved& layout_;
  bool keep_;
  int64_t first_, examples_, count_, tile_rows_, team_, thread_size_;
  const float *y_, *z_, *x_;
  float *y_out_, *z_out_, *saved_;
  const float* const* packed_;
  float *injection_, *input_, *even_, *odd_, *rstd_, *work_, *thread_scratch_;
};

// Takes one group of examples backward through a cycle. The gradients are computed in place: dz holds that of the
// state, layer by layer; dx sums that of the injection.
class GroupBackward {
 public:
  struct Memory {
    const float *z, *saved;
    float *dy, *dz, *dx;
    std::vector<const float*> packed;  // each layer's weights
    std::vector<float*> gradients;     // and the sums of their gradients
  };

  GroupBackward(const Network& net, const Cycle& cycle, const Saved& layout, const Memory& memory, int64_t first,
                int64_t examples, float* scratch)
      : net_(net), cycle_(cycle), layout_(layout), memory_(memory), first_(first), examples_(examples),
        count_(examples * net.sizes.example()), scratch_(scratch) {}

  static int64_t scratch_size(const Network& net, int64_t examples) {
    int64_t largest = 0;
    for (const auto& layer : net.layers) largest = std::max(largest, layer->backward_scratch(examples));
    return aligned(examples * net.sizes.example()) + aligned(largest);
  }

  void run() {
    const int64_t at = first_ * net_.sizes.example();
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
      const int64_t at = first_ * net_.sizes.example();
      const float* saved = memory_.saved;
      const float* h = i ? saved + layout_.output(application, i - 1) + at : input(application);
      layer.backward(
          {examples_, memory_.packed[i], valid_from(net_, first_), h, saved + layout_.output(application, i) + at,
           saved + layout_.kept(application, i) + first_ * layer.kept_size(),
           saved + layout_.rstd(application, i) + first_ * layer.rstd_size(), d, memory_.gradients[i]},
          scratch_ + aligned(count_));
      if (clears_padding(net_, i)) clear_padding(net_, first_, examples_, d);
    }
  }

  const float* input(int64_t application) const {
    const int64_t at = first_ * net_.sizes.example(), last = int64_t(net_.layers.size()) - 1;
    if (cycle_.injects(application)) return memory_.saved + layout_.input(application) + at;
    const float* z = (application ? memory_.saved + layout_.output(application - 1, last) : memory_.z) + at;
    if (!clears_padding(net_, 0)) return z;
    std::memcpy(scratch_, z, count_ * sizeof(float));
    clear_padding(net_, first_, examples_, scratch_);
    return scratch_;
  }

  const Network& net_;
  const Cycle& cycle_;
  const Saved& layout_;
  const Memory& memory_;
  int64_t first_, examples_, count_;
  float* scratch_;
};

}  // namespace trm_fast
