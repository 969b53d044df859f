// A network of fused layers, applied again and again: what the ops `latent_recursion`, `latent_step` and those of
// single layers share. float32 on a CPU; bfloat16 where the CPU has products of it, and without gradients.
#pragma once

#include <vector>

#include "core/network.h"

namespace trm_fast {

// One cycle: `n` times z = net(z + x) and the last application; with y, z = net(z + y + x) and y = net(y + z).
struct Cycle {
  int64_t n;
  bool dual;
  bool inject_last;  // without y: the last application is net(z + x), else net(z)

  int64_t applications() const { return n + 1; }
  bool injects(int64_t application) const { return dual || application < n || inject_last; }
};

struct States {
  Tensor y, z;   // y is empty in single state
  Tensor saved;  // for the backward; empty unless asked for
};

struct Gradients {
  Tensor dy, dz, dx;  // dy is empty in single state, dx where nothing is injected
  std::vector<Tensor> dweights;
};

// `cycles` in a row; `keep` (one cycle only) saves what the backward needs.
States recursion_fwd(Network& net, const Cycle& cycle, const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                     int64_t cycles, bool keep);
// `dy` and `dz`: gradients of the new states, missing where they are zero; `z` as it entered.
Gradients recursion_bwd(Network& net, const Cycle& cycle, const MaybeTensor& dy, const MaybeTensor& dz,
                        const Tensor& z, const Tensor& saved);

// A network of one layer as an op of its own: (y, saved), and the gradients of h and of both weights.
std::tuple<Tensor, Tensor> layer_fwd(Network& net, const Tensor& h, bool keep);
std::tuple<Tensor, Tensor, Tensor> layer_bwd(Network& net, const Tensor& dy, const Tensor& h, const Tensor& saved);

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
