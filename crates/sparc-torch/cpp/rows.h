// Rows of a [B, N, D] tensor of any floating kind, read and written in the kind of a computation.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace sparc {

class Rows {
 public:
  int64_t count;  // N
  int64_t width;  // D

  // Strided memory is taken as it is where rows are dense, else copied.
  explicit Rows(const at::Tensor& x)
      : count(x.size(1)),
        width(x.size(2)),
        tensor_(x.stride(2) == 1 && x.stride(1) >= std::max<int64_t>(width, 1) ? x : x.contiguous()),
        // The stride of a dimension of size 1 means nothing, and BLAS looks at it.
        row_stride_(count > 1 ? tensor_.stride(1) : width),
        kind_(tensor_.scalar_type()),
        data_(static_cast<char*>(tensor_.data_ptr())) {}

  template <typename T>
  bool is() const {
    return kind_ == c10::CppTypeToScalarType<T>::value;
  }

  template <typename T>
  void read(int64_t b, int64_t row, T* to) const {
    with_type([&](auto element) {
      const auto* from = row_of<decltype(element)>(b, row);
      for (int64_t i = 0; i < width; ++i) to[i] = static_cast<T>(from[i]);
    });
  }

  template <typename T>
  void write(int64_t b, int64_t row, const T* from) const {
    with_type([&](auto element) {
      auto* to = row_of<decltype(element)>(b, row);
      for (int64_t i = 0; i < width; ++i) to[i] = static_cast<decltype(element)>(from[i]);
    });
  }

  // The sample's matrix and its row stride: in place, or widened into `own` [N, D].
  template <typename T>
  std::pair<const T*, int64_t> matrix(int64_t b, T* own) const {
    if (is<T>()) return {row_of<T>(b, 0), row_stride_};
    for (int64_t row = 0; row < count; ++row) read(b, row, own + row * width);
    return {own, width};
  }

  // Where to put a sample's matrix: in place, or `own`, for `write_matrix`.
  template <typename T>
  std::pair<T*, int64_t> matrix_to_fill(int64_t b, T* own) const {
    if (is<T>()) return {row_of<T>(b, 0), row_stride_};
    return {own, width};
  }

  template <typename T>
  void write_matrix(int64_t b, const T* own) const {
    for (int64_t row = 0; row < count; ++row) write(b, row, own + row * width);
  }

  void zero(int64_t b) const {
    with_type([&](auto element) {
      for (int64_t row = 0; row < count; ++row) std::fill_n(row_of<decltype(element)>(b, row), width, element);
    });
  }

 private:
  at::Tensor tensor_;
  int64_t row_stride_;
  at::ScalarType kind_;
  char* data_;

  template <typename E>
  E* row_of(int64_t b, int64_t row) const {
    return reinterpret_cast<E*>(data_) + b * tensor_.stride(0) + row * row_stride_;
  }

  template <typename F>
  void with_type(F&& body) const {
    switch (kind_) {
      case at::kFloat: return body(float());
      case at::kDouble: return body(double());
      case at::kBFloat16: return body(c10::BFloat16());
      case at::kHalf: return body(c10::Half());
      default: TORCH_CHECK(false, "rows of kind ", kind_);
    }
  }
};

}  // namespace sparc
