// Large working memory, reused from call to call: a fresh page costs the kernel a clearing (in virtual machines up to
// 1 ms a megabyte), and what the gradient cycle keeps at paper size would take as long to map as to compute.
#pragma once

#include <cstddef>

namespace trm_fast {

// At least `count` floats, aligned to a page. Free memory is kept, but never more than was once in use at one time.
float* take_memory(size_t count);
void give_memory(void* memory);

// Working memory for as long as it lives.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t count) : floats_(take_memory(count)) {}
  Memory(Memory&& other) noexcept : floats_(other.floats_) { other.floats_ = nullptr; }
  Memory& operator=(Memory&& other) noexcept {
    if (this != &other) {
      give_memory(floats_);
      floats_ = other.floats_;
      other.floats_ = nullptr;
    }
    return *this;
  }
  ~Memory() { give_memory(floats_); }

  float* get() const { return floats_; }

 private:
  float* floats_ = nullptr;
};

}  // namespace trm_fast
