// A pool of large working memory. The operating system must clear every fresh page (up to 1 ms a megabyte in virtual
// machines): at the paper's size, mapping the tensors that a forward keeps takes as long as computing them.
#pragma once

#include <cstddef>
#include <memory>

namespace trm_fast {

// At least `count` floats, aligned to a page. The pool keeps free memory, but in total no more than was in use at once.
float* take_memory(size_t count);
void give_memory(void* memory);

struct GiveMemory {
  void operator()(float* memory) const { give_memory(memory); }
};

// Owns working memory: `const Memory floats(take_memory(count))`.
using Memory = std::unique_ptr<float[], GiveMemory>;

}  // namespace trm_fast
