// The bindings of swiglu.
#include "core/binding.h"
#include "ops/swiglu/cuda.h"
#include "ops/swiglu/kernels.h"

namespace trm_fast {
namespace {

// The number of contiguous elements of the gate, and of up, per outer index.
int64_t half_size(const Tensor& gate_up, int64_t dim) {
  const Axis axis = resolve_axis("swiglu", gate_up, dim);
  STD_TORCH_CHECK(axis.size % 2 == 0, "swiglu: the size of the axis with gate and up must be even, not ", axis.size);
  return axis.size / 2 * axis.inner;
}

Tensor fwd(const Tensor& gate_up, int64_t dim) {
  const int64_t half = half_size(gate_up, dim), axis = dim < 0 ? dim + gate_up.dim() : dim;
  const Tensor in = dense(gate_up);
  const Tensor out = torch::stable::new_empty(gate_up, sizes_with(gate_up, dim, gate_up.size(axis) / 2));
  on_device(
      "swiglu", gate_up,
      [&](auto type) {
        using T = typename decltype(type)::type;
        parallel(out.numel(), 2, kernels<SwiGluKernels<T>>().fwd, read<T>(in), write<T>(out), half);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::swiglu_fwd(type, in.const_data_ptr(), out.mutable_data_ptr(), half, out.numel(), stream);
      });
  return out;
}

Tensor bwd(const Tensor& dout, const Tensor& gate_up, int64_t dim) {
  const int64_t half = half_size(gate_up, dim);
  STD_TORCH_CHECK(dout.scalar_type() == gate_up.scalar_type(), "swiglu: the gradient's dtype differs");
  STD_TORCH_CHECK(dout.numel() * 2 == gate_up.numel(), "swiglu: the gradient has the wrong number of elements");
  const Tensor in = dense(gate_up), gradient = dense(dout);
  const Tensor dgate_up = torch::stable::new_empty(gate_up, gate_up.sizes());
  on_device(
      "swiglu", gate_up,
      [&](auto type) {
        using T = typename decltype(type)::type;
        parallel(gradient.numel(), 2, kernels<SwiGluKernels<T>>().bwd, read<T>(gradient), read<T>(in),
                 write<T>(dgate_up), half);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::swiglu_bwd(type, gradient.const_data_ptr(), in.const_data_ptr(), dgate_up.mutable_data_ptr(), half,
                                gradient.numel(), stream);
      });
  return dgate_up;
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CompositeExplicitAutograd, m) {
  m.impl("swiglu_fwd", TORCH_BOX(&trm_fast::fwd));
  m.impl("swiglu_bwd", TORCH_BOX(&trm_fast::bwd));
}
