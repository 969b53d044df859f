#include <cmath>
#include <cstring>

#include "core/binding.h"
#include "ops/adam_atan2_/kernels.h"

#ifdef TRM_FAST_CUDA
#include "ops/adam_atan2_/cuda.h"
#endif

namespace trm_fast {
namespace {

using Tensors = std::vector<Tensor>;

// All that belongs to the parameters, checked against each other. `ema` may be empty, and so may `copies`, or single
// ones of them (no elements).
struct Lists {
  Tensors g, copies;
  std::vector<InPlace> p, m, v, ema;
  std::vector<int64_t> interleave;

  Lists(const Tensors& params, const Tensors& grads, const Tensors& exp_avgs, const Tensors& exp_avg_sqs,
        const Tensors& averages, Tensors low, std::vector<int64_t> groups)
      : copies(std::move(low)),
        p(params.begin(), params.end()),
        m(exp_avgs.begin(), exp_avgs.end()),
        v(exp_avg_sqs.begin(), exp_avg_sqs.end()),
        ema(averages.begin(), averages.end()),
        interleave(std::move(groups)) {
    const size_t count = params.size();
    STD_TORCH_CHECK(grads.size() == count && m.size() == count && v.size() == count &&
                        (ema.empty() || ema.size() == count) && (copies.empty() || copies.size() == count) &&
                        interleave.size() == copies.size(),
                    "adam_atan2_: the lists differ in length");
    for (size_t i = 0; i < count; ++i) {
      STD_TORCH_CHECK(params[i].scalar_type() == params[0].scalar_type(), "adam_atan2_: the params' dtypes differ");
      check_like("adam_atan2_", params[i], grads[i]);
      check_like("adam_atan2_", params[i], exp_avgs[i]);
      check_like("adam_atan2_", params[i], exp_avg_sqs[i]);
      if (!averages.empty()) check_like("adam_atan2_", params[i], averages[i]);
      if (has_copy(i)) check_copy(i);
      g.push_back(dense(grads[i]));
    }
  }

  bool has_copy(size_t i) const { return !copies.empty() && copies[i].numel() > 0; }
  int64_t columns(size_t i) const { return p[i].work().size(p[i].work().dim() - 1); }
  int64_t rows(size_t i) const { return p[i].work().numel() / columns(i); }

  void finish() {
    for (auto* list : {&p, &m, &v, &ema}) {
      for (InPlace& tensor : *list) tensor.finish();
    }
  }

 private:
  void check_copy(size_t i) const {
    const Tensor& copy = copies[i];
    const int64_t group = interleave[i];
    STD_TORCH_CHECK(copy.dim() == 2 && copy.stride(1) == 1 && copy.scalar_type() == copies[first_copy()].scalar_type(),
                    "adam_atan2_: copy ", int64_t(i), " must be a matrix with neighbouring columns, of the others' dtype");
    STD_TORCH_CHECK(p[i].work().dim() > 0 && columns(i) > 0 && group >= 0 && (group == 0 || rows(i) % 2 == 0),
                    "adam_atan2_: parameter ", int64_t(i), " cannot be copied that way");
    const int64_t needed = group == 0 ? rows(i) : (rows(i) / 2 + group - 1) / group * 2 * group;
    STD_TORCH_CHECK(copy.size(0) >= needed && copy.size(1) >= columns(i), "adam_atan2_: copy ", int64_t(i),
                    " is too small");
  }

