// Runs one group of examples through a cycle, forward or backward. A group passes through all layers before the next
// group starts, so its activations stay in the CPU's cache. All sizes and offsets are in floats.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/products.h"
#include "core/recursion.h"

namespace trm_fast {

// Rounds `floats` up to a multiple of 64 bytes.
inline int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

// The layout of the buffer that the forward saves for the backward, for the whole batch: (1) for each application and
// layer, the layer's saved activations and its output; (2) the input of each application that adds an injection; (3)
// all rstd values, last because their sizes would break alignment. There are no gaps, because torch copies and compares
// the whole buffer. The methods return the offset of the first example.
class SavedLayout {
 public:
  SavedLayout(const Network& net, const Cycle& cycle) : state_(net.batch * net.sizes.example()) {
    for (const auto& layer : net.layers) {
      activations_.push_back(application_);
      output_.push_back(activations_.back() + net.batch * layer->activations_size());
      application_ = output_.back() + state_;
      rstd_.push_back(statistics_);
      statistics_ += net.batch * layer->rstd_size();
    }
    inputs_ = cycle.applications() * application_;
    first_rstd_ = inputs_ + state_ * (cycle.latent_steps + cycle.injects(cycle.latent_steps));
    size_ = first_rstd_ + cycle.applications() * statistics_;
  }

  int64_t size() const { return size_; }
  int64_t activations(int64_t application, int64_t layer) const {
    return application * application_ + activations_[layer];
  }
  int64_t output(int64_t application, int64_t layer) const { return application * application_ + output_[layer]; }
  int64_t input(int64_t application) const { return inputs_ + application * state_; }
  int64_t rstd(int64_t application, int64_t layer) const {
    return first_rstd_ + application * statistics_ + rstd_[layer];
  }

 private:
  int64_t state_, application_ = 0, statistics_ = 0, inputs_ = 0, first_rstd_ = 0, size_ = 0;
  std::vector<int64_t> activations_, output_, rstd_;
};

// The token mask, starting at example `first`; null if all tokens are valid.
inline const bool* valid_from(const Network& net, int64_t first) {
  return net.valid ? net.valid + first * net.sizes.tokens : nullptr;
}

// Whether the padding of this layer's input must be cleared.
inline bool clears_padding(const Network& net, size_t layer) { return net.valid && net.layers[layer]->zero_padding(); }

// to = a + b for `count` floats. `to` may be a or b.
inline void add(const float* a, const float* b, float* to, int64_t count) {
  kernels<AddKernels<float>>().add(a, b, to, count);
}

// Sets the padding of x (examples, tokens, channels) to zero. x[0] is example `first` of the batch. The network must
// have a mask.
inline void clear_padding(const Network& net, int64_t first, int64_t examples, float* x) {
  const int64_t L = net.sizes.tokens, D = net.sizes.channels;
  for (int64_t row = 0; row < examples * L; ++row) {
    if (!net.valid[first * L + row]) std::fill_n(x + row * D, D, 0.0f);
  }
}

// Calls body(i) for each i in [0, workers) on torch's thread pool. A single worker runs on the calling thread.
template <class Body>
void parallel_over(int64_t workers, const Body& body) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) body(worker);
  };
  if (workers == 1) return run(0, 1);
  torch::stable::parallel_for(0, workers, 1, run);
}

// Runs one group of examples through the cycles.
class Group {
 public:
  struct Buffers {
    // The states and the injection of the whole batch. y_in and x may be null. Outputs must not alias inputs.
    const float *y_in, *z_in, *x;
    float *y_out, *z_out, *saved;
    std::vector<const float*> packed;  // the packed weights of each layer
  };

  // The group is examples [first, first + examples). `keep`: whether to fill `saved` for the backward. `tile_rows`: the
  // rows of a product that a layer computes at once. `team`: the number of threads that divide the units of each layer.
  // `scratch`: scratch_size() floats, aligned to 64 bytes.
  Group(const Network& net, const Cycle& cycle, const SavedLayout& layout, const Buffers& buffers, bool keep,
        int64_t first, int64_t examples, int64_t tile_rows, int64_t team, float* scratch)
      : net_(net), cycle_(cycle), layout_(layout), keep_(keep), first_(first), examples_(examples),
        count_(examples * net.sizes.example()), tile_rows_(tile_rows), team_(team) {
    const int64_t at = first * net.sizes.example();
    z_ = buffers.z_in + at, x_ = buffers.x ? buffers.x + at : nullptr, y_ = buffers.y_in ? buffers.y_in + at : nullptr;
    y_out_ = buffers.y_out + at, z_out_ = buffers.z_out + at, saved_ = buffers.saved, packed_ = buffers.packed.data();
    const int64_t state = aligned(count_);
    injection_ = scratch, input_ = scratch + state, even_ = scratch + 2 * state, odd_ = scratch + 3 * state;
    rstd_ = scratch + 4 * state;
    work_ = rstd_ + aligned(examples * max_over_layers(net, &Layer::rstd_size));
    thread_scratch_ = work_ + aligned(examples * max_over_layers(net, &Layer::work_size));
    thread_size_ = thread_scratch(net, tile_rows);
  }

