// FILIP's token-wise maximum cosine of every image with every text, and its gradient from the positions of
// the maxima alone. Vectors are normalised here: no unit copy of the patches is ever held.

#include "border.h"
#include "gemm.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

using at::Tensor;
using sparc::guarded;

// One binary for every x86-64, and the wide registers where there are some.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SPARC_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SPARC_WIDE
#endif

namespace {

// Words whose similarities with one image are held at a time; a text longer than this is held whole.
constexpr int64_t kWordsAtOnce = 256;

// Keeps, word by word, the largest value so far and the patch that has it.
SPARC_WIDE void keep_best(const float* row, int64_t count, int32_t patch, float* best, int32_t* where) {
  for (int64_t w = 0; w < count; ++w) {
    bool better = row[w] > best[w];
    best[w] = better ? row[w] : best[w];
    where[w] = better ? patch : where[w];
  }
}
SPARC_WIDE void keep_best(const double* row, int64_t count, int32_t patch, double* best, int32_t* where) {
  for (int64_t w = 0; w < count; ++w) {
    bool better = row[w] > best[w];
    best[w] = better ? row[w] : best[w];
    where[w] = better ? patch : where[w];
  }
}
SPARC_WIDE void scale(float* row, const float* by, float factor, int64_t count) {
  for (int64_t w = 0; w < count; ++w) row[w] *= factor * by[w];
}
SPARC_WIDE void scale(double* row, const double* by, double factor, int64_t count) {
  for (int64_t w = 0; w < count; ++w) row[w] *= factor * by[w];
}
SPARC_WIDE void add_scaled(float* to, const float* from, float factor, int64_t width) {
  for (int64_t d = 0; d < width; ++d) to[d] += factor * from[d];
}
SPARC_WIDE void add_scaled(double* to, const double* from, double factor, int64_t width) {
  for (int64_t d = 0; d < width; ++d) to[d] += factor * from[d];
}

// One over the length of every row; 0 for a vector too short to have a direction.
template <typename T>
std::vector<T> inverse_norms(const T* rows, int64_t count, int64_t width) {
  constexpr double kShortest = 1e-12;
  std::vector<T> result(count);
  at::parallel_for(0, count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double squared = 0;
      for (int64_t d = 0; d < width; ++d) squared += static_cast<double>(rows[i * width + d]) * rows[i * width + d];
      result[i] = squared <= kShortest * kShortest ? T(0) : static_cast<T>(1 / std::sqrt(squared));
    }
  });
  return result;
}

// From the gradient of unit rows to that of the rows themselves: what changes only their length is dropped.
template <typename T>
void through_normalization(T* gradients, const T* rows, const std::vector<T>& inverse, int64_t width) {
  at::parallel_for(0, static_cast<int64_t>(inverse.size()), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* gradient = gradients + i * width;
      const T* row = rows + i * width;
      double along = 0;
      for (int64_t d = 0; d < width; ++d) along += static_cast<double>(gradient[d]) * row[d];
      const T factor = static_cast<T>(along * inverse[i] * inverse[i]);
      for (int64_t d = 0; d < width; ++d) gradient[d] = inverse[i] * (gradient[d] - factor * row[d]);
    }
  });
}

void check_arguments(const Tensor& patches, const Tensor& words, const Tensor& starts) {
  TORCH_CHECK(patches.dim() == 3 && words.dim() == 2 && patches.size(2) == words.size(1) && patches.size(1) > 0,
              "patches must be [A, P, D] and words [W, D], got ", patches.sizes(), " and ", words.sizes());
  TORCH_CHECK(patches.device().is_cpu() && words.device().is_cpu() && starts.device().is_cpu(),
              "max_similarity works on the CPU");
  TORCH_CHECK(patches.scalar_type() == words.scalar_type(), "patches and words are of different kinds");
  TORCH_CHECK(starts.dim() == 1 && starts.size(0) > 0 && starts.scalar_type() == at::kLong && starts.is_contiguous(),
              "starts must be a contiguous list of 64-bit integers");
  const int64_t* start = starts.const_data_ptr<int64_t>();
  const int64_t n_texts = starts.size(0) - 1;
  TORCH_CHECK(start[0] == 0 && start[n_texts] == words.size(0), "starts must run from 0 to the number of words");
  for (int64_t c = 0; c < n_texts; ++c) TORCH_CHECK(start[c] <= start[c + 1], "starts must not fall");
  TORCH_CHECK(words.size(0) < std::numeric_limits<int32_t>::max() && patches.size(1) < std::numeric_limits<int32_t>::max(),
              "too many words or patches for 32-bit positions");
}

