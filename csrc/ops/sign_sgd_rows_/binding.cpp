// The binding of sign_sgd_rows_. On a CPU it also sorts the examples by the row that they use.
#include <numeric>

#include "core/binding.h"
#include "ops/sign_sgd_rows_/cuda.h"
#include "ops/sign_sgd_rows_/kernels.h"

namespace trm_fast {
namespace {

// `row_grads` and `ids` must be contiguous.
template <class T>
void update(const Tensor& weight, const Tensor& row_grads, const Tensor& ids, double rate, double weight_decay) {
  const int64_t rows = weight.size(0), columns = weight.size(1), batch = ids.size(0);
  const int64_t* id = read<int64_t>(ids);
  for (int64_t i = 0; i < batch; ++i) {
    STD_TORCH_CHECK(0 <= id[i] && id[i] < rows, "sign_sgd_rows_: id ", id[i], " at position ", i, " is not in [0, ",
                    rows, ")");
  }

  // Sorts the examples by id, and by batch order within an id, so that the sums do not depend on the threads.
  std::vector<int64_t> order(batch), starts;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [id](int64_t a, int64_t b) { return id[a] < id[b]; });
  for (int64_t i = 0; i < batch; ++i) {
    if (i == 0 || id[order[i]] != id[order[i - 1]]) starts.push_back(i);
  }
  const int64_t touched = int64_t(starts.size());
  starts.push_back(batch);

  const auto run = kernels<SignSgdKernels<T>>().row;
  parallel(touched, columns * 4, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = starts[group];
      run(write<T>(weight) + id[order[first]] * columns, read<T>(row_grads), &order[first], starts[group + 1] - first,
          columns, T(1 - rate * weight_decay), T(rate));
    }
  });
}

void sign_sgd_rows_(Tensor weight, const Tensor& row_grads, const Tensor& ids, const Tensor& lr, double weight_decay) {
  STD_TORCH_CHECK(weight.dim() == 2 && row_grads.dim() == 2 && ids.dim() == 1 && ids.size(0) == row_grads.size(0) &&
                      weight.size(1) == row_grads.size(1),
                  "sign_sgd_rows_: expected weight (N, D), row_grads (B, D), ids (B,)");
  STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long, "sign_sgd_rows_: ids must be int64");
  STD_TORCH_CHECK(row_grads.scalar_type() == weight.scalar_type(), "sign_sgd_rows_: the dtypes differ");
  const Tensor gradients = dense(row_grads), dense_ids = dense(ids);
  const Scalar number = as_scalar("sign_sgd_rows_", lr, weight);
  InPlace table(weight);
  on_device<false>(
      "sign_sgd_rows_", weight,
      [&](auto type) {
        using T = typename decltype(type)::type;
        update<T>(table.work(), gradients, dense_ids, read_scalar(number), weight_decay);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        STD_TORCH_CHECK(type == cuda::Type::float32, "sign_sgd_rows_: only float32 has a CUDA kernel");
        return cuda::sign_sgd_rows_(write<float>(table.work()), read<float>(gradients), read<int64_t>(dense_ids),
                                    number, weight_decay, weight.size(0), weight.size(1), ids.size(0), stream);
      });
  table.finish();
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CompositeExplicitAutograd, m) {
  m.impl("sign_sgd_rows_", TORCH_BOX(&trm_fast::sign_sgd_rows_));
}
