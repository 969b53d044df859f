#include "ops/gemm.h"

#include <dlfcn.h>

#include <atomic>

#include "ops/isa.h"

namespace trm_fast {
namespace {

// MKL as libtorch_cpu exports it: the Fortran interface, 32-bit sizes, column-major. A row-major product is the
// column-major product of the factors in reverse order.
struct Mkl {
  void (*sgemm)(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
                const float*, const int*, const float*, float*, const int*);
  size_t (*pack_size)(const char*, const int*, const int*, const int*);
  void (*pack)(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
               float*);
  void (*compute)(const char*, const char*, const int*, const int*, const int*, const float*, const int*, const float*,
                  const int*, const float*, float*, const int*);
  int (*set_threads)(int);

  Mkl() {
    void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return;
    find(library, "sgemm_pack_get_size_", pack_size);
    find(library, "sgemm_pack_", pack);
    find(library, "sgemm_compute_", compute);
    find(library, "MKL_Set_Num_Threads_Local", set_threads);
    find(library, "sgemm_", sgemm);
    if (!pack_size || !pack || !compute || !set_threads) sgemm = nullptr;  // another BLAS
  }

  template <class Function>
  static void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
  }
};

const Mkl& mkl() {
  static const Mkl found;
  return found;
}

std::atomic<bool> library_wanted{true};

bool use_mkl() { return mkl().sgemm && library_wanted.load(std::memory_order_relaxed); }

const char* letter(bool transpose) { return transpose ? "T" : "N"; }

}  // namespace

void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  if (!use_mkl()) {
    return kernels<GemmKernels<float>>().multiply(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
  }
  const int rows = int(m), columns = int(n), depth = int(k), sa = int(lda), sb = int(ldb), sc = int(ldc);
  const float one = 1;
  mkl().sgemm(letter(transpose_b), letter(transpose_a), &columns, &rows, &depth, &one, b, &sb, a, &sa, &beta, c, &sc);
}

RightFactor::RightFactor(bool transpose, int64_t k, int64_t n, const float* b, int64_t ldb, int64_t rows)
    : transpose_(transpose), k_(k), n_(n), ldb_(ldb), b_(b) {
  if (!use_mkl()) return;
  const int m = int(rows), columns = int(n), depth = int(k), sb = int(ldb);
  const float one = 1;
  packed_ = Memory(mkl().pack_size("A", &columns, &m, &depth) / sizeof(float) + 1);
  mkl().pack("A", letter(transpose), &columns, &m, &depth, &one, b, &sb, packed_.get());
}

void RightFactor::multiply(int64_t m, const float* a, int64_t lda, float beta, float* c, int64_t ldc) const {
  if (!packed_.get()) return gemm(false, transpose_, m, n_, k_, a, lda, b_, ldb_, beta, c, ldc);
  const int rows = int(m), columns = int(n_), depth = int(k_), sa = int(lda), sb = int(ldb_), sc = int(ldc);
  mkl().compute("P", "N", &columns, &rows, &depth, packed_.get(), &sb, a, &sa, &beta, c, &sc);
}

OnThisThread::OnThisThread() {
  if (use_mkl()) before_ = mkl().set_threads(1);
}

OnThisThread::~OnThisThread() {
  if (use_mkl()) mkl().set_threads(before_);
}

const char* gemm_name() { return use_mkl() ? "mkl" : "own"; }

void use_library_gemm(bool yes) { library_wanted.store(yes, std::memory_order_relaxed); }

}  // namespace trm_fast
