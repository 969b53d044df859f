// The pool of core/memory.h: best fit, in huge pages.
#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <new>
#include <unordered_map>

namespace trm_fast {
namespace {

constexpr size_t kUnit = size_t(1) << 21;  // a huge page

struct Block {
  void* address;
  size_t size;
};

class Pool {
 public:
  void* take(size_t bytes) {
    const size_t size = std::max<size_t>(1, (bytes + kUnit - 1) / kUnit) * kUnit;
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = free_.end();
    for (auto block = free_.begin(); block != free_.end(); ++block) {
      if (block->size < size || block->size > size + size / 4) continue;
      if (best == free_.end() || block->size < best->size) best = block;
    }
    Block block{nullptr, size};
    if (best != free_.end()) {
      block = *best;
      free_bytes_ -= block.size;
      free_.erase(best);
    } else {
      peak_bytes_ = std::max(peak_bytes_, used_bytes_ + size);
      shrink(peak_bytes_ - used_bytes_ - size);
      block.address = map(size);
    }
    used_bytes_ += block.size;
    peak_bytes_ = std::max(peak_bytes_, used_bytes_);
    sizes_[block.address] = block.size;
    return block.address;
  }

  void give(void* address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sizes_.find(address);
    used_bytes_ -= found->second;
    free_bytes_ += found->second;
    free_.push_back({address, found->second});
    sizes_.erase(found);
    shrink(peak_bytes_ - used_bytes_);
  }

 private:
  // Unmaps the blocks that were freed first, until the free blocks have at most `limit` bytes.
  void shrink(size_t limit) {
    while (free_bytes_ > limit) {
      munmap(free_.front().address, free_.front().size);
      free_bytes_ -= free_.front().size;
      free_.pop_front();
    }
  }

  static void* map(size_t size) {
    void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(address, size, MADV_HUGEPAGE);
#endif
    return address;
  }

  std::mutex mutex_;
  std::list<Block> free_;  // in the order in which they were freed
  std::unordered_map<void*, size_t> sizes_;
  size_t used_bytes_ = 0, free_bytes_ = 0, peak_bytes_ = 0;
};

// Never destroyed, because tensors may return memory while the process ends.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

float* take_memory(size_t count) { return static_cast<float*>(pool().take(count * sizeof(float))); }

void give_memory(void* memory) { pool().give(memory); }

}  // namespace trm_fast
