// Single-precision matrix products in row-major order, each on the calling thread alone: MKL's where torch brings MKL,
// else our own (cpu/gemm.cpp).
#pragma once

#include <cstdint>

#include "ops/memory.h"

namespace trm_fast {

// C (m, n) = op(A) op(B) + beta C with op(A) (m, k) and op(B) (k, n). With beta = 0 C is not read.
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// A weight as the right factor of many products, packed once. Measured on 97 x 512 times 512 x 3072: 8-15 % faster
// than unpacked, on tiles of 16 to 48 rows 30-60 %.
class RightFactor {
 public:
  RightFactor() = default;
  // op(B) is (k, n); `rows` is the number of rows that the products will mostly have.
  RightFactor(bool transpose, int64_t k, int64_t n, const float* b, int64_t ldb, int64_t rows);

  // C (m, n) = A (m, k) op(B) + beta C
  void multiply(int64_t m, const float* a, int64_t lda, float beta, float* c, int64_t ldc) const;

 private:
  bool transpose_ = false;
  int64_t k_ = 0, n_ = 0, ldb_ = 0;
  const float* b_ = nullptr;
  Memory packed_;
};

// While it lives, products stay on this thread although MKL could use more.
class OnThisThread {
 public:
  OnThisThread();
  ~OnThisThread();
  OnThisThread(const OnThisThread&) = delete;
  OnThisThread& operator=(const OnThisThread&) = delete;

 private:
  int before_ = 0;
};

// "mkl" or "own".
const char* gemm_name();
// For tests: false takes our own product, true MKL's where there is one.
void use_library_gemm(bool yes);

}  // namespace trm_fast
