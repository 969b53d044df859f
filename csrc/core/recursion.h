// Applies a network recursively on a CPU, for the ops latent_recursion, mlp, token_mixer and attention. The states are
// float32, or bfloat16 if the CPU has bfloat16 products: then the factors of all products are rounded to bfloat16, and
// sums, norms, residuals and everything between are float32. Invalid arguments throw torch's error.
#pragma once

#include <vector>

#include "core/network.h"

namespace trm_fast {

// One cycle, with n = `latent_steps`:
// Single state: n times z = net(z + x), then z = net(z + x) if `inject_last`, else z = net(z).
// Dual state: n times z = net(z + y + x), then y = net(y + z).
struct Cycle {
  int64_t latent_steps;
  bool has_answer_state;  // dual state
  bool inject_last;       // ignored in dual state

  int64_t applications() const { return latent_steps + 1; }
  // Whether an injection is added to the input of this application.
  bool injects(int64_t application) const { return has_answer_state || application < latent_steps || inject_last; }
};

struct States {
  Tensor y, z;   // y is empty in single state
  Tensor saved;  // for the backward, in the layout of SavedLayout; empty unless `keep`
};

struct Gradients {
  Tensor dy, dz, dx;             // dy is empty in single state, dx if there is no injection
  std::vector<Tensor> dweights;  // in the order of net.weights
};

// Runs `cycles` cycles on the states y and z and the injection x, each (batch, tokens, channels). y is nullopt in
// single state; x may be nullopt if no application injects it. The results are new tensors. `keep` saves what the
// backward needs, and requires cycles == 1.
States recursion_fwd(Network& net, const Cycle& cycle, const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                     int64_t cycles, bool keep);
// The gradients of one cycle, each with the dtype of its tensor. dy, dz: the gradients of the output states (nullopt
// means zero); z: the input state; saved: from recursion_fwd with `keep`. The arguments are not changed.
Gradients recursion_bwd(Network& net, const Cycle& cycle, const MaybeTensor& dy, const MaybeTensor& dz, const Tensor& z,
                        const Tensor& saved);

// The ops of single layers, for a network of one layer. layer_fwd returns (y, saved); layer_bwd returns the gradients
// of h and of both weights.
std::tuple<Tensor, Tensor> layer_fwd(Network& net, const Tensor& h, bool keep);
std::tuple<Tensor, Tensor, Tensor> layer_bwd(Network& net, const Tensor& dy, const Tensor& h, const Tensor& saved);

// The op of a layer whose weights are gate_up and down. `add` is the method of Network that adds the layer.
struct GatedOp {
  const char* name;
  void (Network::*add)(const Tensor& gate_up, const Tensor& down);
};

template <const GatedOp& kOp>
std::tuple<Tensor, Tensor> gated_fwd(const Tensor& h, bool keep, const Tensor& gate_up, const Tensor& down,
                                     double eps) {
  Network net(kOp.name, h, eps);
  (net.*kOp.add)(gate_up, down);
  return layer_fwd(net, h, keep);
}

template <const GatedOp& kOp>
std::tuple<Tensor, Tensor, Tensor> gated_bwd(const Tensor& dy, const Tensor& h, const Tensor& saved,
                                             const Tensor& gate_up, const Tensor& down, double eps) {
  Network net(kOp.name, h, eps);
  (net.*kOp.add)(gate_up, down);
  return layer_bwd(net, dy, h, saved);
}

}  // namespace trm_fast
