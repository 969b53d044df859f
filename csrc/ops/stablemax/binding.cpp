#include <atomic>

#include "core/binding.h"
#include "ops/stablemax/kernels.h"

#ifdef TRM_FAST_CUDA
#include "ops/stablemax/cuda.h"
#endif

namespace trm_fast {
namespace {

void check_gradient(const char* op, const Tensor& gradient, const Tensor& like) {
  STD_TORCH_CHECK(gradient.scalar_type() == ScalarType::Double && gradient.numel() == like.numel(), op,
                  ": the gradient must be float64 and of the output's shape");
}

Tensor fwd_cpu(const Tensor& logits, int64_t dim) {
  const Axis axis = axis_of("stablemax", logits, dim);
  const Tensor in = dense(logits);
  Tensor out = torch::stable::new_empty(logits, logits.sizes(), ScalarType::Double);
  with_type("stablemax", logits, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<StablemaxKernels<T>>().fwd;
    parallel(axis.outer * axis.inner, axis.size * 4, [&](int64_t begin, int64_t end) {
      run(read<T>(in), write<double>(out), axis, begin, end);
    });
  });
  return out;
}

Tensor bwd_cpu(const Tensor& dprobabilities, const Tensor& logits, int64_t dim) {
  const Axis axis = axis_of("stablemax", logits, dim);
  check_gradient("stablemax", dprobabilities, logits);
  const Tensor in = dense(logits), gradient = dense(dprobabilities);
  Tensor dlogits = torch::stable::new_empty(logits, logits.sizes());
  with_type("stablemax", logits, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<StablemaxKernels<T>>().bwd;
    parallel(axis.outer * axis.inner, axis.size * 4, [&](int64_t begin, int64_t end) {
      run(read<double>(gradient), read<T>(in), write<T>(dlogits), axis, begin, end);
    });
  });
  return dlogits;
}

// Double divisions and two logarithms a row: a unit costs several times its elements.
int64_t row_cost(int64_t classes) { return 4 * classes + 32; }

int64_t classes_of(const Tensor& logits, const Tensor& labels) {
  STD_TORCH_CHECK(logits.dim() == labels.dim() + 1, "stablemax_cross_entropy: labels must lack the logits' last axis");
  STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long, "stablemax_cross_entropy: labels must be int64");
  const int64_t classes = logits.size(logits.dim() - 1);
  STD_TORCH_CHECK(logits.numel() == labels.numel() * classes, "stablemax_cross_entropy: the shapes do not fit");
  return classes;
}

std::tuple<Tensor, Tensor> cross_entropy_fwd_cpu(const Tensor& logits, const Tensor& labels, int64_t ignore) {
  const int64_t classes = classes_of(logits, labels);
  const Tensor x = dense(logits), label = dense(labels);
  Tensor loss = torch::stable::new_empty(logits, labels.sizes(), ScalarType::Double);
  Tensor total = torch::stable::new_empty(logits, labels.sizes(), ScalarType::Double);
  std::atomic<int64_t> wrong{-1};
  with_type("stablemax_cross_entropy", logits, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<StablemaxKernels<T>>().cross_entropy_fwd;
    parallel(labels.numel(), row_cost(classes), [&](int64_t begin, int64_t end) {
      const int64_t row = run(read<T>(x), read<int64_t>(label), write<double>(loss), write<double>(total), classes,
                              ignore, begin, end);
      if (row >= 0) wrong = row;
    });
  });
  const int64_t row = wrong;
  STD_TORCH_CHECK(row < 0, "stablemax_cross_entropy: label ", read<int64_t>(label)[row < 0 ? 0 : row], " at position ",
                  row, " is neither in [0, ", classes, ") nor the ignored ", ignore);
  return {loss, total};
}

Tensor cross_entropy_bwd_cpu(const Tensor& dloss, const Tensor& logits, const Tensor& labels, const Tensor& total,
                             int64_t ignore) {
  const int64_t classes = classes_of(logits, labels);
  check_gradient("stablemax_cross_entropy", dloss, labels);
  const Tensor x = dense(logits), label = dense(labels), gradient = dense(dloss), sum = dense(total);
  Tensor dlogits = torch::stable::new_empty(logits, logits.sizes());
  with_type("stablemax_cross_entropy", logits, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<StablemaxKernels<T>>().cross_entropy_bwd;
    parallel(labels.numel(), row_cost(classes), [&](int64_t begin, int64_t end) {
      run(read<double>(gradient), read<T>(x), read<int64_t>(label), read<double>(sum), write<T>(dlogits), classes,
          ignore, begin, end);
    });
  });
  return dlogits;
}

