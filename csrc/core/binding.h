// What all bindings share: checks, dtypes, axes, threads and devices. Only LibTorch's stable ABI is used, so one binary
// serves torch 2.11 and later. A failed check throws torch's error.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "core/cuda/launch.h"
#include "core/isa.h"
#include "core/scalar.h"

#ifdef TRM_FAST_CUDA
#include <torch/csrc/stable/accelerator.h>

// Weak, because a torch without CUDA lacks the symbol and never calls it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace trm_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The minimum number of elements per thread. With fewer, waking a thread costs more than it saves.
constexpr int64_t kGrain = 32768;

template <class T>
struct Type {
  using type = T;
};

// Calls body(Type<T>{}) with the tensor's storage type.
template <bool kBFloat16 = true, class Body>
void with_type(const char* op, const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return body(Type<float>{});
    case ScalarType::Double: return body(Type<double>{});
    case ScalarType::BFloat16:
      if constexpr (kBFloat16) return body(Type<BFloat16>{});
      [[fallthrough]];
    default:
      STD_TORCH_CHECK(false, op, ": only float32", kBFloat16 ? ", float64 and bfloat16" : " and float64",
                      " have a C++ kernel");
  }
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// A tensor to update in place. If it is not contiguous, the kernel works on a copy, and finish() writes the copy back.
class InPlace {
 public:
  explicit InPlace(const Tensor& tensor)
      : tensor_(tensor), work_(tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor)) {}
  const Tensor& work() const { return work_; }
  void finish() {
    if (!tensor_.is_contiguous()) torch::stable::copy_(tensor_, work_);
  }

 private:
  Tensor tensor_, work_;
};

// The tensor itself if it is contiguous, otherwise a contiguous copy.
inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// The tensor viewed as [outer, size, inner], where `size` is that of axis `dim`. `dim` may be negative.
inline Axis resolve_axis(const char* op, const Tensor& tensor, int64_t dim) {
  const int64_t rank = tensor.dim();
  STD_TORCH_CHECK(-rank <= dim && dim < rank, op, ": no axis ", dim, " in a tensor of ", rank, " dimensions");
  if (dim < 0) dim += rank;
  Axis axis{1, tensor.size(dim), 1};
  for (int64_t i = 0; i < rank; ++i) (i < dim ? axis.outer : axis.inner) *= i == dim ? 1 : tensor.size(i);
  return axis;
}

// The tensor's sizes, with that of axis `dim` replaced by `size`. `dim` may be negative.
inline std::vector<int64_t> sizes_with(const Tensor& tensor, int64_t dim, int64_t size) {
  std::vector<int64_t> sizes(tensor.sizes().begin(), tensor.sizes().end());
  sizes[dim < 0 ? dim + tensor.dim() : dim] = size;
  return sizes;
}

inline ScalarType accumulate_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_like(const char* op, const Tensor& a, const Tensor& b) {
  const auto x = a.sizes(), y = b.sizes();
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), op, ": the tensors' dtypes differ");
  STD_TORCH_CHECK(std::equal(x.begin(), x.end(), y.begin(), y.end()), op, ": the tensors' shapes differ");
}

// Divides `units`, of `cost` elements each, among torch's threads, which call kernel(arguments..., begin, end).
template <class Kernel, class... Arguments>
void parallel(int64_t units, int64_t cost, const Kernel& kernel, const Arguments&... arguments) {
  if (units == 0 || cost == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrain / cost);
  if (units <= grain) return kernel(arguments..., int64_t(0), units);  // saves a call into torch
  torch::stable::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) { kernel(arguments..., begin, end); });
}

inline cuda::Type cuda_type(const char* op, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return cuda::Type::float32;
    case ScalarType::BFloat16: return cuda::Type::bfloat16;
    case ScalarType::Half: return cuda::Type::float16;
    default: STD_TORCH_CHECK(false, op, ": only float32, bfloat16 and float16 have a CUDA kernel");
  }
}

// A 0-dim tensor on the device of `like` as a Scalar. The kernel reads the value, so the host does not synchronize.
inline Scalar as_scalar(const char* op, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.numel() == 1 && tensor.device() == like.device(), op,
                  ": scalars must be 0-dim tensors on the same device");
  const void* data = tensor.const_data_ptr();
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return {data, Scalar::Kind::float32};
    case ScalarType::Double: return {data, Scalar::Kind::float64};
    case ScalarType::Int: return {data, Scalar::Kind::int32};
    case ScalarType::Long: return {data, Scalar::Kind::int64};
    default: STD_TORCH_CHECK(false, op, ": scalars must be float32, float64, int32 or int64");
  }
}

#ifdef TRM_FAST_CUDA
// Makes a tensor's device current as long as this object lives, and holds the device's current stream.
class CudaLaunch {
 public:
  CudaLaunch(const char* op, const Tensor& tensor) : op_(op), guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }
  void check(cudaError_t error) const { STD_TORCH_CHECK(error == cudaSuccess, op_, ": ", cudaGetErrorString(error)); }

 private:
  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};
#endif

// Runs an op on the tensor's device. Calls cpu(Type<T>{}) with its storage type, or cuda(type, stream), which launches
// a kernel and returns its error.
template <bool kBFloat16 = true, class Cpu, class Cuda>
void on_device(const char* op, const Tensor& tensor, const Cpu& cpu, const Cuda& cuda) {
#ifdef TRM_FAST_CUDA
  if (tensor.is_cuda()) {
    const CudaLaunch launch(op, tensor);
    return launch.check(cuda(cuda_type(op, tensor), launch.stream()));
  }
#endif
  (void)cuda;
  STD_TORCH_CHECK(tensor.is_cpu(), op, ": no kernel was built for this device");
  with_type<kBFloat16>(op, tensor, cpu);
}

}  // namespace trm_fast
