#include "core/binding.h"
#include "ops/swiglu/kernels.h"

#ifdef TRM_FAST_CUDA
#include "ops/swiglu/cuda.h"
#endif

namespace trm_fast {
namespace {

// `half`: the contiguous stretch of the gate (and of up) under one outer index.
int64_t half_of(const Tensor& gate_up, int64_t dim) {
  const Axis axis = axis_of("swiglu", gate_up, dim);
  STD_TORCH_CHECK(axis.size % 2 == 0, "swiglu: the axis of gate and up must be even, not ", axis.size);
  return axis.size / 2 * axis.inner;
}

Tensor new_output(const Tensor& gate_up, int64_t dim) {
  const int64_t axis = dim < 0 ? dim + gate_up.dim() : dim;
  return torch::stable::new_empty(gate_up, sizes_with(gate_up, dim, gate_up.size(axis) / 2));
}

void check_dout(const Tensor& dout, const Tensor& gate_up) {
  STD_TORCH_CHECK(dout.scalar_type() == gate_up.scalar_type(), "swiglu: the gradient's dtype differs");
  STD_TORCH_CHECK(dout.numel() * 2 == gate_up.numel(), "swiglu: the gradient's shape does not fit");
}

Tensor fwd_cpu(const Tensor& gate_up, int64_t dim) {
  const int64_t half = half_of(gate_up, dim);
  const Tensor in = dense(gate_up), out = new_output(gate_up, dim);
  with_type("swiglu", gate_up, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<SwiGluKernels<T>>().fwd;
    parallel(out.numel(), 2, [&](int64_t begin, int64_t end) { run(read<T>(in), write<T>(out), half, begin, end); });
  });
  return out;
}

Tensor bwd_cpu(const Tensor& dout, const Tensor& gate_up, int64_t dim) {
  const int64_t half = half_of(gate_up, dim);
  check_dout(dout, gate_up);
  const Tensor in = dense(gate_up), gradient = dense(dout);
  Tensor dgate_up = torch::stable::new_empty(gate_up, gate_up.sizes());
  with_type("swiglu", gate_up, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<SwiGluKernels<T>>().bwd;
    parallel(gradient.numel(), 2, [&](int64_t begin, int64_t end) {
      run(read<T>(gradient), read<T>(in), write<T>(dgate_up), half, begin, end);
    });
  });
  return dgate_up;
}

#ifdef TRM_FAST_CUDA
Tensor fwd_cuda(const Tensor& gate_up, int64_t dim) {
  const CudaLaunch launch("swiglu", gate_up);
  const int64_t half = half_of(gate_up, dim);
  const Tensor in = dense(gate_up), out = new_output(gate_up, dim);
  launch.check(cuda::swiglu_fwd(cuda_type("swiglu", gate_up), in.const_data_ptr(), out.mutable_data_ptr(), half,
                                out.numel(), launch.stream()));
  return out;
}

Tensor bwd_cuda(const Tensor& dout, const Tensor& gate_up, int64_t dim) {
  const CudaLaunch launch("swiglu", gate_up);
  const int64_t half = half_of(gate_up, dim);
  check_dout(dout, gate_up);
  const Tensor in = dense(gate_up), gradient = dense(dout);
  Tensor dgate_up = torch::stable::new_empty(gate_up, gate_up.sizes());
  launch.check(cuda::swiglu_bwd(cuda_type("swiglu", gate_up), gradient.const_data_ptr(), in.const_data_ptr(),
                                dgate_up.mutable_data_ptr(), half, gradient.numel(), launch.stream()));
  return dgate_up;
}
#endif

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def("swiglu_fwd(Tensor gate_up, int dim) -> Tensor");
  m.def("swiglu_bwd(Tensor dout, Tensor gate_up, int dim) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("swiglu_fwd", TORCH_BOX(&trm_fast::fwd_cpu));
  m.impl("swiglu_bwd", TORCH_BOX(&trm_fast::bwd_cpu));
}
#ifdef TRM_FAST_CUDA
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CUDA, m) {
  m.impl("swiglu_fwd", TORCH_BOX(&trm_fast::fwd_cuda));
  m.impl("swiglu_bwd", TORCH_BOX(&trm_fast::bwd_cuda));
}
#endif
