// The bindings of rms_norm.
#include "core/binding.h"
#include "ops/rms_norm/cuda.h"
#include "ops/rms_norm/kernels.h"

namespace trm_fast {
namespace {

int64_t unit_cost(const Axis& axis) { return axis.size * std::min(axis.inner, kColumns); }

std::tuple<Tensor, Tensor> fwd(const Tensor& x, const std::optional<Tensor>& residual, int64_t dim, double eps) {
  const Axis axis = resolve_axis("rms_norm", x, dim);
  if (residual) check_like("rms_norm", x, *residual);
  const Tensor in = dense(x), added = residual ? dense(*residual) : in;
  const Tensor y = torch::stable::new_empty(x, x.sizes());
  const Tensor rstd = torch::stable::new_empty(x, sizes_with(x, dim, 1), accumulate_type(x));
  on_device(
      "rms_norm", x,
      [&](auto type) {
        using T = typename decltype(type)::type;
        parallel(reduction_units(axis), unit_cost(axis), kernels<RmsNormKernels<T>>().fwd, read<T>(in),
                 residual ? read<T>(added) : nullptr, write<T>(y), write<Accumulate<T>>(rstd), axis, eps);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::rms_norm_fwd(type, in.const_data_ptr(), residual ? added.const_data_ptr() : nullptr,
                                  y.mutable_data_ptr(), write<float>(rstd), axis, float(eps), stream);
      });
  return {y, rstd};
}

Tensor bwd(const Tensor& dy, const Tensor& y, const Tensor& rstd, int64_t dim) {
  const Axis axis = resolve_axis("rms_norm", y, dim);
  check_like("rms_norm", dy, y);
  const Tensor gradient = dense(dy), result = dense(y), statistics = dense(rstd);
  const Tensor dx = torch::stable::new_empty(y, y.sizes());
  on_device(
      "rms_norm", y,
      [&](auto type) {
        using T = typename decltype(type)::type;
        parallel(reduction_units(axis), unit_cost(axis), kernels<RmsNormKernels<T>>().bwd, read<T>(gradient),
                 read<T>(result), read<Accumulate<T>>(statistics), write<T>(dx), axis);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::rms_norm_bwd(type, gradient.const_data_ptr(), result.const_data_ptr(), read<float>(statistics),
                                  dx.mutable_data_ptr(), axis, stream);
      });
  return dx;
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CompositeExplicitAutograd, m) {
  m.impl("rms_norm_fwd", TORCH_BOX(&trm_fast::fwd));
  m.impl("rms_norm_bwd", TORCH_BOX(&trm_fast::bwd));
}
