// Stable-max and its cross-entropy on a GPU, in double. The score is s(x) = x + 1 for x >= 0, else 1 / (1 - x). kLanes
// lanes work on a line, so that a puzzle's dozen classes do not leave most of a warp idle. Lower bound of the
// cross-entropy: the forward reads the logits and labels and writes 16 bytes per row; the backward reads the logits and
// writes their gradient.
#include "core/cuda/device.cuh"
#include "ops/stablemax/cuda.h"

namespace trm_fast {
namespace cuda {
namespace {

constexpr int kThreads = 128;

__device__ inline double score(double x) { return x < 0 ? 1 / (1 - x) : x + 1; }

// s'(x) from s = s(x).
__device__ inline double slope(double x, double s) { return x < 0 ? s * s : 1.0; }

template <int kLanes, class T>
__device__ inline double sum_of_scores(const T* x, int64_t size, int64_t stride, int lane) {
  double sum = 0;
  for (int64_t i = lane; i < size; i += kLanes) sum += score(double(load(x[i * stride])));
  return lanes_sum<kLanes>(sum);
}

// The line of this thread. Lanes beyond the last line get an empty one, because all lanes of a warp must call
// lanes_sum.
template <int kLanes>
struct Line {
  int64_t index, size;
  int lane;

  __device__ Line(int64_t lines, int64_t size)
      : index((int64_t(blockIdx.x) * kThreads + threadIdx.x) / kLanes), size(index < lines ? size : 0),
        lane(int(threadIdx.x) % kLanes) {}
  __device__ int64_t start(const Axis& axis) const {
    if constexpr (kLanes > 1) return index * axis.size;  // contiguous, see for_lines
    return index / axis.inner * axis.size * axis.inner + index % axis.inner;
  }
};

template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    fwd_kernel(const T* __restrict__ logits, double* __restrict__ probabilities, Axis axis) {
  const Line<kLanes> line(axis.outer * axis.inner, axis.size);
  const int64_t at = line.start(axis);
  const double total = sum_of_scores<kLanes>(logits + at, line.size, axis.inner, line.lane);
  for (int64_t i = line.lane; i < line.size; i += kLanes) {
    probabilities[at + i * axis.inner] = score(double(load(logits[at + i * axis.inner]))) / total;
  }
}

template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    bwd_kernel(const double* __restrict__ dprobabilities, const T* __restrict__ logits, T* __restrict__ dlogits,
               Axis axis) {
  const Line<kLanes> line(axis.outer * axis.inner, axis.size);
  const int64_t at = line.start(axis), stride = axis.inner;
  const double total = sum_of_scores<kLanes>(logits + at, line.size, stride, line.lane);
  double dot = 0;  // sum of dp * p, from the gradient of the total
  for (int64_t i = line.lane; i < line.size; i += kLanes) {
    dot += dprobabilities[at + i * stride] * (score(double(load(logits[at + i * stride]))) / total);
  }
  dot = lanes_sum<kLanes>(dot);
  for (int64_t i = line.lane; i < line.size; i += kLanes) {
    const double x = load(logits[at + i * stride]);
    store(dlogits + at + i * stride, float((dprobabilities[at + i * stride] - dot) / total * slope(x, score(x))));
  }
}

__device__ inline double not_a_number() { return __longlong_as_double(0x7ff8000000000000LL); }

template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_fwd_kernel(const T* __restrict__ logits, const int64_t* __restrict__ labels,
                             double* __restrict__ loss, double* __restrict__ total, int64_t rows, int64_t classes,
                             int64_t ignore) {
  const Line<kLanes> line(rows, classes);
  const T* x = logits + line.index * classes;
  const double sum = sum_of_scores<kLanes>(x, line.size, 1, line.lane);
  if (line.index >= rows || line.lane != 0) return;
  const int64_t label = labels[line.index];
  const bool ignored = label == ignore, wrong = label < 0 || label >= classes;
  total[line.index] = ignored ? 1 : sum;
  loss[line.index] = ignored ? 0 : wrong ? not_a_number() : log(sum) - log(score(double(load(x[label]))));
}

// d loss / d x_j = s'(x_j) * (1 / total - [j == label] / s(x_label)).
template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_bwd_kernel(const double* __restrict__ dloss, const T* __restrict__ logits,
                             const int64_t* __restrict__ labels, const double* __restrict__ total,
                             T* __restrict__ dlogits, int64_t rows, int64_t classes, int64_t ignore) {
  const Line<kLanes> line(rows, classes);
  if (line.index >= rows) return;
  const int64_t label = labels[line.index], at = line.index * classes;
  const bool ignored = label == ignore, wrong = label < 0 || label >= classes;
  const double d = wrong ? not_a_number() : dloss[line.index], share = d / total[line.index];
  const double at_label = wrong ? d : share - d / score(double(load(logits[at + label])));
  for (int64_t i = line.lane; i < classes; i += kLanes) {
    const double x = load(logits[at + i]);
    const double gradient = (i == label ? at_label : share) * slope(x, score(x));
    store(dlogits + at + i, ignored ? 0.0f : float(gradient));
  }
}

// Calls run(T{}, lanes, blocks) for lines of `size` elements. `lanes` is an integral constant. It is 1 on a strided
// axis, so that a warp reads 32 neighboring lines at once.
template <class Run>
cudaError_t for_lines(Type type, int64_t lines, int64_t size, int64_t stride, const Run& run) {
  if (lines == 0) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    const auto with = [&](auto lanes) { return run(zero, lanes, (lines * lanes() + kThreads - 1) / kThreads); };
    if (stride > 1) return with(std::integral_constant<int, 1>{});
    return size <= 64 ? with(std::integral_constant<int, 8>{}) : with(std::integral_constant<int, 32>{});
  });
}

}  // namespace

