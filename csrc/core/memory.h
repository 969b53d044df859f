// A pool of large blocks of working memory. The operating system must clear every new page (up to 1 ms per megabyte in
// virtual machines): at the paper's size, mapping the tensors that a forward saves takes as long as computing them.
#pragma once

#include <cstddef>
#include <memory>

namespace trm_fast {

// Returns at least `count` uninitialized floats, aligned to a page. The pool keeps freed blocks for reuse, but in total
// it never holds more than the peak use. Thread-safe. Throws std::bad_alloc.
float* take_memory(size_t count);
// Returns memory of take_memory to the pool.
void give_memory(void* memory);

struct GiveMemory {
  void operator()(float* memory) const { give_memory(memory); }
};

// Owns working memory: `const Memory floats(take_memory(count))`.
using Memory = std::unique_ptr<float[], GiveMemory>;

}  // namespace trm_fast
