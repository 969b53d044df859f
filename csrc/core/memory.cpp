// The memory pool of core/memory.h. It chooses blocks by best fit, and allocates them in huge pages where it can.
#include "core/memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <unordered_map>

namespace trm_fast {
namespace {

constexpr size_t kHugePage = size_t(1) << 21;
#if !defined(__linux__)
constexpr size_t kPage = size_t(1) << 14;  // that of macOS on Arm
#endif

struct Block {
  void* address;
  size_t size;
};

class Pool {
 public:
  void* acquire(size_t bytes) {
    const size_t size = std::max<size_t>(1, (bytes + kHugePage - 1) / kHugePage) * kHugePage;
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

  void release(void* address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sizes_.find(address);
    used_bytes_ -= found->second;
    free_bytes_ += found->second;
    free_.push_back({address, found->second});
    sizes_.erase(found);
    shrink(peak_bytes_ - used_bytes_);
  }

 private:
  // Returns free blocks to the system, the oldest first, until at most `limit` bytes are free.
  void shrink(size_t limit) {
    while (free_bytes_ > limit) {
      unmap(free_.front());
      free_bytes_ -= free_.front().size;
      free_.pop_front();
    }
  }

#if defined(__linux__)
  static void* map(size_t size) {
    void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(address, size, MADV_HUGEPAGE);
#endif
    return address;
  }
  static void unmap(const Block& block) { munmap(block.address, block.size); }
#else
  static void* map(size_t size) {
    void* address = nullptr;
    if (posix_memalign(&address, kPage, size)) throw std::bad_alloc();
    return address;
  }
  static void unmap(const Block& block) { std::free(block.address); }
#endif

  std::mutex mutex_;
  std::list<Block> free_;  // oldest first
  std::unordered_map<void*, size_t> sizes_;
  size_t used_bytes_ = 0, free_bytes_ = 0, peak_bytes_ = 0;
};

// Never destroyed, because tensors may still release memory during process exit.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

float* acquire_memory(size_t count) { return static_cast<float*>(pool().acquire(count * sizeof(float))); }

void release_memory(void* memory) { pool().release(memory); }

}  // namespace trm_fast
