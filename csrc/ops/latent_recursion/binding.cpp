#include "core/recursion.h"

namespace trm_fast {
namespace {

using Tensors = std::vector<Tensor>;

std::tuple<Tensor, Tensor, Tensor> fwd_cpu(const MaybeTensor& y, const Tensor& z, const MaybeTensor& x,
                                           const Tensors& weights, const MaybeTensor& cos, const MaybeTensor& sin,
                                           int64_t heads, int64_t n, int64_t cycles, bool inject_last, double eps,
                                           bool keep, const MaybeTensor& mask, bool causal) {
  Network net("latent_recursion", z, eps, mask);
  net.add_blocks(weights, heads, cos, sin, causal);
  const States states = recursion_fwd(net, {n, y.has_value(), inject_last}, y, z, x, cycles, keep);
  return {states.y, states.z, states.saved};
}

std::tuple<Tensor, Tensor, Tensor, Tensors> bwd_cpu(const MaybeTensor& dy, const MaybeTensor& dz, const Tensor& z,
                                                    const Tensor& saved, const Tensors& weights,
                                                    const MaybeTensor& cos, const MaybeTensor& sin, int64_t heads,
                                                    int64_t n, bool dual, bool inject_last, double eps,
                                                    const MaybeTensor& mask, bool causal) {
  Network net("latent_recursion", z, eps, mask);
  net.add_blocks(weights, heads, cos, sin, causal);
  Gradients g = recursion_bwd(net, {n, dual, inject_last}, dy, dz, z, saved);
  return {g.dy, g.dz, g.dx, std::move(g.dweights)};
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def(
      "latent_recursion_fwd(Tensor? y, Tensor z, Tensor? x, Tensor[] weights, Tensor? cos, Tensor? sin, int heads, "
      "int n, int cycles, bool inject_last, float eps, bool keep, Tensor? mask, bool causal) "
      "-> (Tensor y_out, Tensor z_out, Tensor saved)");
  m.def(
      "latent_recursion_bwd(Tensor? dy, Tensor? dz, Tensor z, Tensor saved, Tensor[] weights, Tensor? cos, "
      "Tensor? sin, int heads, int n, bool dual, bool inject_last, float eps, Tensor? mask, bool causal) "
      "-> (Tensor dy_in, Tensor dz_in, Tensor dx, Tensor[] dweights)");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("latent_recursion_fwd", TORCH_BOX(&trm_fast::fwd_cpu));
  m.impl("latent_recursion_bwd", TORCH_BOX(&trm_fast::bwd_cpu));
}
