// Measures the processor's peak on several threads.
#include "core/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/isa.h"

namespace trm_fast {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kFlop = 50'000'000;  // of a thread in a run, which then takes less than a time slice
constexpr int64_t kRuns = 40;
constexpr int64_t kMostThreads = 4096;

const PeakKernels* bfloat16_kernels() {
  switch (current_isa()) {
#ifdef TRM_FAST_BFLOAT16
#define TRM_FAST_CASE(isa, base) \
  case Isa::isa: return &isa::Table<PeakKernels>::kernels;
    TRM_FAST_BFLOAT16_ISAS(TRM_FAST_CASE)
#undef TRM_FAST_CASE
#endif
    default: return nullptr;
  }
}

// The runs of several threads, which start each run at the same time.
class Runs {
 public:
  Runs(const PeakKernels& peak, int64_t rounds, int64_t threads)
      : peak_(peak), rounds_(rounds), threads_(threads), times_(size_t(threads * kRuns)) {
    std::vector<std::thread> others;
    try {
      for (int64_t i = 1; i < threads; ++i) others.emplace_back([this, i] { work(i); });
    } catch (...) {
      stopped_ = true;
      for (std::thread& other : others) other.join();
      throw;
    }
    work(0);
    for (std::thread& other : others) other.join();
  }

  // The shortest time from the first thread's start to the last one's end, in seconds.
  double best() const {
    double best = 0;
    for (int64_t run = 0; run < kRuns; ++run) {
      const Times* times = times_.data() + run * threads_;
      Times span = times[0];
      for (int64_t i = 1; i < threads_; ++i) {
        span = {std::min(span.start, times[i].start), std::max(span.end, times[i].end)};
      }
      const double seconds = std::chrono::duration<double>(span.end - span.start).count();
      best = run ? std::min(best, seconds) : seconds;
    }
    return best;
  }

 private:
  struct Times {
    Clock::time_point start, end;
  };

  void work(int64_t thread) {
    for (int64_t run = 0; run < kRuns; ++run) {
      ++arrived_;
      // It does not yield: on a busy machine the threads would seldom run at the same time.
      while (arrived_ < (run + 1) * threads_ && !stopped_) continue;
      Times& times = times_[size_t(run * threads_ + thread)];
      times.start = Clock::now();
      peak_.run(rounds_);
      times.end = Clock::now();
    }
  }

  const PeakKernels& peak_;
  const int64_t rounds_, threads_;
  std::vector<Times> times_;
  std::atomic<int64_t> arrived_{0};
  std::atomic<bool> stopped_{false};
};

}  // namespace

double peak_flops(bool bfloat16, int64_t threads) {
  if (threads < 1 || threads > kMostThreads) {
    throw std::invalid_argument("peak_flops: threads must be from 1 to " + std::to_string(kMostThreads));
  }
  const PeakKernels* peak = bfloat16 ? bfloat16_kernels() : &kernels<PeakKernels>();
  if (!peak) return 0;
  const int64_t rounds = std::max<int64_t>(1, kFlop / peak->flop);
  return double(threads * rounds * peak->flop) / Runs(*peak, rounds, threads).best();
}

}  // namespace trm_fast
