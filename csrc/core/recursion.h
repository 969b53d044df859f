// Applies a network recursively on a CPU, for the ops latent_recursion, latent_step and those of single layers: in
// float32, or without gradients in bfloat16 if the CPU has products in bfloat16.
#pragma once

#include <vector>

#include "core/network.h"

namespace trm_fast {

// One cycle. Dual state: `n` times z = net(z + y + x), then y = net(y + z). Single state: `n` times z = net(z + x),
// then a last application.
struct Cycle {
  int64_t n;
  bool dual;
  bool inject_last;  // in single state: whether the last application is net(z + x) or net(z)

  int64_t applications() const { return n + 1; }
  bool injects(int64_t application) const { return dual || application < n || inject_last; }
};

struct States {
  Tensor y, z;   // y is empty in single state
  Tensor saved;  // for the backward; empty unless `keep`
};

struct Gradients {
  Tensor dy, dz, dx;  // dy is empty in single state, dx if nothing is injected
  std::vector<Tensor> dweights;
};

// Runs `cycles` cycles. `keep`, for one cycle only, saves the tensors that the backward needs.
States recursion_fwd(Network& net, const Cycle& cycle, const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                     int64_t cycles, bool keep);
// `dy` and `dz`: gradients of the new states, missing if zero. `z`: the state before the cycle.
Gradients recursion_bwd(Network& net, const Cycle& cycle, const MaybeTensor& dy, const MaybeTensor& dz, const Tensor& z,
                        const Tensor& saved);

// The ops of single layers: (y, saved), and the gradients of h and of both weights. `net` has one layer.
std::tuple<Tensor, Tensor> layer_fwd(Network& net, const Tensor& h, bool keep);
std::tuple<Tensor, Tensor, Tensor> layer_bwd(Network& net, const Tensor& dy, const Tensor& h, const Tensor& saved);

// A layer with the arguments gate_up and down as an op.
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