cudaError_t stablemax_fwd(Type type, const void* logits, double* probabilities, Axis axis, cudaStream_t stream) {
  return for_lines(type, axis.outer * axis.inner, axis.size, axis.inner, [&](auto zero, auto lanes, int64_t blocks) {
    return launch(fwd_kernel<decltype(zero), lanes()>, blocks, kThreads, 0, stream, logits, probabilities, axis);
  });
}

cudaError_t stablemax_bwd(Type type, const double* dprobabilities, const void* logits, void* dlogits, Axis axis,
                          cudaStream_t stream) {
  return for_lines(type, axis.outer * axis.inner, axis.size, axis.inner, [&](auto zero, auto lanes, int64_t blocks) {
    return launch(bwd_kernel<decltype(zero), lanes()>, blocks, kThreads, 0, stream, dprobabilities, logits, dlogits,
                  axis);
  });
}

cudaError_t stablemax_cross_entropy_fwd(Type type, const void* logits, const int64_t* labels, double* loss,
                                        double* total, int64_t rows, int64_t classes, int64_t ignore,
                                        cudaStream_t stream) {
  return for_lines(type, rows, classes, 1, [&](auto zero, auto lanes, int64_t blocks) {
    return launch(cross_entropy_fwd_kernel<decltype(zero), lanes()>, blocks, kThreads, 0, stream, logits, labels, loss,
                  total, rows, classes, ignore);
  });
}

cudaError_t stablemax_cross_entropy_bwd(Type type, const double* dloss, const void* logits, const int64_t* labels,
                                        const double* total, void* dlogits, int64_t rows, int64_t classes,
                                        int64_t ignore, cudaStream_t stream) {
  return for_lines(type, rows, classes, 1, [&](auto zero, auto lanes, int64_t blocks) {
    return launch(cross_entropy_bwd_kernel<decltype(zero), lanes()>, blocks, kThreads, 0, stream, dloss, logits, labels,
                  total, dlogits, rows, classes, ignore);
  });
}

}  // namespace cuda
}  // namespace trm_fast