template <typename T>
void forward(const Tensor& patches, const Tensor& words, const int64_t* start, int64_t n_texts, Tensor& over_patches,
             Tensor& over_words, Tensor& best_word, Tensor& best_patch) {
  const int64_t n_images = patches.size(0), n_patches = patches.size(1), n_words = words.size(0);
  const int64_t width = words.size(1);
  const T* v = patches.const_data_ptr<T>();
  const T* t = words.const_data_ptr<T>();
  const std::vector<T> v_inverse = inverse_norms(v, n_images * n_patches, width);
  const std::vector<T> t_inverse = inverse_norms(t, n_words, width);
  at::parallel_for(0, n_images, 1, [&](int64_t begin, int64_t end) {
    int64_t capacity = kWordsAtOnce;
    for (int64_t c = 0; c < n_texts; ++c) capacity = std::max(capacity, start[c + 1] - start[c]);
    std::vector<T> sim(n_patches * capacity), best(capacity);
    for (int64_t i = begin; i < end; ++i) {
      const T* image = v + i * n_patches * width;
      T* patch_mean = over_patches.mutable_data_ptr<T>() + i * n_texts;
      T* word_mean = over_words.mutable_data_ptr<T>() + i * n_texts;
      int32_t* to_word = best_word.mutable_data_ptr<int32_t>() + i * n_texts * n_patches;
      int32_t* to_patch = best_patch.mutable_data_ptr<int32_t>() + i * n_words;
      for (int64_t first = 0; first < n_texts;) {
        int64_t last = first + 1;
        while (last < n_texts && start[last + 1] - start[first] <= capacity) ++last;
        const int64_t offset = start[first], count = start[last] - offset;
        if (count > 0) {
          sparc::gemm(false, true, n_patches, count, width, image, width, t + offset * width, width,
                      /*accumulate=*/false, sim.data(), count);
          T* row = sim.data();
          std::fill_n(best.begin(), count, -std::numeric_limits<T>::infinity());
          std::fill_n(to_patch + offset, count, 0);
          std::fill_n(patch_mean + first, last - first, T(0));
          for (int64_t p = 0; p < n_patches; ++p, row += count) {
            scale(row, t_inverse.data() + offset, v_inverse[i * n_patches + p], count);
            keep_best(row, count, static_cast<int32_t>(p), best.data(), to_patch + offset);
            for (int64_t c = first; c < last; ++c) {
              if (start[c] == start[c + 1]) continue;
              const T* from = row + (start[c] - offset);
              const T* top = std::max_element(from, from + (start[c + 1] - start[c]));
              to_word[c * n_patches + p] = static_cast<int32_t>(top - row + offset);
              patch_mean[c] += *top;
            }
          }
        }
        for (int64_t c = first; c < last; ++c) {
          const int64_t length = start[c + 1] - start[c];
          if (length == 0) {
            patch_mean[c] = word_mean[c] = T(0);
            continue;
          }
          T sum = 0;
          for (int64_t w = start[c]; w < start[c + 1]; ++w) sum += best[w - offset];
          word_mean[c] = sum / static_cast<T>(length);
          patch_mean[c] /= static_cast<T>(n_patches);
        }
        first = last;
      }
    }
  });
}

// Calls `pair(patch, word, factor)` for every maximum of image i and text c; either gradient may be null.
template <typename T, typename F>
void each_maximum(int64_t i, int64_t c, int64_t n_patches, int64_t n_words, int64_t n_texts, const int64_t* start,
                  const T* patch_gradient, const T* word_gradient, const int32_t* best_word, const int32_t* best_patch,
                  F&& pair) {
  const int64_t length = start[c + 1] - start[c];
  if (length == 0) return;
  if (patch_gradient != nullptr) {
    const T factor = patch_gradient[i * n_texts + c] / static_cast<T>(n_patches);
    const int32_t* to_word = best_word + (i * n_texts + c) * n_patches;
    for (int64_t p = 0; p < n_patches; ++p) pair(p, static_cast<int64_t>(to_word[p]), factor);
  }
  if (word_gradient != nullptr) {
    const T factor = word_gradient[i * n_texts + c] / static_cast<T>(length);
    const int32_t* to_patch = best_patch + i * n_words;
    for (int64_t w = start[c]; w < start[c + 1]; ++w) pair(static_cast<int64_t>(to_patch[w]), w, factor);
  }
}

