// SPARC's alignment weights of one token: from similarities to weights, and back for gradients.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace sparc {

enum class Weights : int32_t { minmax = 0, softmax = 1, none = 2 };

struct Options {
  Weights weights;
  double sigma;
  bool detach_weights;
  double eps;

  bool gradient_through_weights() const { return weights != Weights::none && !detach_weights; }
};

template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// One row of S and what it becomes.
template <typename T>
struct WeightRow {
  bool uniform = false;
  T low = 0;      // minimum of S (min-max), or its maximum (softmax)
  T divisor = 1;  // range of S (min-max), or the sum of exponentials (softmax)
  T sum = 1;      // of what the threshold left

  // Fills `weights` [P] and returns how many are positive.
  int64_t fill(const Options& options, const T* s, int64_t patches, T* weights) {
    switch (options.weights) {
      case Weights::none: uniform = true; break;
      case Weights::minmax: minmax(options, s, patches, weights); break;
      case Weights::softmax: softmax(options, s, patches, weights); break;
    }
    if (uniform) {
      std::fill(weights, weights + patches, T(1.0 / static_cast<double>(patches)));
      return patches;
    }
    int64_t kept = 0;
    for (int64_t p = 0; p < patches; ++p) {
      weights[p] /= sum;
      kept += weights[p] > 0;
    }
    return kept;
  }

  // Turns the gradient of the weights into that of S, in place.
  void backward(const Options& options, const T* s, const T* weights, int64_t patches, T* gradient) const {
    if (uniform) {
      std::fill(gradient, gradient + patches, T(0));
      return;
    }
    const T mean = dot(gradient, weights, patches);
    const T sigma = T(options.sigma);
    if (options.weights == Weights::minmax) {
      // Weights do not change when all that the threshold left grows by a factor: the maximum, which
      // acts through the divisor alone, gets no gradient. The minimum's is shared evenly by ties.
      T total = 0;
      int64_t ties = 0;
      for (int64_t p = 0; p < patches; ++p) {
        const bool dropped = (s[p] - low) / divisor < sigma;
        gradient[p] = dropped ? T(0) : (gradient[p] - mean) / (sum * divisor);
        total += gradient[p];
        ties += s[p] == low;
      }
      const T share = total / static_cast<T>(ties);
      for (int64_t p = 0; p < patches; ++p) gradient[p] -= s[p] == low ? share : T(0);
    } else {
      // The softmax is weights * sum where the threshold left it; elsewhere its gradient is 0.
      T inner = 0;
      for (int64_t p = 0; p < patches; ++p) {
        const T soft = std::exp(s[p] - low) / divisor;
        gradient[p] = soft < sigma ? T(0) : (gradient[p] - mean) / sum;
        inner += gradient[p] * soft;
      }
      for (int64_t p = 0; p < patches; ++p) gradient[p] = std::exp(s[p] - low) / divisor * (gradient[p] - inner);
    }
  }

 private:
  void minmax(const Options& options, const T* s, int64_t patches, T* weights) {
    T high = s[0];
    low = s[0];
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t p = 0; p < patches; ++p) {
      low = std::min(low, s[p]);
      high = std::max(high, s[p]);
    }
    divisor = high - low;
    uniform = divisor <= std::max(std::abs(low), std::abs(high)) * T(options.eps);
    if (uniform) return;
    const T sigma = T(options.sigma);
    T left = 0;
#pragma omp simd reduction(+ : left)
    for (int64_t p = 0; p < patches; ++p) {
      const T scaled = (s[p] - low) / divisor;
      weights[p] = scaled < sigma ? T(0) : scaled;
      left += weights[p];
    }
    uniform = left <= T(0);
    sum = left;
  }

  void softmax(const Options& options, const T* s, int64_t patches, T* weights) {
    low = *std::max_element(s, s + patches);
    divisor = 0;
    for (int64_t p = 0; p < patches; ++p) {
      weights[p] = std::exp(s[p] - low);
      divisor += weights[p];
    }
    const T sigma = T(options.sigma);
    sum = 0;
    for (int64_t p = 0; p < patches; ++p) {
      const T soft = weights[p] / divisor;
      weights[p] = soft < sigma ? T(0) : soft;
      sum += weights[p];
    }
    uniform = sum <= T(0);
  }
};

}  // namespace sparc
