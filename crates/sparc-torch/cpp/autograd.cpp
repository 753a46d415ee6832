// Autograd's primitives that tch does not bind: vector-Jacobian products, and hand-written gradients.

#include "border.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

using at::Tensor;
using sparc::guarded_differentiable;
using sparc::list;
using torch::autograd::variable_list;

namespace {

// Sends the gradient of a scalar times a precomputed tensor to every input.
struct CustomGradientBackward : torch::autograd::Node {
  // Neither inputs nor outputs of this node: holding them makes no cycle.
  std::vector<std::optional<Tensor>> gradients;
  bool released = false;

  variable_list apply(variable_list&& outer) override {
    TORCH_CHECK(!c10::GradMode::is_enabled(),
                "custom_gradient has no second derivative: run backward without create_graph");
    TORCH_CHECK(!released, "backward ran through a custom_gradient a second time: retain the graph the first time");
    variable_list result(gradients.size());
    if (!outer[0].defined()) return result;
    // A loss that is not weighed passes 1 down: no copy of the gradients then. Elsewhere than on the CPU asking
    // for the number would wait for the device.
    const bool is_one = outer[0].device().is_cpu() && outer[0].item<double>() == 1.0;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (gradients[i].has_value() && task_should_compute_output(i)) {
        result[i] = is_one ? *gradients[i] : gradients[i]->mul(outer[0].to(gradients[i]->scalar_type()));
      }
    }
    return result;
  }

  void release_variables() override {
    gradients.assign(gradients.size(), std::nullopt);
    released = true;
  }

  std::string name() const override { return "CustomGradientBackward"; }
};

}  // namespace

extern "C" {

// `gradients` receives `input_count` owned tensors, null where an output does not depend on the input.
char* sparc_vjp(Tensor* const* outputs, Tensor* const* grad_outputs, size_t output_count, Tensor* const* inputs,
                size_t input_count, Tensor** gradients) {
  return guarded_differentiable([&] {
    variable_list result = torch::autograd::grad(list(outputs, output_count), list(inputs, input_count),
                                                 list(grad_outputs, output_count), /*retain_graph=*/false,
                                                 /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < input_count; ++i) {
      gradients[i] = result[i].defined() ? new Tensor(std::move(result[i])) : nullptr;
    }
  });
}

char* sparc_custom_gradient(const Tensor* value, Tensor* const* inputs, Tensor* const* gradients, size_t count,
                            Tensor** result) {
  return guarded_differentiable([&] {
    auto input_list = list(inputs, count);
    // A copy (of one number): a detached view would share its version with the caller's tensor.
    Tensor output = value->detach().clone();
    if (torch::autograd::compute_requires_grad(input_list)) {
      auto node = std::shared_ptr<CustomGradientBackward>(new CustomGradientBackward(), torch::autograd::deleteNode);
      node->set_next_edges(torch::autograd::collect_next_edges(input_list));
      for (size_t i = 0; i < count; ++i) {
        node->gradients.push_back(input_list[i].requires_grad() ? std::optional<Tensor>(gradients[i]->detach())
                                                                : std::nullopt);
      }
      torch::autograd::set_history(output, node);
    }
    *result = new Tensor(std::move(output));
  });
}

}  // extern "C"
