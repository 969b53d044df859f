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

// The network once, on the state alone: a single layer as an op.
constexpr Cycle kOnce{0, false, false};

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

}  // namespace trm_fast