template <typename T>
void backward(const Tensor& patches, const Tensor& words, const int64_t* start, int64_t n_texts,
              const Tensor& best_word, const Tensor& best_patch, const T* patch_gradient, const T* word_gradient,
              Tensor& d_patches, Tensor& d_words) {
  const int64_t n_images = patches.size(0), n_patches = patches.size(1), n_words = words.size(0);
  const int64_t width = words.size(1);
  const T* v = patches.const_data_ptr<T>();
  const T* t = words.const_data_ptr<T>();
  T* dv = d_patches.mutable_data_ptr<T>();
  T* dt = d_words.mutable_data_ptr<T>();
  const int32_t* to_word = best_word.const_data_ptr<int32_t>();
  const int32_t* to_patch = best_patch.const_data_ptr<int32_t>();
  const std::vector<T> v_inverse = inverse_norms(v, n_images * n_patches, width);
  const std::vector<T> t_inverse = inverse_norms(t, n_words, width);
  auto maxima = [&](int64_t i, int64_t c, auto&& pair) {
    each_maximum(i, c, n_patches, n_words, n_texts, start, patch_gradient, word_gradient, to_word, to_patch, pair);
  };
  // Each image, then each text, is one thread's own: sums have one order whatever the number of threads.
  at::parallel_for(0, n_images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t c = 0; c < n_texts; ++c) {
        maxima(i, c, [&](int64_t p, int64_t w, T factor) {
          add_scaled(dv + (i * n_patches + p) * width, t + w * width, factor * t_inverse[w], width);
        });
      }
    }
  });
  at::parallel_for(0, n_texts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t i = 0; i < n_images; ++i) {
        maxima(i, c, [&](int64_t p, int64_t w, T factor) {
          const int64_t row = i * n_patches + p;
          add_scaled(dt + w * width, v + row * width, factor * v_inverse[row], width);
        });
      }
    }
  });
  through_normalization(dv, v, v_inverse, width);
  through_normalization(dt, t, t_inverse, width);
}

}  // namespace

extern "C" {

// `words` holds the valid tokens of all texts, text c those from starts[c] to starts[c + 1].
char* sparc_max_similarity(const Tensor* patches, const Tensor* words, const Tensor* starts, Tensor** over_patches,
                           Tensor** over_words, Tensor** best_word, Tensor** best_patch) {
  return guarded([&] {
    check_arguments(*patches, *words, *starts);
    const Tensor v = patches->detach().contiguous(), t = words->detach().contiguous();
    const int64_t n_images = v.size(0), n_texts = starts->size(0) - 1;
    Tensor patch_means = at::empty({n_images, n_texts}, v.options());
    Tensor word_means = at::empty({n_images, n_texts}, v.options());
    Tensor to_word = at::zeros({n_images, n_texts, v.size(1)}, v.options().dtype(at::kInt));
    Tensor to_patch = at::zeros({n_images, t.size(0)}, v.options().dtype(at::kInt));
    AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "sparc_max_similarity", [&] {
      forward<scalar_t>(v, t, starts->const_data_ptr<int64_t>(), n_texts, patch_means, word_means, to_word, to_patch);
    });
    *over_patches = new Tensor(patch_means);
    *over_words = new Tensor(word_means);
    *best_word = new Tensor(to_word);
    *best_patch = new Tensor(to_patch);
  });
}

// Gradients of patches and words from those of the means; a null gradient counts as zero.
char* sparc_max_similarity_backward(const Tensor* patches, const Tensor* words, const Tensor* starts,
                                    const Tensor* best_word, const Tensor* best_patch, const Tensor* patch_gradient,
                                    const Tensor* word_gradient, Tensor** d_patches, Tensor** d_words) {
  return guarded([&] {
    check_arguments(*patches, *words, *starts);
    const Tensor v = patches->detach().contiguous(), t = words->detach().contiguous();
    const int64_t n_images = v.size(0), n_texts = starts->size(0) - 1;
    auto fits = [&](const Tensor& x, at::IntArrayRef sizes, at::ScalarType kind) {
      TORCH_CHECK(x.sizes() == sizes && x.scalar_type() == kind && x.is_contiguous() && x.device().is_cpu(),
                  "expected a contiguous tensor of ", sizes, ", got ", x.sizes());
    };
    fits(*best_word, {n_images, n_texts, v.size(1)}, at::kInt);
    fits(*best_patch, {n_images, t.size(0)}, at::kInt);
    Tensor patch_means, word_means;
    if (patch_gradient != nullptr) fits(patch_means = patch_gradient->contiguous(), {n_images, n_texts}, v.scalar_type());
    if (word_gradient != nullptr) fits(word_means = word_gradient->contiguous(), {n_images, n_texts}, v.scalar_type());
    Tensor dv = at::zeros(v.sizes(), v.options()), dt = at::zeros(t.sizes(), t.options());
    AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "sparc_max_similarity_backward", [&] {
      auto data = [](const Tensor& x) -> const scalar_t* { return x.defined() ? x.const_data_ptr<scalar_t>() : nullptr; };
      backward<scalar_t>(v, t, starts->const_data_ptr<int64_t>(), n_texts, *best_word, *best_patch, data(patch_means),
                         data(word_means), dv, dt);
    });
    *d_patches = new Tensor(dv);
    *d_words = new Tensor(dt);
  });
}

}  // extern "C"