  static int64_t scratch_size(const Network& net, int64_t examples, int64_t tile_rows, int64_t team) {
    return 4 * aligned(examples * net.sizes.example()) + aligned(examples * max_over_layers(net, &Layer::rstd_size)) +
           aligned(examples * max_over_layers(net, &Layer::work_size)) + team * thread_scratch(net, tile_rows);
  }

  // Writes the final states to z_out and, in dual state, y_out.
  void run(int64_t cycles) {
    for (int64_t i = 0; i < cycles; ++i) run_cycle();
    if (!keep_) return;
    std::memcpy(z_out_, z_, count_ * sizeof(float));
    if (cycle_.has_answer_state) std::memcpy(y_out_, y_, count_ * sizeof(float));
  }

 private:
  // The largest `size` of all layers.
  static int64_t max_over_layers(const Network& net, int64_t (Layer::*size)() const) {
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
    if (cycle_.has_answer_state) {
      add(y_, x_, injection_, count_);
      injection = injection_;
    }
    for (int64_t i = 0; i < cycle_.latent_steps; ++i) z_ = apply(i, add_injection(i, z_, injection), z_out_);
    if (cycle_.has_answer_state) {
      y_ = apply(cycle_.latent_steps, add_injection(cycle_.latent_steps, y_, z_), y_out_);
    } else if (cycle_.inject_last) {
      z_ = apply(cycle_.latent_steps, add_injection(cycle_.latent_steps, z_, x_), z_out_);
    } else {
      z_ = apply(cycle_.latent_steps, copy_if_needed(z_), z_out_);
    }
  }

  // Returns a + b, the input of an application, and clears its padding if the first layer needs that. The sum is in
  // `saved` if the backward needs it, otherwise in input_.
  const float* add_injection(int64_t application, const float* a, const float* b) {
    float* to = keep_ ? saved_ + layout_.input(application) + first_ * net_.sizes.example() : input_;
    add(a, b, to, count_);
    clear_padding_if_needed(to, 0);
    return to;
  }

  // Returns z, or a copy of it in input_. A copy is needed if the last layer's output would overwrite z, or if clearing
  // padding would change z.
  const float* copy_if_needed(const float* z) {
    if (z != z_out_ && !clears_padding(net_, 0)) return z;
    std::memcpy(input_, z, count_ * sizeof(float));
    clear_padding_if_needed(input_, 0);
    return input_;
  }

  // Clears the padding of h, the input of `layer`, if the layer needs that.
  void clear_padding_if_needed(float* h, size_t layer) {
    if (clears_padding(net_, layer)) clear_padding(net_, first_, examples_, h);
  }

  // Applies the network to h and returns the output. If `keep`, the output is in `saved` and `out` is not written;
  // otherwise it is in `out`.
  const float* apply(int64_t application, const float* h, float* out) {
    for (size_t i = 0; i < net_.layers.size(); ++i) {
      const Layer& layer = *net_.layers[i];
      float* y = i + 1 == net_.layers.size() ? out : i % 2 ? odd_ : even_;
      Forward f{examples_, tile_rows_, keep_, packed_[i], valid_from(net_, first_), h, y, work_, work_, rstd_};
      if (keep_) {
        f.y = saved_ + layout_.output(application, i) + first_ * net_.sizes.example();
        f.activations = saved_ + layout_.activations(application, i) + first_ * layer.activations_size();
        f.rstd = saved_ + layout_.rstd(application, i) + first_ * layer.rstd_size();
      }
      for (int64_t phase = 0; phase < layer.phases(); ++phase) {
        const int64_t units = layer.units(phase, f);
        if (team_ == 1) {
          layer.forward(f, phase, 0, units, thread_scratch_);
        } else {
          parallel_over(team_, [&](int64_t member) {
            layer.forward(f, phase, units * member / team_, units * (member + 1) / team_,
                          thread_scratch_ + member * thread_size_);
          });
        }
      }
      if (i + 1 < net_.layers.size()) clear_padding_if_needed(f.y, i + 1);
      h = f.y;
    }
    return h;
  }

