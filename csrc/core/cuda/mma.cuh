// Matrix products of one warp on tensor cores (sm_80 and later): 16 x 8 x 16, with factors in T and sums in float32. A
// is 16 x 16, row-major; B is 16 x 8, column-major. Lane l, with g = l / 4 and t = l % 4, holds two neighboring
// elements in each word, the first of which is listed:
//   A  (g, 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t + 8);   B  (2t, g) (2t + 8, g);   sums  (g, 2t) (g + 8, 2t)
// So, in each lane, the sums of two neighboring tiles are the A of the next product.
#pragma once

#include <type_traits>

#include "core/cuda/device.cuh"

#ifdef __CUDACC__

namespace trm_fast {
namespace cuda {

#define TRM_FAST_MMA(type)                                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

template <class T>
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    TRM_FAST_MMA("f16");
  } else {
    TRM_FAST_MMA("bf16");
  }
}
#undef TRM_FAST_MMA

// Loads four 8 x 8 matrices from shared memory. Lane l passes the address of row l % 8 of matrix l / 8, which has 16
// bytes and is aligned. It gets element (l / 4, 2 (l % 4)) of each matrix and the element to its right; if kTransposed,
// (2 (l % 4), l / 4) and the element below.
template <bool kTransposed>
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

// Starts an asynchronous copy of 16 bytes to shared memory. commit() closes a group of copies; wait<N>() waits for all
// of this thread's groups but the last N.
__device__ inline void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
__device__ inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ inline void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace cuda
}  // namespace trm_fast

#else
#include "mma_on_cpu.h"
#endif

namespace trm_fast {
namespace cuda {

template <class T>
__device__ inline uint32_t pair(float low, float high) {
  Pack<T, 2> both;
  store(&both.at[0], low), store(&both.at[1], high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

template <class T>
__device__ inline void store_two(T* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = pair<T>(first, second);
}

// Loads B of two neighboring tiles (16 columns of the product): r[0] and r[1] for the first, r[2] and r[3] for the
// second. For load_b, the rows of the matrix are the columns of B; for load_b_by_rows, they are the rows of B.
// `group_stride` is the distance, in rows, between groups of 8 rows of the matrix: 16 if gate and up are interleaved.
template <class T>
__device__ inline void load_b(uint32_t (&r)[4], const T* columns, int stride, int lane) {
  load_matrices<false>(r, columns + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}
template <class T>
__device__ inline void load_b_by_rows(uint32_t (&r)[4], const T* rows, int stride, int lane, int group_stride = 8) {
  load_matrices<true>(r, rows + (lane / 8 % 2 * group_stride + lane % 8) * stride + lane / 16 * 8);
}

// Loads A. For load_a, the rows of the matrix are the rows of A; for load_a_by_columns, they are the columns of A.
template <class T>
__device__ inline void load_a(uint32_t (&r)[4], const T* rows, int stride, int lane, int group_stride = 8) {
  load_matrices<false>(r, rows + (lane / 8 % 2 * group_stride + lane % 8) * stride + lane / 16 * 8);
}
template <class T>
__device__ inline void load_a_by_columns(uint32_t (&r)[4], const T* columns, int stride, int lane) {
  load_matrices<true>(r, columns + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

// active = silu(gate) up, and the gradients of gate and up, from d, the gradient of active.
struct GateUpGradient {
  float active, dgate, dup;
  __device__ GateUpGradient(float gate, float up, float d) {
    const float sigmoid = 1.0f / (1.0f + __expf(-gate)), silu = gate * sigmoid;
    active = silu * up, dup = d * silu, dgate = d * up * (sigmoid + silu * (1.0f - sigmoid));
  }
};

// All threads of the block start copying a kRows x kColumns part of a matrix to shared memory. Rows beyond `last`
// become copies of row `last`; their products are not used. Strides are in elements.
template <int kRows, int kColumns, int kThreads, class T>
__device__ inline void copy_tile(T* to, int to_stride, const T* from, int64_t from_stride, int64_t last) {
  constexpr int kPacks = kColumns / 8;
#pragma unroll 1  // unrolled, the addresses would take registers from the products
  for (int i = int(threadIdx.x); i < kRows * kPacks; i += kThreads) {
    const int row = i / kPacks, column = i % kPacks * 8;
    copy_async(to + row * to_stride + column, from + min(int64_t(row), last) * from_stride + column);
  }
}

// Starts fetch(next) if `more`, then waits until the previous fetch is complete.
template <class Fetch>
__device__ inline void fetch_ahead(bool more, int64_t next, const Fetch& fetch) {
  if (more) {
    fetch(next);
    wait<1>();
  } else {
    wait<0>();
  }
  __syncthreads();
}

// Calls body(T{}) with bfloat16 or float16; float32 has no kernels.
template <class Body>
cudaError_t with_half_type(Type type, const Body& body) {
  switch (type) {
    case Type::bfloat16: return body(__nv_bfloat16{});
    case Type::float16: return body(__half{});
    default: return cudaErrorInvalidValue;
  }
}

// Calls body(T{}, std::integral_constant<int, size>{}) with bfloat16 or float16 and the padded token count.
template <class Body>
cudaError_t with_tokens(Type type, int64_t tokens, const Body& body) {
  return with_half_type(type, [&](auto value) {
    switch (padded_tokens(tokens)) {
      case 32: return body(value, std::integral_constant<int, 32>{});
      case 64: return body(value, std::integral_constant<int, 64>{});
      case 96: return body(value, std::integral_constant<int, 96>{});
      case 112: return body(value, std::integral_constant<int, 112>{});
      case 128: return body(value, std::integral_constant<int, 128>{});
      default: return cudaErrorInvalidValue;
    }
  });
}

}  // namespace cuda
}  // namespace trm_fast
