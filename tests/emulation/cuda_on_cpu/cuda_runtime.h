// Emulates a CUDA device on the CPU, to test kernels without a GPU. Blocks run one after the other. The threads of a
// block share one real thread, and switch at barriers and where lanes exchange values. This shows wrong indices, wrong
// sums, missing barriers and waits (with the warps in both orders), and under AddressSanitizer accesses out of bounds
// on the heap and in shared memory. It does not show speed or errors of the memory model.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

constexpr int kWarp = 32;
constexpr size_t kStack = 64 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done = false;
};

// Threads that wait for each other. Lanes leave values for the others in `values`.
struct Meeting {
  int members = 0, arrived = 0, round = 0;
  int any = 0, collected = 0;  // the flags of __syncthreads_or: of the current call, of the last one
  alignas(16) unsigned char values[kWarp][64];
};

struct Device {
  std::vector<std::unique_ptr<Fiber>> fibers;
  ucontext_t scheduler;
  Meeting block;
  std::vector<Meeting> warps;
  std::function<void()> body;
  int current = 0;
  long progress = 0;
  bool backwards = std::getenv("CUDA_ON_CPU_BACKWARDS") != nullptr;
  unsigned char* shared = nullptr;
};
inline Device device;

inline void hand_over() { swapcontext(&device.fibers[device.current]->context, &device.scheduler); }

inline void meet(Meeting& meeting) {
  const int round = meeting.round;
  if (++meeting.arrived == meeting.members) {
    meeting.arrived = 0;
    meeting.collected = meeting.any, meeting.any = 0;
    ++meeting.round, ++device.progress;
  } else {
    while (round == meeting.round) hand_over();
  }
}

inline void run_fiber() {
  device.body();
  device.fibers[device.current]->done = true, ++device.progress;
}

// Runs one warp until all its threads wait or end; returns how many have not ended.
inline int run_warp(int warp, int threads) {
  for (;;) {
    const long before = device.progress;
    int left = 0;
    for (int t = warp * kWarp; t < std::min(threads, (warp + 1) * kWarp); ++t) {
      Fiber& fiber = *device.fibers[t];
      if (fiber.done) continue;
      device.current = t;
      threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y));
      swapcontext(&device.scheduler, &fiber.context);
      left += !fiber.done;
    }
    if (before == device.progress || left == 0) return left;
  }
}

inline void run_block(int threads) {
  device.block = Meeting();
  device.block.members = threads;
  device.warps.assign((threads + kWarp - 1) / kWarp, Meeting());
  for (int t = 0; t < threads; ++t) ++device.warps[t / kWarp].members;
  while (int(device.fibers.size()) < threads) device.fibers.push_back(std::make_unique<Fiber>());
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = *device.fibers[t];
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get(), fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &device.scheduler;
    makecontext(&fiber.context, run_fiber, 0);
  }
  // A warp runs until it must wait for the others, so it overtakes them wherever a barrier is missing.
  const int warps = int(device.warps.size());
  for (int left = threads; left > 0;) {
    const long before = device.progress;
    left = 0;
    for (int turn = 0; turn < warps; ++turn) left += run_warp(device.backwards ? warps - 1 - turn : turn, threads);
    if (before == device.progress) {
      std::fprintf(stderr, "cuda_on_cpu: a barrier that not all threads reach\n");
      std::abort();
    }
  }
}

inline cudaError_t launch(unsigned blocks, dim3 block, size_t shared, std::function<void()> body) {
  if (shared > 99 * 1024) return cudaErrorInvalidValue;  // the limit of a block on every GPU since sm_80
  device.body = std::move(body);
  blockDim = block, gridDim = dim3(blocks);
  for (unsigned b = 0; b < blocks; ++b) {
    blockIdx = dim3(b);
    std::unique_ptr<unsigned char, void (*)(void*)> memory(
        static_cast<unsigned char*>(std::aligned_alloc(128, (shared + 127) / 128 * 128)), std::free);
    std::memset(memory.get(), 0xff, shared);  // NaN
    device.shared = memory.get();
    run_block(int(block.x * block.y * block.z));
  }
  return cudaSuccess;
}

inline Meeting& warp() { return device.warps[device.current / kWarp]; }
inline int lane() { return device.current % kWarp; }

// Every lane leaves a value, then all lanes read, before any leaves the next value.
template <class Value, class Read>
auto exchange(const Value& value, const Read& read) {
  static_assert(sizeof(Value) <= sizeof(Meeting::values[0]), "room for a lane's value");
  std::memcpy(warp().values[lane()], &value, sizeof(value));
  meet(warp());
  const auto result = read([](int from) {
    Value other;
    std::memcpy(&other, warp().values[from], sizeof(other));
    return other;
  });
  meet(warp());
  return result;
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::meet(cuda_on_cpu::device.block); }
inline int __syncthreads_or(int value) {
  cuda_on_cpu::device.block.any |= value;
  __syncthreads();
  return cuda_on_cpu::device.block.collected;
}
inline void __syncwarp() { cuda_on_cpu::meet(cuda_on_cpu::warp()); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_on_cpu::exchange(value, [&](auto of) { return of(cuda_on_cpu::lane() ^ mask); });
}
inline unsigned __ballot_sync(unsigned, int value) {
  return cuda_on_cpu::exchange(value, [](auto of) {
    unsigned mask = 0;
    for (int i = 0; i < cuda_on_cpu::warp().members; ++i) mask |= unsigned(of(i) != 0) << i;
    return mask;
  });
}
inline int __popc(unsigned mask) { return __builtin_popcount(mask); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
using std::min;
