// Products of small row-major matrices, cheap enough to call per sample.

#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

extern "C" {
// LibTorch's own BLAS. Weak: a build that does not export it takes the slower way below.
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*) __attribute__((weak));
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*) __attribute__((weak));
}

namespace sparc {

// c [m,n] = op(a) [m,k] op(b) [k,n] (+ c, if `accumulate`); strides are those of rows.
template <typename T>
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b,
          int64_t b_stride, bool accumulate, T* c, int64_t c_stride) {
  auto product = [&](auto* blas) {
    // BLAS counts by columns: c' = op(b)' op(a)'.
    const int sizes[] = {static_cast<int>(n), static_cast<int>(m), static_cast<int>(k)};
    auto stride = [](int64_t of) { return static_cast<int>(std::max<int64_t>(of, 1)); };  // 0 where nothing is
    const int strides[] = {stride(b_stride), stride(a_stride), stride(c_stride)};
    const T one = 1, beta = accumulate ? 1 : 0;
    blas(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &sizes[0], &sizes[1], &sizes[2], &one, b, &strides[0], a,
         &strides[1], &beta, c, &strides[2]);
  };
  if constexpr (std::is_same_v<T, float>) {
    if (sgemm_ != nullptr) return product(&sgemm_);
  } else {
    if (dgemm_ != nullptr) return product(&dgemm_);
  }
  c10::NoGradGuard no_grad;
  auto matrix = [](const T* data, int64_t rows, int64_t columns, int64_t stride) {
    return at::from_blob(const_cast<T*>(data), {rows, columns}, {stride, 1}, c10::CppTypeToScalarType<T>::value);
  };
  at::Tensor left = transpose_a ? matrix(a, k, m, a_stride).t() : matrix(a, m, k, a_stride);
  at::Tensor right = transpose_b ? matrix(b, n, k, b_stride).t() : matrix(b, k, n, b_stride);
  at::Tensor result = matrix(c, m, n, c_stride);
  if (accumulate) {
    result.addmm_(left, right);
  } else {
    at::mm_out(result, left, right);
  }
}

}  // namespace sparc