  const Network& net_;
  const Cycle& cycle_;
  const SavedLayout& layout_;
  bool keep_;
  int64_t first_, examples_, count_, tile_rows_, team_, thread_size_;
  const float *y_, *z_, *x_;
  float *y_out_, *z_out_, *saved_;
  const float* const* packed_;
  float *injection_, *input_, *even_, *odd_, *rstd_, *work_, *thread_scratch_;
};

// Runs one group of examples backward through a cycle. Works in place: dz holds the gradient of the current state z, dx
// accumulates that of the injection, and in dual state dy holds that of the answer state.
class GroupBackward {
 public:
  struct Buffers {
    const float *z, *saved;
    float *dy, *dz, *dx;
    std::vector<const float*> packed;  // per layer: the weights, from pack_backward()
    std::vector<float*> gradients;     // per layer: that of the weights; the backward adds to it
  };

  GroupBackward(const Network& net, const Cycle& cycle, const SavedLayout& layout, const Buffers& buffers,
                int64_t first, int64_t examples, float* scratch)
      : net_(net), cycle_(cycle), layout_(layout), buffers_(buffers), first_(first), examples_(examples),
        count_(examples * net.sizes.example()), scratch_(scratch) {}

  static int64_t scratch_size(const Network& net, int64_t examples) {
    int64_t largest = 0;
    for (const auto& layer : net.layers) largest = std::max(largest, layer->backward_scratch(examples));
    return aligned(examples * net.sizes.example()) + aligned(largest);
  }

  void run() {
    const int64_t at = first_ * net_.sizes.example();
    float *dy = buffers_.dy + at, *dz = buffers_.dz + at, *dx = buffers_.dx + at;
    if (cycle_.has_answer_state) {
      apply(cycle_.latent_steps, dy);
      add(dz, dy, dz, count_);
    } else {
      apply(cycle_.latent_steps, dz);
      if (cycle_.inject_last) add(dx, dz, dx, count_);
    }
    for (int64_t i = cycle_.latent_steps - 1; i >= 0; --i) {
      apply(i, dz);
      add(dx, dz, dx, count_);
    }
    if (cycle_.has_answer_state) add(dy, dx, dy, count_);
  }

 private:
  // d: on entry the gradient of the application's output, on exit that of its input.
  void apply(int64_t application, float* d) {
    for (int64_t i = int64_t(net_.layers.size()) - 1; i >= 0; --i) {
      const Layer& layer = *net_.layers[i];
      const int64_t at = first_ * net_.sizes.example();
      const float* saved = buffers_.saved;
      const float* h = i ? saved + layout_.output(application, i - 1) + at : input(application);
      layer.backward(
          {examples_, buffers_.packed[i], valid_from(net_, first_), h, saved + layout_.output(application, i) + at,
           saved + layout_.activations(application, i) + first_ * layer.activations_size(),
           saved + layout_.rstd(application, i) + first_ * layer.rstd_size(), d, buffers_.gradients[i]},
          scratch_ + aligned(count_));
      if (clears_padding(net_, i)) clear_padding(net_, first_, examples_, d);
    }
  }

  // The input of the application's first layer, with its padding cleared if the layer needs that. It may be a copy in
  // scratch_, which the next call overwrites.
  const float* input(int64_t application) const {
    const int64_t at = first_ * net_.sizes.example(), last = int64_t(net_.layers.size()) - 1;
    if (cycle_.injects(application)) return buffers_.saved + layout_.input(application) + at;
    const float* z = (application ? buffers_.saved + layout_.output(application - 1, last) : buffers_.z) + at;
    if (!clears_padding(net_, 0)) return z;
    std::memcpy(scratch_, z, count_ * sizeof(float));
    clear_padding(net_, first_, examples_, scratch_);
    return scratch_;
  }

  const Network& net_;
  const Cycle& cycle_;
  const SavedLayout& layout_;
  const Buffers& buffers_;
  int64_t first_, examples_, count_;
  float* scratch_;
};

}  // namespace trm_fast
