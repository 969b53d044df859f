// The bindings of latent_recursion on a CPU, forward and backward.
#include "core/recursion.h"

namespace trm_fast {
namespace {

using Tensors = std::vector<Tensor>;

std::tuple<Tensor, Tensor, Tensor> fwd(const MaybeTensor& y, const Tensor& z, const MaybeTensor& x, int64_t n,
                                       bool inject_last, int64_t cycles, bool keep, const Tensors& weights,
                                       const MaybeTensor& cos, const MaybeTensor& sin, const MaybeTensor& mask,
                                       const MaybeTensor& groups, int64_t heads, double group_scale, double eps,
                                       bool causal) {
  Network net("latent_recursion", z, eps, mask);
  if (groups) net.set_groups(*groups, group_scale);
  net.add_blocks(weights, heads, cos, sin, causal);
  const States states = recursion_fwd(net, {n, y.has_value(), inject_last}, y, z, x, cycles, keep);
  return {states.y, states.z, states.saved};
}

std::tuple<Tensor, Tensor, Tensor, Tensors> bwd(const MaybeTensor& dy, const MaybeTensor& dz, const Tensor& z,
                                                const Tensor& saved, int64_t n, bool dual, bool inject_last,
                                                const Tensors& weights, const MaybeTensor& cos, const MaybeTensor& sin,
                                                const MaybeTensor& mask, const MaybeTensor& groups, int64_t heads,
                                                double group_scale, double eps, bool causal) {
  Network net("latent_recursion", z, eps, mask);
  if (groups) net.set_groups(*groups, group_scale);
  net.add_blocks(weights, heads, cos, sin, causal);
  Gradients g = recursion_bwd(net, {n, dual, inject_last}, dy, dz, z, saved);
  return {g.dy, g.dz, g.dx, std::move(g.dweights)};
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("latent_recursion_fwd", TORCH_BOX(&trm_fast::fwd));
  m.impl("latent_recursion_bwd", TORCH_BOX(&trm_fast::bwd));
}
