#include <cmath>

#include "ops/binding.h"

namespace trm_fast {
namespace {

using Tensors = std::vector<Tensor>;

// A tensor to be updated in place: contiguous itself, or worked on as a copy that is written back.
class InPlace {
 public:
  explicit InPlace(const Tensor& tensor) : tensor_(tensor), work_(dense(tensor)) {}
  const Tensor& work() const { return work_; }
  void finish() {
    if (!tensor_.is_contiguous()) torch::stable::copy_(tensor_, work_);
  }

 private:
  Tensor tensor_, work_;
};

template <class T>
struct Stretch {  // one parameter; `first` is its place in the concatenation of all
  int64_t first, count;
  T *p, *m, *v, *ema;
  const T* g;
};

template <class T>
AdamNumbers<T> numbers(const Tensor& lr, const Tensor& step, const std::optional<Tensor>& grad_scale, double beta1,
                       double beta2, double weight_decay, double ema_decay, double eps) {
  const double rate = scalar("adam_atan2_", lr), time = scalar("adam_atan2_", step);
  return {T(1 - beta1),
          T(1 - beta2),
          T(1 - rate * weight_decay),
          T(rate / (1 - std::pow(beta1, time))),
          T(1 / std::sqrt(1 - std::pow(beta2, time))),
          T(1 - ema_decay),
          T(grad_scale ? scalar("adam_atan2_", *grad_scale) : 1.0),
          T(eps)};
}

template <class T>
void run(std::vector<InPlace>& p, const Tensors& g, std::vector<InPlace>& m, std::vector<InPlace>& v,
         std::vector<InPlace>& ema, const AdamNumbers<T>& n, bool adamw) {
  std::vector<Stretch<T>> stretches;
  int64_t total = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const int64_t count = p[i].work().numel();
    if (count == 0) continue;
    stretches.push_back({total, count, write<T>(p[i].work()), write<T>(m[i].work()), write<T>(v[i].work()),
                         ema.empty() ? nullptr : write<T>(ema[i].work()), read<T>(g[i])});
    total += count;
  }
  const auto& kernel = kernels<AdamKernels<T>>();
  const auto update = adamw ? kernel.adamw : kernel.atan2;
  // Shared out by elements, not by parameters: one large matrix must not leave the other threads idle.
  parallel(total, 4, [&](int64_t begin, int64_t end) {
    auto at = std::upper_bound(stretches.begin(), stretches.end(), begin,
                               [](int64_t element, const Stretch<T>& s) { return element < s.first; }) - 1;
    for (; at != stretches.end() && at->first < end; ++at) {
      update(at->p, at->g, at->m, at->v, at->ema, n, std::max(begin - at->first, int64_t(0)),
             std::min(end - at->first, at->count));
    }
  });
}

void adam_atan2_cpu(Tensors params, Tensors grads, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors ema, const Tensor& lr,
                    const Tensor& step, const std::optional<Tensor>& grad_scale, double beta1, double beta2,
                    double weight_decay, double ema_decay, double eps, bool adamw) {
  const size_t count = params.size();
  STD_TORCH_CHECK(grads.size() == count && exp_avgs.size() == count && exp_avg_sqs.size() == count &&
                      (ema.empty() || ema.size() == count),
                  "adam_atan2_: the lists differ in length");
  if (count == 0) return;
  for (size_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(params[i].scalar_type() == params[0].scalar_type(), "adam_atan2_: the params' dtypes differ");
    check_like("adam_atan2_", params[i], grads[i]);
    check_like("adam_atan2_", params[i], exp_avgs[i]);
    check_like("adam_atan2_", params[i], exp_avg_sqs[i]);
    if (!ema.empty()) check_like("adam_atan2_", params[i], ema[i]);
    grads[i] = dense(grads[i]);
  }
  std::vector<InPlace> p(params.begin(), params.end()), m(exp_avgs.begin(), exp_avgs.end()),
      v(exp_avg_sqs.begin(), exp_avg_sqs.end()), e(ema.begin(), ema.end());
  const auto with = [&](auto type) {
    using T = typename decltype(type)::type;
    run<T>(p, grads, m, v, e,
           numbers<T>(lr, step, grad_scale, beta1, beta2, weight_decay, ema_decay, eps), adamw);
  };
  const ScalarType dtype = params[0].scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "adam_atan2_: only float32 and float64 have a C++ kernel");
  if (dtype == ScalarType::Float) {
    with(Type<float>{});
  } else {
    with(Type<double>{});
  }
  for (auto* list : {&p, &m, &v, &e}) {
    for (InPlace& tensor : *list) tensor.finish();
  }
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def(
      "adam_atan2_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] ema, Tensor lr, Tensor step, Tensor? grad_scale, float beta1, float beta2, float weight_decay, "
      "float ema_decay, float eps, bool adamw) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) { m.impl("adam_atan2_", TORCH_BOX(&trm_fast::adam_atan2_cpu)); }
