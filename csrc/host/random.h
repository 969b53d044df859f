// Random numbers for the generators. They give the same values everywhere, unlike the distributions of <random>, which
// differ between standard libraries.
#pragma once

#include <cstdint>
#include <utility>

namespace trm_fast {

inline std::uint64_t mix(std::uint64_t z) {  // the output function of splitmix64
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

class Rng {
 public:
  Rng(std::uint64_t seed, std::uint64_t stream) : state_(mix(mix(seed) + stream)) {}

  std::uint64_t word() {
    state_ += 0x9E3779B97F4A7C15u;
    return mix(state_);
  }

  int below(int n) { return static_cast<int>(((word() >> 32) * static_cast<std::uint64_t>(n)) >> 32); }

  template <class T>
  void shuffle(T* items, int n) {
    for (int last = n - 1; last > 0; --last) std::swap(items[last], items[below(last + 1)]);
  }

 private:
  std::uint64_t state_;
};

}  // namespace trm_fast
