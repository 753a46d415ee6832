// The C++ side of sparc-torch: thin C functions over ATen for what tch 0.24 does not bind.
// The rules of the border are in border.h.

#include "border.h"

#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

using sparc::guarded;
using sparc::list;

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
