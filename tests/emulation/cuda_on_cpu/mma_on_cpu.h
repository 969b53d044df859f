// The instructions of tensor cores, with the layouts of the PTX manual. A copy_async happens as late as possible, when
// the thread waits for it, so that a missing wait shows; with the warps in reverse, at once, so that a missing barrier
// before it shows.
#pragma once

namespace trm_fast {
namespace cuda {

template <class T>
float half_of_word(uint32_t word, int i) {
  return load(reinterpret_cast<const T*>(&word)[i]);
}

template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Lane {
    uint32_t a[4], b[2];
  };
  const int g = cuda_on_cpu::lane() / 4, t = cuda_on_cpu::lane() % 4;
  cuda_on_cpu::exchange(Lane{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](auto of) {
    for (int i = 0; i < 4; ++i) {
      const int row = g + i / 2 * 8, column = 2 * t + i % 2;
      for (int k = 0; k < 16; ++k) {
        const float left = half_of_word<T>(of(row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2], k % 2);
        d[i] += left * half_of_word<T>(of(column * 4 + k % 8 / 2).b[k / 8], k % 2);
      }
    }
    return 0;
  });
}

template <bool kTransposed>
inline void load_matrices(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) std::fprintf(stderr, "load_matrices: not aligned\n"), std::abort();
  const int g = cuda_on_cpu::lane() / 4, t = cuda_on_cpu::lane() % 4;
  cuda_on_cpu::exchange(static_cast<const uint16_t*>(row), [&](auto of) {
    for (int i = 0; i < 4; ++i) {
      const auto at = [&](int y, int x) { return uint32_t(of(8 * i + y)[x]); };
      r[i] = kTransposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
    }
    return 0;
  });
}

struct Copies {
  using Copy = std::pair<void*, const void*>;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> committed;
};
inline std::vector<Copies> copies(1024);  // one for each thread of the largest block

inline void copy_async(void* shared, const void* global) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16) {
    std::fprintf(stderr, "copy_async: not aligned\n"), std::abort();
  }
  if (cuda_on_cpu::device.backwards) {
    std::memcpy(shared, global, 16);
    return;
  }
  copies[cuda_on_cpu::device.current].open.emplace_back(shared, global);
}
inline void commit() {
  Copies& mine = copies[cuda_on_cpu::device.current];
  mine.committed.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int N>
inline void wait() {
  auto& groups = copies[cuda_on_cpu::device.current].committed;
  while (groups.size() > N) {
    for (const auto& [to, from] : groups.front()) std::memcpy(to, from, 16);
    groups.erase(groups.begin());
  }
}

}  // namespace cuda
}  // namespace trm_fast
