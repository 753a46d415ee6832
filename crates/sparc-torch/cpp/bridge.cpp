// The C++ side of sparc-torch: thin C functions over ATen for what tch 0.24 does not bind.
//
// A tensor crosses the border as the `at::Tensor*` that tch itself holds. No exception crosses it:
// every function returns null, or a message that the caller frees with `sparc_free_message`.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

namespace {

char* message(const char* text) {
  // Only the first line: the rest is a C++ backtrace that helps nobody here.
  size_t length = std::strcspn(text, "\n");
  char* copy = static_cast<char*>(std::malloc(length + 1));
  if (copy != nullptr) {
    std::memcpy(copy, text, length);
    copy[length] = '\0';
  }
  return copy;
}

template <typename F>
char* guarded(F&& body) {
  try {
    c10::NoGradGuard no_grad;
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return message("unknown C++ exception");
  }
}

std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) result.push_back(*tensors[i]);
  return result;
}

}  // namespace

extern "C" {

void sparc_free_message(char* text) { std::free(text); }

char* sparc_fused_adamw(at::Tensor* const* parameters, at::Tensor* const* gradients, at::Tensor* const* first_moments,
                        at::Tensor* const* second_moments, at::Tensor* const* steps, size_t count, double learning_rate,
                        double beta1, double beta2, double weight_decay, double eps) {
  return guarded([&] {
    auto parameter_list = list(parameters, count);
    auto gradient_list = list(gradients, count);
    auto first_list = list(first_moments, count);
    auto second_list = list(second_moments, count);
    at::_fused_adamw_(parameter_list, gradient_list, first_list, second_list, /*max_exp_avg_sqs=*/{},
                      list(steps, count), learning_rate, beta1, beta2, weight_decay, eps, /*amsgrad=*/false,
                      /*maximize=*/false, /*grad_scale=*/{}, /*found_inf=*/{});
  });
}

char* sparc_total_norm(at::Tensor* const* tensors, size_t count, at::Tensor** result) {
  return guarded([&] { *result = new at::Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(list(tensors, count))))); });
}

char* sparc_scale(at::Tensor* const* tensors, size_t count, const at::Tensor* factor) {
  return guarded([&] {
    auto tensor_list = list(tensors, count);
    at::_foreach_mul_(tensor_list, *factor);
  });
}

}  // extern "C"