#ifdef TRM_FAST_CUDA
Tensor fwd_cuda(const Tensor& logits, int64_t dim) {
  const CudaLaunch launch("stablemax", logits);
  const Axis axis = axis_of("stablemax", logits, dim);
  const Tensor in = dense(logits);
  Tensor out = torch::stable::new_empty(logits, logits.sizes(), ScalarType::Double);
  launch.check(cuda::stablemax_fwd(cuda_type("stablemax", logits), in.const_data_ptr(), write<double>(out), axis,
                                   launch.stream()));
  return out;
}

Tensor bwd_cuda(const Tensor& dprobabilities, const Tensor& logits, int64_t dim) {
  const CudaLaunch launch("stablemax", logits);
  const Axis axis = axis_of("stablemax", logits, dim);
  check_gradient("stablemax", dprobabilities, logits);
  const Tensor in = dense(logits), gradient = dense(dprobabilities);
  Tensor dlogits = torch::stable::new_empty(logits, logits.sizes());
  launch.check(cuda::stablemax_bwd(cuda_type("stablemax", logits), read<double>(gradient), in.const_data_ptr(),
                                   dlogits.mutable_data_ptr(), axis, launch.stream()));
  return dlogits;
}

std::tuple<Tensor, Tensor> cross_entropy_fwd_cuda(const Tensor& logits, const Tensor& labels, int64_t ignore) {
  const char* op = "stablemax_cross_entropy";
  const CudaLaunch launch(op, logits);
  const int64_t classes = classes_of(logits, labels);
  const Tensor x = dense(logits), label = dense(labels);
  Tensor loss = torch::stable::new_empty(logits, labels.sizes(), ScalarType::Double);
  Tensor total = torch::stable::new_empty(logits, labels.sizes(), ScalarType::Double);
  launch.check(cuda::stablemax_cross_entropy_fwd(cuda_type(op, logits), x.const_data_ptr(), read<int64_t>(label),
                                                 write<double>(loss), write<double>(total), labels.numel(), classes,
                                                 ignore, launch.stream()));
  return {loss, total};
}

Tensor cross_entropy_bwd_cuda(const Tensor& dloss, const Tensor& logits, const Tensor& labels, const Tensor& total,
                              int64_t ignore) {
  const char* op = "stablemax_cross_entropy";
  const CudaLaunch launch(op, logits);
  const int64_t classes = classes_of(logits, labels);
  check_gradient(op, dloss, labels);
  const Tensor x = dense(logits), label = dense(labels), gradient = dense(dloss), sum = dense(total);
  Tensor dlogits = torch::stable::new_empty(logits, logits.sizes());
  launch.check(cuda::stablemax_cross_entropy_bwd(cuda_type(op, logits), read<double>(gradient), x.const_data_ptr(),
                                                 read<int64_t>(label), read<double>(sum), dlogits.mutable_data_ptr(),
                                                 labels.numel(), classes, ignore, launch.stream()));
  return dlogits;
}
#endif

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def("stablemax_fwd(Tensor logits, int dim) -> Tensor");
  m.def("stablemax_bwd(Tensor dprobabilities, Tensor logits, int dim) -> Tensor");
  m.def("stablemax_cross_entropy_fwd(Tensor logits, Tensor labels, int ignore_index) -> (Tensor loss, Tensor total)");
  m.def(
      "stablemax_cross_entropy_bwd(Tensor dloss, Tensor logits, Tensor labels, Tensor total, int ignore_index) -> "
      "Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) {
  m.impl("stablemax_fwd", TORCH_BOX(&trm_fast::fwd_cpu));
  m.impl("stablemax_bwd", TORCH_BOX(&trm_fast::bwd_cpu));
  m.impl("stablemax_cross_entropy_fwd", TORCH_BOX(&trm_fast::cross_entropy_fwd_cpu));
  m.impl("stablemax_cross_entropy_bwd", TORCH_BOX(&trm_fast::cross_entropy_bwd_cpu));
}
#ifdef TRM_FAST_CUDA
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CUDA, m) {
  m.impl("stablemax_fwd", TORCH_BOX(&trm_fast::fwd_cuda));
  m.impl("stablemax_bwd", TORCH_BOX(&trm_fast::bwd_cuda));
  m.impl("stablemax_cross_entropy_fwd", TORCH_BOX(&trm_fast::cross_entropy_fwd_cuda));
  m.impl("stablemax_cross_entropy_bwd", TORCH_BOX(&trm_fast::cross_entropy_bwd_cuda));
}
#endif
