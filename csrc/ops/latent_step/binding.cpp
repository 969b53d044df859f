// The bindings of the fused step, forward and backward, on packed weights (trm_fast/ops/packing.py). Only GPUs have the
// fused step; on a CPU, latent_recursion runs a whole recursion in one call.
#include "core/binding.h"

#ifdef TRM_FAST_CUDA
#include "ops/mlp/cuda.h"
#include "ops/token_mixer/cuda.h"

namespace trm_fast {
namespace {

bool wide_loads(const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0; }

void check_matrix(const Tensor& like, const Tensor& matrix, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(matrix.dim() == 2 && matrix.size(0) == rows && matrix.size(1) == columns && matrix.is_contiguous() &&
                      matrix.is_cuda() && matrix.scalar_type() == like.scalar_type() && wide_loads(matrix),
                  "latent_step: a packed weight must be a contiguous matrix of ", rows, " x ", columns,
                  " in the states' dtype, aligned to 16 bytes");
}

// The tensor if it is contiguous and aligned to 16 bytes, otherwise a copy that is.
Tensor dense_state(const Tensor& tensor) {
  const Tensor contiguous = dense(tensor);
  return wide_loads(contiguous) ? contiguous : torch::stable::clone(contiguous);
}

// The dtype and sizes of a state (batch, tokens, channels), checked.
struct State {
  explicit State(const Tensor& z) : type(cuda_type("latent_step", z)) {
    STD_TORCH_CHECK(z.dim() == 3 && type != cuda::Type::float32,
                    "latent_step: states must be bfloat16 or float16, and (batch, tokens, channels)");
    batch = z.size(0), tokens = z.size(1), channels = z.size(2), rows = batch * tokens;
    padded = cuda::padded_tokens(tokens);
    STD_TORCH_CHECK(padded > 0, "latent_step: no kernel for ", tokens, " tokens");
    STD_TORCH_CHECK(channels % 128 == 0 && channels <= 512, "latent_step: no kernel for ", channels, " channels");
  }

  // Checks the packed weights of a layer, and returns their inner width.
  static int64_t inner(const Tensor& z, const Tensor& w_in, const Tensor& w_out, int64_t width) {
    STD_TORCH_CHECK(w_out.dim() == 2, "latent_step: packed weights must be matrices");
    const int64_t inner = w_out.size(1);
    STD_TORCH_CHECK(inner % 64 == 0, "latent_step: packed weights must be padded to a multiple of 64 inner units, not ",
                    inner);
    check_matrix(z, w_in, 2 * inner, width);
    check_matrix(z, w_out, width, inner);
    return inner;
  }

