#include "core/binding.h"
#include "ops/rms_norm/kernels.h"

#ifdef TRM_FAST_CUDA
#include "ops/rms_norm/cuda.h"
#endif

namespace trm_fast {
namespace {

struct Forward {
  Axis axis;
  Tensor x;
  std::optional<Tensor> residual;
  Tensor y, rstd;

  Forward(const Tensor& x, const std::optional<Tensor>& residual, int64_t dim)
      : axis(axis_of("rms_norm", x, dim)),
        x(dense(x)),
        y(torch::stable::new_empty(x, x.sizes())),
        rstd(torch::stable::new_empty(x, sizes_with(x, dim, 1), accumulate_type(x))) {
    if (!residual) return;
    check_like("rms_norm", x, *residual);
    this->residual = dense(*residual);
  }
};

struct Backward {
  Axis axis;
  Tensor dy, y, rstd, dx;

  Backward(const Tensor& dy, const Tensor& y, const Tensor& rstd, int64_t dim)
      : axis(axis_of("rms_norm", y, dim)),
        dy(dense(dy)),
        y(dense(y)),
        rstd(dense(rstd)),
        dx(torch::stable::new_empty(y, y.sizes())) {
    check_like("rms_norm", dy, y);
  }
};

int64_t unit_cost(const Axis& axis) { return axis.size * std::min(axis.inner, kColumns); }

std::tuple<Tensor, Tensor> fwd_cpu(const Tensor& x, const std::optional<Tensor>& residual, int64_t dim, double eps) {
  const Forward f(x, residual, dim);
  with_type("rms_norm", x, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<RmsNormKernels<T>>().fwd;
    parallel(reduction_units(f.axis), unit_cost(f.axis), [&](int64_t begin, int64_t end) {
      run(read<T>(f.x), f.residual ? read<T>(*f.residual) : nullptr, write<T>(f.y), write<Accumulate<T>>(f.rstd),
          f.axis, eps, begin, end);
    });
  });
  return {f.y, f.rstd};
}

Tensor bwd_cpu(const Tensor& dy, const Tensor& y, const Tensor& rstd, int64_t dim) {
  const Backward b(dy, y, rstd, dim);
  with_type("rms_norm", y, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<RmsNormKernels<T>>().bwd;
    parallel(reduction_units(b.axis), unit_cost(b.axis), [&](int64_t begin, int64_t end) {
      run(read<T>(b.dy), read<T>(b.y), read<Accumulate<T>>(b.rstd), write<T>(b.dx), b.axis, begin, end);
    });
  });
  return b.dx;
}

#ifdef TRM_FAST_CUDA
std::tuple<Tensor, Tensor> fwd_cuda(const Tensor& x, const std::optional<Tensor>& residual, int64_t dim, double eps) {
  const CudaLaunch launch("rms_norm", x);
  const Forward f(x, residual, dim);
  launch.check(cuda::rms_norm_fwd(cuda_type("rms_norm", x), f.x.const_data_ptr(),
                                  f.residual ? f.residual->const_data_ptr() : nullptr, f.y.mutable_data_ptr(),
                                  write<float>(f.rstd), f.axis, float(eps), launch.stream()));
  return {f.y, f.rstd};
}

Tensor bwd_cuda(const Tensor& dy, const Tensor& y, const Tensor& rstd, int64_t dim) {
  const CudaLaunch launch("rms_norm", y);
  const Backward b(dy, y, rstd, dim);
  launch.check(cuda::rms_norm_bwd(cuda_type("rms_norm", y), b.dy.const_data_ptr(), b.y.const_data_ptr(),
                                  read<float>(b.rstd), b.dx.mutable_data_ptr(), b.axis, launch.stream()));
  return b.dx;
}
#endif

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def("rms_norm_fwd(Tensor x, Tensor? residual, int dim, float eps) -> (Tensor y, Tensor rstd)");
  m.def("rms_norm_bwd(Tensor dy, Tensor y, Tensor rstd, int dim) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("rms_norm_fwd", TORCH_BOX(&trm_fast::fwd_cpu));
  m.impl("rms_norm_bwd", TORCH_BOX(&trm_fast::bwd_cpu));
}
#ifdef TRM_FAST_CUDA
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CUDA, m) {
  m.impl("rms_norm_fwd", TORCH_BOX(&trm_fast::fwd_cuda));
  m.impl("rms_norm_bwd", TORCH_BOX(&trm_fast::bwd_cuda));
}
#endif
