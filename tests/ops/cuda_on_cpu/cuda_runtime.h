// Plays a CUDA device on the CPU, so that kernels can be tested where there is no GPU: the threads of a block are real
// threads that meet at barriers, blocks run one after the other, shared memory is static memory. It shows wrong
// indices, wrong sums and missing barriers; nothing of speed, alignment or the memory model.
#pragma once

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(threads)

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

constexpr int kWarp = 32;

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int round = round_;
    if (++arrived_ == count_) {
      arrived_ = 0;
      ++round_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return round != round_; });
    }
  }

 private:
  const int count_;
  int arrived_ = 0, round_ = 0;
  std::mutex mutex_;
  std::condition_variable all_;
};

struct Warp {
  explicit Warp(int lanes) : barrier(lanes) {}
  Barrier barrier;
  float values[kWarp] = {};
};

inline thread_local Barrier* block_barrier;
inline thread_local Warp* warp;
inline thread_local int lane;

template <class Body>
void launch(dim3 grid, dim3 block, const Body& body) {
  const int threads = int(block.x * block.y * block.z);
  Barrier barrier(threads);
  std::vector<Warp*> warps;
  for (int first = 0; first < threads; first += kWarp) warps.push_back(new Warp(std::min(kWarp, threads - first)));
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      threadIdx = dim3(t % block.x, t / block.x % block.y, t / (block.x * block.y));
      blockDim = block, gridDim = grid;
      block_barrier = &barrier, warp = warps[t / kWarp], lane = t % kWarp;
      for (unsigned b = 0; b < grid.x; ++b) {
        blockIdx = dim3(b);
        body();
        barrier.wait();  // all have left the block before the next one takes its shared memory
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  for (Warp* w : warps) delete w;
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::block_barrier->wait(); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  using namespace cuda_on_cpu;
  warp->values[lane] = value;
  warp->barrier.wait();
  const float other = warp->values[lane ^ mask];
  warp->barrier.wait();
  return other;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
