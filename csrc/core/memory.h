// A pool of large blocks of working memory. Without it, the operating system would clear every new page, which takes up
// to 1 ms per megabyte in a virtual machine. For the paper's model, mapping the tensors that a forward saves would take
// as long as computing them.
#pragma once

#include <cstddef>
#include <memory>

namespace trm_fast {

// Returns at least `count` uninitialized floats, aligned to a page. The pool keeps released blocks for reuse; used and
// released blocks together never exceed the peak use. Thread-safe. Throws std::bad_alloc.
float* acquire_memory(size_t count);
// Returns memory from acquire_memory to the pool.
void release_memory(void* memory);

struct ReleaseMemory {
  void operator()(float* memory) const { release_memory(memory); }
};

// Owns working memory: `const Memory floats(acquire_memory(count))`.
using Memory = std::unique_ptr<float[], ReleaseMemory>;

}  // namespace trm_fast