  cuda::Type type;
  int64_t batch, tokens, channels, rows, padded;
};

const void* data(const std::optional<Tensor>& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

std::tuple<Tensor, std::vector<Tensor>> fwd_cuda(const Tensor& z, const std::optional<Tensor>& injection,
                                                 std::vector<Tensor> packed, double eps, bool keep) {
  const CudaLaunch launch("latent_step", z);
  const State s(z);
  STD_TORCH_CHECK(!packed.empty() && packed.size() % 4 == 0, "latent_step: expected four packed weights per block");
  std::optional<Tensor> added;
  if (injection) {
    check_like("latent_step", z, *injection);
    added = dense_state(*injection);
  }
  const auto norms = [&](std::vector<int64_t> sizes) {
    return torch::stable::new_empty(z, std::move(sizes), ScalarType::Float);
  };
  std::vector<Tensor> saved;
  Tensor h = dense_state(z);
  for (size_t i = 0; i < packed.size(); i += 4) {
    const int64_t mixer = State::inner(z, packed[i], packed[i + 1], s.padded);
    const int64_t inner = State::inner(z, packed[i + 2], packed[i + 3], s.channels);
    const Tensor mixed = torch::stable::new_empty(z, z.sizes()), y = torch::stable::new_empty(z, z.sizes());
    const Tensor active = torch::stable::new_empty(z, std::vector<int64_t>{s.rows, inner});
    std::optional<Tensor> over_tokens, over_channels;
    if (keep) {
      over_tokens = norms({s.batch, 1, s.channels}), over_channels = norms({s.batch, s.tokens, 1});
      if (i) saved.push_back(h);
      saved.insert(saved.end(), {mixed, *over_tokens, *over_channels});
    }
    launch.check(cuda::token_mixer(s.type, h.const_data_ptr(), i ? nullptr : data(added), packed[i].const_data_ptr(),
                                   packed[i + 1].const_data_ptr(), mixed.mutable_data_ptr(),
                                   keep ? write<float>(*over_tokens) : nullptr, s.batch, s.tokens, s.channels, mixer,
                                   float(eps), launch.stream()));
    launch.check(cuda::mlp_in(s.type, mixed.const_data_ptr(), packed[i + 2].const_data_ptr(), active.mutable_data_ptr(),
                              s.rows, s.channels, inner, launch.stream()));
    launch.check(cuda::mlp_out(s.type, active.const_data_ptr(), packed[i + 3].const_data_ptr(), mixed.const_data_ptr(),
                               y.mutable_data_ptr(), keep ? write<float>(*over_channels) : nullptr, s.rows, s.channels,
                               inner, float(eps), launch.stream()));
    h = y;
  }
  return {h, saved};
}

std::tuple<Tensor, Tensor> mixer_bwd_cuda(const Tensor& dy, const Tensor& h, const std::optional<Tensor>& injection,
                                          const Tensor& y, const Tensor& rstd, const Tensor& w_in,
                                          const Tensor& w_out) {
  const CudaLaunch launch("latent_step", h);
  const State s(h);
  const int64_t inner = State::inner(h, w_in, w_out, s.padded);
  check_like("latent_step", h, dy);
  check_like("latent_step", h, y);
  if (injection) check_like("latent_step", h, *injection);
  STD_TORCH_CHECK(
      rstd.numel() == s.batch * s.channels && rstd.scalar_type() == ScalarType::Float && rstd.is_contiguous(),
      "latent_step: rstd must be contiguous float32, one value per channel of an example");
  const Tensor gradient = dense_state(dy), state = dense_state(h), result = dense_state(y);
  std::optional<Tensor> added;
  if (injection) added = dense_state(*injection);
  const Tensor dh = torch::stable::new_empty(h, h.sizes()), d = torch::stable::new_empty(h, h.sizes());
  const Tensor x = injection ? torch::stable::new_empty(h, h.sizes()) : state;
  launch.check(cuda::token_mixer_bwd(
      s.type, gradient.const_data_ptr(), state.const_data_ptr(), data(added), result.const_data_ptr(),
      read<float>(rstd), w_in.const_data_ptr(), w_out.const_data_ptr(), dh.mutable_data_ptr(), d.mutable_data_ptr(),
      injection ? x.mutable_data_ptr() : nullptr, s.batch, s.tokens, s.channels, inner, launch.stream()));
  const int64_t slabs = cuda::token_mixer_slabs(s.batch, s.channels, inner);
  const Tensor sums = torch::stable::new_empty(h, std::vector<int64_t>{slabs, 3, inner, s.padded}, ScalarType::Float);
  launch.check(cuda::token_mixer_bwd_weights(s.type, d.const_data_ptr(), x.const_data_ptr(), w_in.const_data_ptr(),
                                             w_out.const_data_ptr(), write<float>(sums), slabs, s.batch, s.tokens,
                                             s.channels, inner, launch.stream()));
  return {dh, sums};
}

std::tuple<Tensor, Tensor> mlp_bwd_cuda(const Tensor& d, const Tensor& h, const Tensor& w_in, const Tensor& w_out) {
  const CudaLaunch launch("latent_step", h);
  const State s(h);
  const int64_t inner = State::inner(h, w_in, w_out, s.channels);
  check_like("latent_step", h, d);
  const Tensor gradient = dense_state(d), state = dense_state(h);
  const Tensor active = torch::stable::new_empty(h, std::vector<int64_t>{s.rows, inner});
  const Tensor dgate_up = torch::stable::new_empty(h, std::vector<int64_t>{s.rows, 2 * inner});
  launch.check(cuda::mlp_in_bwd(s.type, gradient.const_data_ptr(), state.const_data_ptr(), w_in.const_data_ptr(),
                                w_out.const_data_ptr(), active.mutable_data_ptr(), dgate_up.mutable_data_ptr(), s.rows,
                                s.channels, inner, launch.stream()));
  return {active, dgate_up};
}

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_IMPL(trm_fast, CUDA, m) {
  m.impl("latent_step_packed_fwd", TORCH_BOX(&trm_fast::fwd_cuda));
  m.impl("token_mixer_packed_bwd", TORCH_BOX(&trm_fast::mixer_bwd_cuda));
  m.impl("mlp_packed_bwd", TORCH_BOX(&trm_fast::mlp_bwd_cuda));
}
#endif
