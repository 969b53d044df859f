// The fused network on packed weights: three kernels a block. Only a GPU has them; on a CPU a recursion is one call.
#include "ops/binding.h"

namespace trm_fast {
namespace {

#ifdef TRM_FAST_CUDA
void check_matrix(const Tensor& matrix, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(matrix.dim() == 2 && matrix.size(0) == rows && matrix.size(1) == columns && matrix.is_contiguous() &&
                      matrix.is_cuda() && matrix.scalar_type() == ScalarType::BFloat16 &&
                      reinterpret_cast<uintptr_t>(matrix.const_data_ptr()) % 16 == 0,
                  "latent_step: a packed weight must be a contiguous bfloat16 matrix of ", rows, " x ", columns,
                  ", 16 bytes aligned");
}

// A contiguous tensor that 16-byte loads may read.
Tensor dense_state(const Tensor& tensor) {
  const Tensor made = dense(tensor);
  return reinterpret_cast<uintptr_t>(made.const_data_ptr()) % 16 == 0 ? made : torch::stable::clone(made);
}

Tensor latent_step_cuda(const Tensor& z, const std::optional<Tensor>& injection, std::vector<Tensor> packed,
                        double eps) {
  const CudaLaunch launch("latent_step", z);
  STD_TORCH_CHECK(z.dim() == 3 && z.scalar_type() == ScalarType::BFloat16,
                  "latent_step: z must be bfloat16 and (batch, tokens, channels)");
  STD_TORCH_CHECK(!packed.empty() && packed.size() % 4 == 0, "latent_step: expected four packed weights a block");
  const int64_t batch = z.size(0), tokens = z.size(1), channels = z.size(2), rows = batch * tokens;
  const int64_t padded = cuda::padded_tokens(tokens);
  STD_TORCH_CHECK(padded > 0, "latent_step: no kernel for ", tokens, " tokens");
  STD_TORCH_CHECK(channels % 128 == 0 && channels <= 512, "latent_step: no kernel for ", channels, " channels");
  std::optional<Tensor> added;
  if (injection) {
    check_like("latent_step", z, *injection);
    added = dense_state(*injection);
  }
  Tensor h = dense_state(z);
  for (size_t i = 0; i < packed.size(); i += 4) {
    const Tensor &mixer_out = packed[i + 1], &mlp_out = packed[i + 3];
    STD_TORCH_CHECK(mixer_out.dim() == 2 && mlp_out.dim() == 2, "latent_step: packed weights must be matrices");
    const int64_t mixer = mixer_out.size(1), inner = mlp_out.size(1);
    STD_TORCH_CHECK(mixer % 32 == 0 && inner % 64 == 0, "latent_step: packed weights must be padded to 32 and 64 units");
    check_matrix(packed[i], 2 * mixer, padded);
    check_matrix(mixer_out, padded, mixer);
    check_matrix(packed[i + 2], 2 * inner, channels);
    check_matrix(mlp_out, channels, inner);
    const Tensor mixed = torch::stable::new_empty(z, z.sizes());
    const Tensor active = torch::stable::new_empty(z, std::vector<int64_t>{rows, inner});
    const Tensor y = torch::stable::new_empty(z, z.sizes());
    const void* more = i == 0 && added ? added->const_data_ptr() : nullptr;
    launch.check(cuda::token_mixer(h.const_data_ptr(), more, packed[i].const_data_ptr(), mixer_out.const_data_ptr(),
                                   mixed.mutable_data_ptr(), batch, tokens, channels, mixer, float(eps),
                                   launch.stream()));
    launch.check(cuda::mlp_in(mixed.const_data_ptr(), packed[i + 2].const_data_ptr(), active.mutable_data_ptr(), rows,
                              channels, inner, launch.stream()));
    launch.check(cuda::mlp_out(active.const_data_ptr(), mlp_out.const_data_ptr(), mixed.const_data_ptr(),
                               y.mutable_data_ptr(), rows, channels, inner, float(eps), launch.stream()));
    h = y;
  }
  return h;
}
#endif

}  // namespace
}  // namespace trm_fast

STABLE_TORCH_LIBRARY_FRAGMENT(trm_fast, m) {
  m.def("latent_step_packed(Tensor z, Tensor? injection, Tensor[] packed, float eps) -> Tensor");
}
#ifdef TRM_FAST_CUDA
STABLE_TORCH_LIBRARY_IMPL(trm_fast, CUDA, m) {
  m.impl("latent_step_packed", TORCH_BOX(&trm_fast::latent_step_cuda));
}
#endif
