// The bindings of stablemax and stablemax_cross_entropy.
#include <atomic>

#include "core/binding.h"
#include "ops/stablemax/cuda.h"
#include "ops/stablemax/kernels.h"

namespace trm_fast {
namespace {

void check_gradient(const char* op, const Tensor& gradient, const Tensor& like) {
  STD_TORCH_CHECK(gradient.scalar_type() == ScalarType::Double && gradient.numel() == like.numel(), op,
                  ": the gradient must be float64 and of the output's shape");
}

Tensor fwd(const Tensor& logits, int64_t dim) {
  const Axis axis = resolve_axis("stablemax", logits, dim);
  const Tensor in = dense(logits), out = torch::stable::new_empty(logits, logits.sizes(), ScalarType::Double);
  on_device(
      "stablemax", logits,
      [&](auto type) {
        using T = typename decltype(type)::type;
        parallel(axis.outer * axis.inner, axis.size * 4, kernels<StablemaxKernels<T>>().fwd, read<T>(in),
                 write<double>(out), axis);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::stablemax_fwd(type, in.const_data_ptr(), write<double>(out), axis, stream);
      });
  return out;
}

Tensor bwd(const Tensor& dprobabilities, const Tensor& logits, int64_t dim) {
  const Axis axis = resolve_axis("stablemax", logits, dim);
  check_gradient("stablemax", dprobabilities, logits);
  const Tensor in = dense(logits), gradient = dense(dprobabilities);
  const Tensor dlogits = torch::stable::new_empty(logits, logits.sizes());
  on_device(
      "stablemax", logits,
      [&](auto type) {
        using T = typename decltype(type)::type;
        parallel(axis.outer * axis.inner, axis.size * 4, kernels<StablemaxKernels<T>>().bwd, read<double>(gradient),
                 read<T>(in), write<T>(dlogits), axis);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::stablemax_bwd(type, read<double>(gradient), in.const_data_ptr(), dlogits.mutable_data_ptr(), axis,
                                   stream);
      });
  return dlogits;
}

constexpr const char* kCrossEntropy = "stablemax_cross_entropy";

// A row costs several times its elements, because of double divisions and two logarithms.
int64_t row_cost(int64_t classes) { return 4 * classes + 32; }

int64_t class_count(const Tensor& logits, const Tensor& labels) {
  STD_TORCH_CHECK(logits.dim() == labels.dim() + 1, kCrossEntropy,
                  ": labels must have the shape of the logits without the last axis");
  STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long, kCrossEntropy, ": labels must be int64");
  const int64_t classes = logits.size(logits.dim() - 1);
  STD_TORCH_CHECK(logits.numel() == labels.numel() * classes, kCrossEntropy,
                  ": labels must have the shape of the logits without the last axis");
  return classes;
}

std::tuple<Tensor, Tensor> cross_entropy_fwd(const Tensor& logits, const Tensor& labels, int64_t ignore) {
  const int64_t classes = class_count(logits, labels);
  const Tensor x = dense(logits), label = dense(labels);
  const Tensor loss = torch::stable::new_empty(logits, labels.sizes(), ScalarType::Double);
  const Tensor total = torch::stable::new_empty(logits, labels.sizes(), ScalarType::Double);
  on_device(
      kCrossEntropy, logits,
      [&](auto type) {
        using T = typename decltype(type)::type;
        const auto run = kernels<StablemaxKernels<T>>().cross_entropy_fwd;
        std::atomic<int64_t> wrong{-1};
        parallel(labels.numel(), row_cost(classes), [&](int64_t begin, int64_t end) {
          const int64_t row = run(read<T>(x), read<int64_t>(label), write<double>(loss), write<double>(total), classes,
                                  ignore, begin, end);
          if (row >= 0) wrong = row;
        });
        const int64_t row = wrong;
        STD_TORCH_CHECK(row < 0, kCrossEntropy, ": label ", read<int64_t>(label)[row < 0 ? 0 : row], " at position ",
                        row, " is neither in [0, ", classes, ") nor ignore_index, ", ignore);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::stablemax_cross_entropy_fwd(type, x.const_data_ptr(), read<int64_t>(label), write<double>(loss),
                                                 write<double>(total), labels.numel(), classes, ignore, stream);
      });
  return {loss, total};
}

Tensor cross_entropy_bwd(const Tensor& dloss, const Tensor& logits, const Tensor& labels, const Tensor& total,
                         int64_t ignore) {
  const int64_t classes = class_count(logits, labels);
  check_gradient(kCrossEntropy, dloss, labels);
  const Tensor x = dense(logits), label = dense(labels), gradient = dense(dloss), sum = dense(total);
  const Tensor dlogits = torch::stable::new_empty(logits, logits.sizes());
  on_device(
      kCrossEntropy, logits,
      [&](auto type) {
        using T = typename decltype(type)::type;
        parallel(labels.numel(), row_cost(classes), kernels<StablemaxKernels<T>>().cross_entropy_bwd,
                 read<double>(gradient), read<T>(x), read<int64_t>(label), read<double>(sum), write<T>(dlogits),
                 classes, ignore);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        return cuda::stablemax_cross_entropy_bwd(type, read<double>(gradient), x.const_data_ptr(), read<int64_t>(label),
                                                 read<double>(sum), dlogits.mutable_data_ptr(), labels.numel(), classes,
                                                 ignore, stream);
      });
  return dlogits;
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CompositeExplicitAutograd, m) {
  m.impl("stablemax_fwd", TORCH_BOX(&trm_fast::fwd));
  m.impl("stablemax_bwd", TORCH_BOX(&trm_fast::bwd));
  m.impl("stablemax_cross_entropy_fwd", TORCH_BOX(&trm_fast::cross_entropy_fwd));
  m.impl("stablemax_cross_entropy_bwd", TORCH_BOX(&trm_fast::cross_entropy_bwd));
}
