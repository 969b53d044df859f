// The binding of adam_atan2_: checks the lists of tensors and runs the step on their device.
#include "core/binding.h"
#include "ops/adam_atan2_/cuda.h"

namespace trm_fast {
namespace {

using Tensors = std::vector<Tensor>;

constexpr const char* kOp = "adam_atan2_";

// The parameters and their gradients, moments and averages, checked against each other. `ema` may be empty.
struct Lists {
  std::vector<InPlace> p, m, v, ema;
  Tensors g;

  Lists(const Tensors& params, const Tensors& grads, const Tensors& exp_avgs, const Tensors& exp_avg_sqs,
        const Tensors& averages)
      : p(params.begin(), params.end()), m(exp_avgs.begin(), exp_avgs.end()), v(exp_avg_sqs.begin(), exp_avg_sqs.end()),
        ema(averages.begin(), averages.end()) {
    for (const Tensors* list : {&params, &grads, &exp_avgs, &exp_avg_sqs, &averages}) {
      if (list == &averages && averages.empty()) continue;
      STD_TORCH_CHECK(list->size() == params.size(), kOp, ": the lists differ in length");
      for (size_t i = 0; i < params.size(); ++i) {
        STD_TORCH_CHECK(params[i].scalar_type() == params[0].scalar_type(), kOp, ": the params' dtypes differ");
        check_like(kOp, params[i], (*list)[i]);
      }
    }
    for (const Tensor& grad : grads) g.push_back(dense(grad));
  }

  void finish() {
    for (auto* list : {&p, &m, &v, &ema}) {
      for (InPlace& tensor : *list) tensor.finish();
    }
  }
};

template <class T>
struct Parameter {  // `first` is its offset in the concatenation of all parameters
  int64_t first, count;
  T *p, *m, *v, *ema;
  const T* g;
};

template <class T>
void update(const Lists& lists, const AdamOptions& options) {
  std::vector<Parameter<T>> parameters;
  int64_t total = 0;
  for (size_t i = 0; i < lists.p.size(); ++i) {
    const int64_t count = lists.p[i].work().numel();
    if (count == 0) continue;
    parameters.push_back({total, count, write<T>(lists.p[i].work()), write<T>(lists.m[i].work()),
                          write<T>(lists.v[i].work()), lists.ema.empty() ? nullptr : write<T>(lists.ema[i].work()),
                          read<T>(lists.g[i])});
    total += count;
  }
  const AdamCoefficients<T> coefficients = adam_coefficients<T>(options);
  const auto run = options.adamw ? kernels<AdamKernels<T>>().adamw : kernels<AdamKernels<T>>().atan2;
  // Threads divide the elements, not the parameters, so that one large matrix does not leave other threads idle.
  parallel(total, 4, [&](int64_t begin, int64_t end) {
    auto at = std::upper_bound(parameters.begin(), parameters.end(), begin,
                               [](int64_t element, const Parameter<T>& s) { return element < s.first; }) -
              1;
    for (; at != parameters.end() && at->first < end; ++at) {
      run(at->p, at->g, at->m, at->v, at->ema, coefficients, std::max(begin - at->first, int64_t(0)),
          std::min(end - at->first, at->count));
    }
  });
}

std::vector<cuda::AdamTensor> table(const Lists& lists, const Tensors& copies, const std::vector<int64_t>& interleave) {
  std::vector<cuda::AdamTensor> rows;
  for (size_t i = 0; i < lists.p.size(); ++i) {
    const Tensor& p = lists.p[i].work();
    if (p.numel() == 0) continue;
    cuda::AdamTensor t{write<float>(p), read<float>(lists.g[i]), write<float>(lists.m[i].work()),
                       write<float>(lists.v[i].work()),
                       lists.ema.empty() ? nullptr : write<float>(lists.ema[i].work())};
    t.count = p.numel();
    if (!copies.empty() && copies[i].numel() > 0) {
      t.copy = copies[i].mutable_data_ptr();
      t.columns = p.size(p.dim() - 1);
      t.stride = copies[i].stride(0);
      t.half = t.count / t.columns / 2;
      t.group = int32_t(interleave[i]);
    }
    rows.push_back(t);
  }
  return rows;
}

// Only GPU kernels write `copies`, which the caller has checked (trm_fast/ops/adam_atan2_.py).
void adam_atan2_(Tensors params, Tensors grads, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors ema, Tensors copies,
                 std::vector<int64_t> interleave, const Tensor& lr, const Tensor& step,
                 const std::optional<Tensor>& grad_scale, double beta1, double beta2, double weight_decay,
                 double ema_decay, double eps, bool adamw) {
  if (params.empty()) return;
  Lists lists(params, grads, exp_avgs, exp_avg_sqs, ema);
  const auto number = [&](const Tensor& tensor) { return as_scalar(kOp, tensor, params[0]); };
  const AdamOptions options{number(lr), number(step), grad_scale ? number(*grad_scale) : Scalar{},
                            beta1,      beta2,        weight_decay,
                            ema_decay,  eps,          adamw};
  on_device<false>(
      kOp, params[0],
      [&](auto type) {
        STD_TORCH_CHECK(copies.empty(), kOp, ": on a CPU the caller must write the copies");
        update<typename decltype(type)::type>(lists, options);
      },
      [&](cuda::Type type, cudaStream_t stream) {
        STD_TORCH_CHECK(type == cuda::Type::float32, kOp, ": only float32 has a CUDA kernel");
        STD_TORCH_CHECK((copies.empty() || copies.size() == params.size()) && interleave.size() == copies.size(), kOp,
                        ": the lists differ in length");
        const auto rows = table(lists, copies, interleave);
        const auto copy_type = copies.empty() ? cuda::Type::bfloat16 : cuda_type(kOp, copies[0]);
        return cuda::adam_atan2_(rows.data(), int64_t(rows.size()), options, copy_type, stream);
      });
  lists.finish();
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CompositeExplicitAutograd, m) {
  m.impl("adam_atan2_", TORCH_BOX(&trm_fast::adam_atan2_));
}
