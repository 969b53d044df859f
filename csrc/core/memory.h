// Large working memory, reused from call to call: a fresh page costs the kernel a clearing (in virtual machines up to
// 1 ms a megabyte), and what the gradient cycle keeps at paper size would take as long to map as to compute.
#pragma once

#include <cstddef>
#include <memory>

namespace trm_fast {

// At least `count` floats, aligned to a page. Free memory is kept, but never more than was once in use at one time.
float* take_memory(size_t count);
void give_memory(void* memory);

struct GiveMemory {
  void operator()(float* memory) const { give_memory(memory); }
};

// Working memory for as long as it lives: `const Memory floats(take_memory(count))`.
using Memory = std::unique_ptr<float[], GiveMemory>;

}  // namespace trm_fast
