// What the bindings share: checks, types, axes, threads. LibTorch's stable ABI only: one binary serves torch 2.11 on.
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

#include "core/isa.h"

#ifdef TRM_FAST_CUDA
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "core/cuda/launch.h"

// Weak: under a torch without CUDA the symbol is missing, and nothing calls it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace trm_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Below this many elements for each thread, waking a thread costs more than it brings.
constexpr int64_t kGrain = 32768;

template <class T>
struct Type {
  using type = T;
};

// Calls body(Type<T>{}) with the storage type of the tensor.
template <class Body>
void with_type(const char* op, const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return body(Type<float>{});
    case ScalarType::Double: return body(Type<double>{});
    case ScalarType::BFloat16: return body(Type<BFloat16>{});
    default: STD_TORCH_CHECK(false, op, ": only float32, float64 and bfloat16 have a C++ kernel");
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

// A tensor to be updated in place: contiguous itself, or worked on as a copy that is written back.
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

// The tensor itself where it is contiguous (no call into torch), else a copy.
inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Axis axis_of(const char* op, const Tensor& tensor, int64_t dim) {
  const int64_t rank = tensor.dim();
  STD_TORCH_CHECK(-rank <= dim && dim < rank, op, ": no axis ", dim, " in a tensor of ", rank, " dimensions");
  if (dim < 0) dim += rank;
  Axis axis{1, tensor.size(dim), 1};
  for (int64_t i = 0; i < rank; ++i) (i < dim ? axis.outer : axis.inner) *= i == dim ? 1 : tensor.size(i);
  return axis;
}

// The tensor's sizes with another one at `dim`.
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

// The number in a 0-dim CPU tensor.
inline double scalar(const char* op, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.numel() == 1 && tensor.is_cpu(), op, ": scalars must be 0-dim CPU tensors");
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return *read<float>(tensor);
    case ScalarType::Double: return *read<double>(tensor);
    case ScalarType::Int: return *read<int32_t>(tensor);
    case ScalarType::Long: return double(*read<int64_t>(tensor));
    default: STD_TORCH_CHECK(false, op, ": scalars must be float32, float64, int32 or int64");
  }
}

// Shares `units` of `cost` elements each out among torch's threads.
template <class Body>
void parallel(int64_t units, int64_t cost, const Body& body) {
  if (units == 0 || cost == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrain / cost);
  if (units <= grain) return body(0, units);  // spares the call into torch
  torch::stable::parallel_for(0, units, grain, body);
}

#ifdef TRM_FAST_CUDA
inline cuda::Type cuda_type(const char* op, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return cuda::Type::float32;
    case ScalarType::BFloat16: return cuda::Type::bfloat16;
    case ScalarType::Half: return cuda::Type::float16;
    default: STD_TORCH_CHECK(false, op, ": only float32, bfloat16 and float16 have a CUDA kernel");
  }
}

// A 0-dim tensor that the kernel reads: the host does not wait for it.
inline cuda::Scalar cuda_scalar(const char* op, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.numel() == 1 && tensor.is_cuda(), op, ": scalars must be 0-dim tensors on the GPU");
  const void* data = tensor.const_data_ptr();
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return {data, cuda::Scalar::Kind::float32};
    case ScalarType::Double: return {data, cuda::Scalar::Kind::float64};
    case ScalarType::Int: return {data, cuda::Scalar::Kind::int32};
    case ScalarType::Long: return {data, cuda::Scalar::Kind::int64};
    default: STD_TORCH_CHECK(false, op, ": scalars must be float32, float64, int32 or int64");
  }
}

// Makes a tensor's device current and holds its stream.
class CudaLaunch {
 public:
  CudaLaunch(const char* op, const Tensor& tensor) : op_(op), guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }
  void check(cudaError_t error) const {
    STD_TORCH_CHECK(error == cudaSuccess, op_, ": ", cudaGetErrorString(error));
  }

 private:
  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};
#endif

}  // namespace trm_fast
