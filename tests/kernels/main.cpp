// Checks the CPU kernels with the instruction sets that are named. Prints a line for each, and fails if one is wrong.
// Without names, prints the set that would be chosen.
#include <exception>

#include "checks.h"

int main(int argc, char** argv) {
  if (argc == 1) std::printf("%s\n", trm_fast::isa_name(trm_fast::current_isa()));
  bool wrong = false;
  for (int i = 1; i < argc; ++i) {
    checks::counts = {};
    try {
      trm_fast::set_isa(argv[i]);
      checks::check_products(trm_fast::kernels<trm_fast::GemmKernels>());
      if (const auto* products = trm_fast::bfloat16_products()) checks::check_products(*products);
      checks::check_ops();
    } catch (const std::exception& error) {
      std::printf("%s: %s\n", argv[i], error.what());
      return 2;
    }
    std::printf("%s: %lld values, %lld wrong\n", argv[i], (long long)checks::counts.values,
                (long long)checks::counts.failures);
    wrong |= checks::counts.failures > 0 || checks::counts.values == 0;
  }
  return wrong;
}
