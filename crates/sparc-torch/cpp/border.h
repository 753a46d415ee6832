// What every C function of the bridge shares: tensors in, no exception out.
//
// A tensor crosses the border as the `at::Tensor*` that tch itself holds. No exception crosses it:
// every function returns null, or a message that the caller frees with `sparc_free_message`.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

namespace sparc {

inline char* message(const char* text) {
  // Only the first line: the rest is a C++ backtrace that helps nobody here.
  size_t length = std::strcspn(text, "\n");
  char* copy = static_cast<char*>(std::malloc(length + 1));
  if (copy != nullptr) {
    std::memcpy(copy, text, length);
    copy[length] = '\0';
  }
  return copy;
}

// Runs `body` in the caller's grad mode: for what autograd shall see.
template <typename F>
char* guarded_differentiable(F&& body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return message("unknown C++ exception");
  }
}

template <typename F>
char* guarded(F&& body) {
  return guarded_differentiable([&] {
    c10::NoGradGuard no_grad;
    body();
  });
}

inline std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) result.push_back(*tensors[i]);
  return result;
}

}  // namespace sparc
