// One thread's memory for one sample at a time.

#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <initializer_list>
#include <utility>

namespace sparc {

// Pieces of one allocation, each on its own cache lines.
template <typename T>
class Workspace {
 public:
  Workspace(std::initializer_list<std::pair<T**, int64_t>> pieces) {
    constexpr int64_t line = 64 / sizeof(T);
    auto rounded = [](int64_t size) { return (size + line - 1) / line * line; };
    int64_t total = 0;
    for (const auto& piece : pieces) total += rounded(piece.second);
    memory_ = at::empty({total}, c10::CppTypeToScalarType<T>::value);
    T* next = memory_.mutable_data_ptr<T>();
    for (const auto& piece : pieces) {
      *piece.first = next;
      next += rounded(piece.second);
    }
  }

 private:
  at::Tensor memory_;
};

}  // namespace sparc