  size_t first_copy() const {
    size_t i = 0;
    while (!has_copy(i)) ++i;
    return i;
  }
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
void run(const Lists& lists, const AdamNumbers<T>& n, bool adamw) {
  std::vector<Stretch<T>> stretches;
  int64_t total = 0;
  for (size_t i = 0; i < lists.p.size(); ++i) {
    const int64_t count = lists.p[i].work().numel();
    if (count == 0) continue;
    stretches.push_back({total, count, write<T>(lists.p[i].work()), write<T>(lists.m[i].work()),
                         write<T>(lists.v[i].work()), lists.ema.empty() ? nullptr : write<T>(lists.ema[i].work()),
                         read<T>(lists.g[i])});
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

uint16_t bfloat16_bits(double value) {
  const float single = float(value);
  uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  if (single != single) return 0x7fc0;
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// On a CPU the copies serve tests and export: plain loops do.
template <class T>
void write_copies(const Lists& lists) {
  for (size_t i = 0; i < lists.p.size(); ++i) {
    if (!lists.has_copy(i) || lists.p[i].work().numel() == 0) continue;
    STD_TORCH_CHECK(lists.copies[i].scalar_type() == ScalarType::BFloat16,
                    "adam_atan2_: on a CPU only bfloat16 copies have a C++ kernel");
    const int64_t columns = lists.columns(i), half = lists.rows(i) / 2, group = lists.interleave[i];
    const T* from = read<T>(lists.p[i].work());
    uint16_t* to = write<uint16_t>(lists.copies[i]);
    for (int64_t row = 0; row < lists.rows(i); ++row) {
      const int64_t up = row >= half, at = up ? row - half : row;
      const int64_t there = group == 0 ? row : at / group * 2 * group + up * group + at % group;
      for (int64_t c = 0; c < columns; ++c) {
        to[there * lists.copies[i].stride(0) + c] = bfloat16_bits(from[row * columns + c]);
      }
    }
  }
}

void adam_atan2_cpu(Tensors params, Tensors grads, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors ema, Tensors copies,
                    std::vector<int64_t> interleave, const Tensor& lr, const Tensor& step,
                    const std::optional<Tensor>& grad_scale, double beta1, double beta2, double weight_decay,
                    double ema_decay, double eps, bool adamw) {
  Lists lists(params, grads, exp_avgs, exp_avg_sqs, ema, std::move(copies), std::move(interleave));
  if (params.empty()) return;
  const auto with = [&](auto type) {
    using T = typename decltype(type)::type;
    run<T>(lists, numbers<T>(lr, step, grad_scale, beta1, beta2, weight_decay, ema_decay, eps), adamw);
    write_copies<T>(lists);
  };
  const ScalarType dtype = params[0].scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "adam_atan2_: only float32 and float64 have a C++ kernel");
  if (dtype == ScalarType::Float) {
    with(Type<float>{});
  } else {
    with(Type<double>{});
  }
  lists.finish();
}

#ifdef TRM_FAST_CUDA
void adam_atan2_cuda(Tensors params, Tensors grads, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors ema, Tensors copies,
                     std::vector<int64_t> interleave, const Tensor& lr, const Tensor& step,
                     const std::optional<Tensor>& grad_scale, double beta1, double beta2, double weight_decay,
                     double ema_decay, double eps, bool adamw) {
  if (params.empty()) return;
  const CudaLaunch launch("adam_atan2_", params[0]);
  Lists lists(params, grads, exp_avgs, exp_avg_sqs, ema, std::move(copies), std::move(interleave));
  STD_TORCH_CHECK(params[0].scalar_type() == ScalarType::Float, "adam_atan2_: only float32 has a CUDA kernel");
  std::vector<cuda::AdamTensor> table;
  cuda::Type copy_type = cuda::Type::bfloat16;
  for (size_t i = 0; i < params.size(); ++i) {
    if (params[i].numel() == 0) continue;
    cuda::AdamTensor t{write<float>(lists.p[i].work()), read<float>(lists.g[i]),
                       write<float>(lists.m[i].work()), write<float>(lists.v[i].work()),
                       lists.ema.empty() ? nullptr : write<float>(lists.ema[i].work())};
    t.count = params[i].numel();
    if (lists.has_copy(i)) {
      copy_type = cuda_type("adam_atan2_", lists.copies[i]);
      t.copy = lists.copies[i].mutable_data_ptr();
      t.columns = lists.columns(i);
      t.stride = lists.copies[i].stride(0);
      t.half = lists.rows(i) / 2;
      t.group = int32_t(lists.interleave[i]);
    }
    table.push_back(t);
  }
  const cuda::Scalar scale = grad_scale ? cuda_scalar("adam_atan2_", *grad_scale) : cuda::Scalar{};
  launch.check(cuda::adam_atan2_(table.data(), int64_t(table.size()),
                                 {cuda_scalar("adam_atan2_", lr), cuda_scalar("adam_atan2_", step), scale, beta1, beta2,
                                  weight_decay, ema_decay, eps, adamw, copy_type},
                                 launch.stream()));
  lists.finish();
}
#endif

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def(
      "adam_atan2_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] ema, Tensor(e!)[] copies, int[] interleave, Tensor lr, Tensor step, Tensor? grad_scale, "
      "float beta1, float beta2, float weight_decay, float ema_decay, float eps, bool adamw) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CPU, m) { m.impl("adam_atan2_", TORCH_BOX(&trm_fast::adam_atan2_cpu)); }
#ifdef TRM_FAST_CUDA
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CUDA, m) { m.impl("adam_atan2_", TORCH_BOX(&trm_fast::adam_atan2_cuda)); }
#endif
