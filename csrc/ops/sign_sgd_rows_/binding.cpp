#include <numeric>

#include "core/binding.h"
#include "ops/sign_sgd_rows_/kernels.h"

#ifdef TRM_FAST_CUDA
#include "ops/sign_sgd_rows_/cuda.h"
#endif

namespace trm_fast {
namespace {

void check(const Tensor& weight, const Tensor& row_grads, const Tensor& ids) {
  STD_TORCH_CHECK(weight.dim() == 2 && row_grads.dim() == 2 && ids.dim() == 1 && ids.size(0) == row_grads.size(0) &&
                      weight.size(1) == row_grads.size(1),
                  "sign_sgd_rows_: expected weight (N, D), row_grads (B, D), ids (B,)");
  STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long, "sign_sgd_rows_: ids must be int64");
  STD_TORCH_CHECK(row_grads.scalar_type() == weight.scalar_type(), "sign_sgd_rows_: the dtypes differ");
}

void sign_sgd_rows_cpu(Tensor weight, const Tensor& row_grads, const Tensor& ids, const Tensor& lr,
                       double weight_decay) {
  check(weight, row_grads, ids);
  const int64_t rows = weight.size(0), columns = weight.size(1), batch = ids.size(0);
  const Tensor gradients = dense(row_grads), dense_ids = dense(ids);
  InPlace table(weight);
  const int64_t* id = read<int64_t>(dense_ids);
  for (int64_t i = 0; i < batch; ++i) {
    STD_TORCH_CHECK(0 <= id[i] && id[i] < rows, "sign_sgd_rows_: id ", id[i], " at position ", i, " is not in [0, ",
                    rows, ")");
  }

  // Samples of equal id side by side, in batch order within: the sums do not depend on the threads.
  std::vector<int64_t> order(batch), starts;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [id](int64_t a, int64_t b) { return id[a] < id[b]; });
  for (int64_t i = 0; i < batch; ++i) {
    if (i == 0 || id[order[i]] != id[order[i - 1]]) starts.push_back(i);
  }
  const int64_t touched = int64_t(starts.size());
  starts.push_back(batch);

  const double rate = scalar("sign_sgd_rows_", lr);
  const auto with = [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = kernels<SignSgdKernels<T>>().row;
    parallel(touched, columns * 4, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        const int64_t first = starts[group];
        run(write<T>(table.work()) + id[order[first]] * columns, read<T>(gradients), &order[first], starts[group + 1] - first,
            columns, T(1 - rate * weight_decay), T(rate));
      }
    });
  };
  switch (weight.scalar_type()) {
    case ScalarType::Float: with(Type<float>{}); break;
    case ScalarType::Double: with(Type<double>{}); break;
    default: STD_TORCH_CHECK(false, "sign_sgd_rows_: only float32 and float64 have a C++ kernel");
  }
  table.finish();
}

#ifdef TRM_FAST_CUDA
void sign_sgd_rows_cuda(Tensor weight, const Tensor& row_grads, const Tensor& ids, const Tensor& lr,
                        double weight_decay) {
  const CudaLaunch launch("sign_sgd_rows_", weight);
  check(weight, row_grads, ids);
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, "sign_sgd_rows_: only float32 has a CUDA kernel");
  const Tensor gradients = dense(row_grads), dense_ids = dense(ids);
  InPlace table(weight);
  launch.check(cuda::sign_sgd_rows_(write<float>(table.work()), read<float>(gradients), read<int64_t>(dense_ids),
                                    cuda_scalar("sign_sgd_rows_", lr), weight_decay, weight.size(0), weight.size(1),
                                    ids.size(0), launch.stream()));
  table.finish();
}
#endif

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def("sign_sgd_rows_(Tensor(a!) weight, Tensor row_grads, Tensor ids, Tensor lr, float weight_decay) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) { m.impl("sign_sgd_rows_", TORCH_BOX(&trm_fast::sign_sgd_rows_cpu)); }
#ifdef TRM_FAST_CUDA
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CUDA, m) { m.impl("sign_sgd_rows_", TORCH_BOX(&trm_fast::sign_sgd_rows_cuda)); }
#endif
