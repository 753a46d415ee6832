// SPARC's fine-grained loss (Bica et al. 2024, arXiv:2401.09865, equations 2-6) as one operation: a
// forward pass and a backward pass derived by hand, parallel over samples.
//
// Letters: T tokens [n,D] (the valid ones of a sample), V patches [P,D], S = T V', A weights [n,P],
// C = A V, cos[j,k] = <C_j, T_k> / |C_j| |T_k|, Q = s cos. With r(x) = 1/|x|, or 0 for a zero vector:
//
//   loss[l] = (logsumexp_k Q[l,k] + logsumexp_j Q[j,l]) / 2 - Q[l,l]
//   dQ[j,k] = g[j] softmax_k(Q[j,:])[k] / 2 + g[k] softmax_j(Q[:,k])[j] / 2 - [j = k] g[j]
//   M[j,k]  = s dQ[j,k] r(C_j) r(T_k)                   the gradient of <C_j, T_k>
//   e_j     = r(C_j)^2 sum_k s dQ[j,k] cos[j,k]         dC = M T - diag(e) C
//   f_k     = r(T_k)^2 sum_j s dQ[j,k] cos[j,k]
//   dA      = dC V' = M S - diag(e) C V'                and through the weights dS
//   W       = M' A + dS
//   dT      = W V - diag(f) T
//   dV      = A' dC + dS' T = W' T - A' diag(e) C
//
// Padding is never read. Between the passes S, C, cos and vectors of one number per token are kept; each
// thread owns a workspace for one sample. Nothing is added up across threads, so results do not depend on
// how samples are shared out.

#include "border.h"
#include "gemm.h"
#include "rows.h"
#include "sparc_weights.h"
#include "workspace.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>

using at::Tensor;
using sparc::dot;
using sparc::gemm;
using sparc::Options;
using sparc::Rows;
using sparc::Weights;
using sparc::Workspace;
using sparc::WeightRow;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

namespace {

// Squared norms up to this count as zero, as in `l2_normalize` of sparc-core.
constexpr double kZeroSquaredNorm = 1e-24;

// Which tokens take part, sample after sample.
struct ValidTokens {
  std::vector<int64_t> position;    // in the caption
  std::vector<int64_t> start;       // of a sample in `position`; one more at the end
  std::vector<int64_t> pair_start;  // of a sample's n x n matrix; one more at the end
  int64_t longest = 0;

  explicit ValidTokens(const Tensor& mask_bl) {
    const bool* mask = mask_bl.const_data_ptr<bool>();
    start.push_back(0);
    pair_start.push_back(0);
    for (int64_t b = 0; b < mask_bl.size(0); ++b) {
      for (int64_t l = 0; l < mask_bl.size(1); ++l) {
        if (*mask++) position.push_back(l);
      }
      const int64_t n = static_cast<int64_t>(position.size()) - start.back();
      start.push_back(start.back() + n);
      pair_start.push_back(pair_start.back() + n * n);
      longest = std::max(longest, n);
    }
  }

  int64_t count(int64_t b) const { return start[b + 1] - start[b]; }
};

// What the backward pass needs beyond the inputs; flat arrays in the order of ValidTokens.
struct Saved {
  Tensor similarity;     // S, [tokens, P]
  Tensor grouped;        // C, [tokens, D]
  Tensor cosine;         // [sum of n^2]
  Tensor row_logsumexp;  // of Q along k, [tokens]
  Tensor column_logsumexp;
  Tensor inverse_token_norm;
  Tensor inverse_grouped_norm;

  Saved() = default;
  Saved(const ValidTokens& valid, int64_t patches, int64_t width, at::TensorOptions kind) {
    const int64_t tokens = valid.start.back();
    similarity = at::empty({tokens, patches}, kind);
    grouped = at::empty({tokens, width}, kind);
    cosine = at::empty({valid.pair_start.back()}, kind);
    for (Tensor* vector : {&row_logsumexp, &column_logsumexp, &inverse_token_norm, &inverse_grouped_norm}) {
      *vector = at::empty({tokens}, kind);
    }
  }
};

template <typename T>
T inverse_norm(const T* x, int64_t count) {
  const T squared = dot(x, x, count);
  return squared <= T(kZeroSquaredNorm) ? T(0) : T(1) / std::sqrt(squared);
}

template <typename T>
void scale_row(T factor, T* row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] *= factor;
}

// The inputs of both passes.
template <typename T>
struct Problem {
  const Options& options;
  const ValidTokens& valid;
  const Rows& patches;
  const Rows& tokens;
  int64_t length;  // L
  T scale;

  int64_t batch() const { return static_cast<int64_t>(valid.start.size()) - 1; }

  void gather(int64_t b, T* tokens_nd) const {
    for (int64_t i = 0; i < valid.count(b); ++i) {
      tokens.read(b, valid.position[valid.start[b] + i], tokens_nd + i * tokens.width);
    }
  }
};

// `losses`, `correct` and `kept` are [B, L] and hold zeros; `saved` is empty where nothing is differentiated.
template <typename T>
void forward(const Problem<T>& problem, const Saved& saved, T* losses, bool* correct, float* kept) {
  const Options& options = problem.options;
  const ValidTokens& valid = problem.valid;
  const Rows& patches = problem.patches;
  const T scale = problem.scale;
  const int64_t length = problem.length;
  const int64_t P = patches.count, D = patches.width, longest = valid.longest;
  const bool keep = saved.similarity.defined();
  at::parallel_for(0, problem.batch(), 1, [&](int64_t begin, int64_t end) {
    T *own_s, *own_grouped, *own_cosine, *own_vectors, *token, *weights, *wide, *column_max, *column_sum;
    Workspace<T> workspace{{&own_s, keep ? 0 : longest * P},
                           {&own_grouped, keep ? 0 : longest * D},
                           {&own_cosine, keep ? 0 : longest * longest},
                           {&own_vectors, keep ? 0 : 4 * longest},
                           {&token, longest * D},
                           {&weights, longest * P},
                           {&wide, patches.is<T>() ? 0 : P * D},
                           {&column_max, longest},
                           {&column_sum, longest}};
    for (int64_t b = begin; b < end; ++b) {
      const int64_t n = valid.count(b), start = valid.start[b];
      if (n == 0) continue;
      auto piece = [&](const Tensor& from, int64_t offset, T* own) {
        return keep ? from.mutable_data_ptr<T>() + offset : own;
      };
      T* s = piece(saved.similarity, start * P, own_s);
      T* grouped = piece(saved.grouped, start * D, own_grouped);
      T* cosine = piece(saved.cosine, valid.pair_start[b], own_cosine);
      T* row_logsumexp = piece(saved.row_logsumexp, start, own_vectors);
      T* column_logsumexp = piece(saved.column_logsumexp, start, own_vectors + longest);
      T* token_norm = piece(saved.inverse_token_norm, start, own_vectors + 2 * longest);
      T* grouped_norm = piece(saved.inverse_grouped_norm, start, own_vectors + 3 * longest);
      const int64_t* position = valid.position.data() + start;
      float* kept_l = kept + b * length;

      problem.gather(b, token);
      const auto [v, v_stride] = patches.matrix(b, wide);
      if (options.weights != Weights::none) gemm(false, true, n, P, D, token, D, v, v_stride, false, s, P);
      for (int64_t i = 0; i < n; ++i) {
        kept_l[position[i]] = static_cast<float>(WeightRow<T>().fill(options, s + i * P, P, weights + i * P));
      }
      gemm(false, false, n, D, P, weights, P, v, v_stride, false, grouped, D);
      if (options.weights != Weights::none) {
        gemm(false, true, n, n, P, weights, P, s, P, false, cosine, n);  // C T' = A (T V')', of shorter rows
      } else {
        gemm(false, true, n, n, D, grouped, D, token, D, false, cosine, n);
      }
      for (int64_t i = 0; i < n; ++i) {
        token_norm[i] = inverse_norm(token + i * D, D);
        grouped_norm[i] = inverse_norm(grouped + i * D, D);
      }

      std::fill(column_max, column_max + n, -std::numeric_limits<T>::infinity());
      std::fill(column_sum, column_sum + n, T(0));
      for (int64_t j = 0; j < n; ++j) {
        T* row = cosine + j * n;
        T row_max = -std::numeric_limits<T>::infinity();
        for (int64_t k = 0; k < n; ++k) {
          row[k] *= grouped_norm[j] * token_norm[k];
          const T logit = row[k] * scale;
          row_max = std::max(row_max, logit);
          column_max[k] = std::max(column_max[k], logit);
        }
        T sum = 0;
        bool first = true;  // argmax_k Q[j,k] = j, the first of equals
        for (int64_t k = 0; k < n; ++k) {
          const T logit = row[k] * scale, own = row[j] * scale;
          sum += std::exp(logit - row_max);
          first &= k < j ? logit < own : logit <= own;
        }
        row_logsumexp[j] = row_max + std::log(sum);
        correct[b * length + position[j]] = first;
      }
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t k = 0; k < n; ++k) column_sum[k] += std::exp(cosine[j * n + k] * scale - column_max[k]);
      }
      for (int64_t k = 0; k < n; ++k) {
        column_logsumexp[k] = column_max[k] + std::log(column_sum[k]);
        const T own = cosine[k * n + k] * scale;
        losses[b * length + position[k]] = ((row_logsumexp[k] - own) + (column_logsumexp[k] - own)) / 2;
      }
    }
  });
}

// `grad_losses` is [B, L]; `grad_patches` and `grad_tokens` (null where not wanted) are written, the latter
// at valid tokens only; returns the gradient of the scale.
template <typename T>
double backward(const Problem<T>& problem, const Saved& saved, const T* grad_losses, const Rows* grad_patches,
                const Rows* grad_tokens) {
  const Options& options = problem.options;
  const ValidTokens& valid = problem.valid;
  const Rows& patches = problem.patches;
  const T scale = problem.scale;
  const int64_t length = problem.length;
  const int64_t P = patches.count, D = patches.width, longest = valid.longest;
  const bool through_weights = options.gradient_through_weights() && (grad_patches || grad_tokens);
  std::vector<double> grad_scale(problem.batch(), 0.0);
  at::parallel_for(0, problem.batch(), 1, [&](int64_t begin, int64_t end) {
    // Both hold two matrices: dV = [W; -diag(e) A]' [T; C] is one product.
    T *weights, *vectors, *pairs, *row_total, *column_total, *grad_token, *wide, *narrow;
    Workspace<T> workspace{{&weights, 2 * longest * P},
                           {&vectors, 2 * longest * D},
                           {&pairs, longest * longest},
                           {&row_total, longest},
                           {&column_total, longest},
                           {&grad_token, grad_tokens == nullptr ? 0 : longest * D},
                           {&wide, patches.is<T>() ? 0 : P * D},
                           {&narrow, grad_patches == nullptr || grad_patches->is<T>() ? 0 : P * D}};
    std::vector<WeightRow<T>> rows(longest);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t n = valid.count(b), start = valid.start[b];
      if (n == 0) {
        if (grad_patches) grad_patches->zero(b);
        continue;
      }
      const T* s = saved.similarity.const_data_ptr<T>() + start * P;
      const T* cosine = saved.cosine.const_data_ptr<T>() + valid.pair_start[b];
      const T* row_logsumexp = saved.row_logsumexp.const_data_ptr<T>() + start;
      const T* column_logsumexp = saved.column_logsumexp.const_data_ptr<T>() + start;
      const T* token_norm = saved.inverse_token_norm.const_data_ptr<T>() + start;
      const T* grouped_norm = saved.inverse_grouped_norm.const_data_ptr<T>() + start;
      const int64_t* position = valid.position.data() + start;
      const T* g = grad_losses + b * length;

      std::fill(column_total, column_total + n, T(0));
      for (int64_t j = 0; j < n; ++j) {
        T row = 0;
        const T gj = g[position[j]];
        for (int64_t k = 0; k < n; ++k) {
          const T gk = g[position[k]], cos = cosine[j * n + k], logit = cos * scale;
          T dq = (gj * std::exp(logit - row_logsumexp[j]) + gk * std::exp(logit - column_logsumexp[k])) / 2;
          if (j == k) dq -= gj;
          grad_scale[b] += static_cast<double>(dq * cos);
          dq *= scale;
          row += dq * cos;
          column_total[k] += dq * cos;
          pairs[j * n + k] = dq * grouped_norm[j] * token_norm[k];
        }
        row_total[j] = row * grouped_norm[j] * grouped_norm[j];
      }
      for (int64_t k = 0; k < n; ++k) column_total[k] *= token_norm[k] * token_norm[k];
      if (!grad_patches && !grad_tokens) continue;

      T *mixed = weights, *aligned = weights + n * P;  // W (before that dA and dS) and A
      T *token = vectors, *grouped = vectors + n * D;
      problem.gather(b, token);
      const T* kept_grouped = saved.grouped.const_data_ptr<T>() + start * D;
      std::copy(kept_grouped, kept_grouped + n * D, grouped);
      const auto [v, v_stride] = patches.matrix(b, wide);
      for (int64_t i = 0; i < n; ++i) {
        rows[i] = WeightRow<T>();
        rows[i].fill(options, s + i * P, P, aligned + i * P);
      }
      if (through_weights) {
        gemm(false, true, n, P, D, grouped, D, v, v_stride, false, mixed, P);
        for (int64_t j = 0; j < n; ++j) scale_row(-row_total[j], mixed + j * P, P);
        gemm(false, false, n, P, n, pairs, n, s, P, true, mixed, P);
        for (int64_t i = 0; i < n; ++i) rows[i].backward(options, s + i * P, aligned + i * P, P, mixed + i * P);
      }
      gemm(true, false, n, P, n, pairs, n, aligned, P, through_weights, mixed, P);
      if (grad_tokens) {
        gemm(false, false, n, D, P, mixed, P, v, v_stride, false, grad_token, D);
        for (int64_t k = 0; k < n; ++k) {
          T* row = grad_token + k * D;
          for (int64_t d = 0; d < D; ++d) row[d] -= column_total[k] * token[k * D + d];
          grad_tokens->write(b, position[k], row);
        }
      }
      if (grad_patches) {
        for (int64_t j = 0; j < n; ++j) scale_row(-row_total[j], aligned + j * P, P);
        const auto [grad_v, grad_v_stride] = grad_patches->matrix_to_fill(b, narrow);
        gemm(true, false, P, D, 2 * n, weights, P, vectors, D, false, grad_v, grad_v_stride);
        if (grad_v == narrow) grad_patches->write_matrix(b, narrow);
      }
    }
  });
  double total = 0;
  for (double part : grad_scale) total += part;
  return total;
}

// Calls `body` with a value of the type to compute in.
template <typename F>
void dispatch(const Tensor& tokens, F&& body) {
  if (tokens.scalar_type() == at::kDouble) {
    body(double());
  } else {
    body(float());
  }
}

struct SparcLocalBackward : torch::autograd::Node {
  Options options;
  Saved saved;
  SavedVariable patches, tokens, mask, scale;

  variable_list apply(variable_list&& outer) override {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "sparc_local has no second derivative: run backward without create_graph");
    variable_list gradients(3);
    if (!outer[0].defined()) return gradients;
    const Tensor patches_bpd = patches.unpack(), tokens_bld = tokens.unpack(), scale_value = scale.unpack();
    const ValidTokens valid(mask.unpack());
    if (task_should_compute_output(0)) gradients[0] = at::empty(patches_bpd.sizes(), patches_bpd.options());
    if (task_should_compute_output(1)) gradients[1] = at::zeros(tokens_bld.sizes(), tokens_bld.options());
    const Rows patch_rows(patches_bpd), token_rows(tokens_bld);
    dispatch(tokens_bld, [&](auto zero) {
      using T = decltype(zero);
      const Tensor grad_losses = outer[0].to(c10::CppTypeToScalarType<T>::value).contiguous();
      const Problem<T> problem{options,    valid, patch_rows, token_rows, tokens_bld.size(1),
                               scale_value.to(at::kDouble).item<double>()};
      std::unique_ptr<Rows> grad_patches, grad_tokens;
      if (gradients[0].defined()) grad_patches = std::make_unique<Rows>(gradients[0]);
      if (gradients[1].defined()) grad_tokens = std::make_unique<Rows>(gradients[1]);
      const double of_scale =
          backward(problem, saved, grad_losses.template const_data_ptr<T>(), grad_patches.get(), grad_tokens.get());
      if (task_should_compute_output(2)) gradients[2] = at::full(scale_value.sizes(), of_scale, scale_value.options());
    });
    return gradients;
  }

  void release_variables() override {
    for (SavedVariable* variable : {&patches, &tokens, &mask, &scale}) variable->reset_data();
    saved = Saved();
  }

  std::string name() const override { return "SparcLocalBackward"; }
};

}  // namespace

extern "C" {

// Shapes, kinds and devices were checked by the caller. `results` receives the owned tensors loss, correct and kept.
char* sparc_sparc_local(const Tensor* patches, const Tensor* tokens, const Tensor* mask, const Tensor* scale,
                        int32_t weights, double sigma, bool detach_weights, double eps, Tensor** results) {
  return sparc::guarded_differentiable([&] {
    const Options options{static_cast<Weights>(weights), sigma, detach_weights, eps};
    const bool differentiated = torch::autograd::compute_requires_grad(*patches, *tokens, *scale);
    const Tensor mask_bl = mask->contiguous();
    Tensor loss, correct, kept;
    Saved saved;
    {
      c10::NoGradGuard no_grad;
      const Rows patch_rows(*patches), token_rows(*tokens);
      const ValidTokens valid(mask_bl);
      dispatch(*tokens, [&](auto zero) {
        using T = decltype(zero);
        const auto kind = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
        loss = at::zeros(mask_bl.sizes(), kind);
        correct = at::zeros(mask_bl.sizes(), at::kBool);
        kept = at::zeros(mask_bl.sizes(), at::kFloat);
        if (differentiated) saved = Saved(valid, patch_rows.count, patch_rows.width, kind);
        const Problem<T> problem{options,    valid, patch_rows, token_rows, tokens->size(1),
                                 scale->to(at::kDouble).item<double>()};
        forward(problem, saved, loss.mutable_data_ptr<T>(), correct.mutable_data_ptr<bool>(),
                kept.mutable_data_ptr<float>());
      });
    }
    if (differentiated) {
      auto node = std::shared_ptr<SparcLocalBackward>(new SparcLocalBackward(), torch::autograd::deleteNode);
      node->set_next_edges(torch::autograd::collect_next_edges(*patches, *tokens, *scale));
      node->options = options;
      node->saved = std::move(saved);
      node->patches = SavedVariable(*patches, false);
      node->tokens = SavedVariable(*tokens, false);
      node->mask = SavedVariable(mask_bl, false);
      node->scale = SavedVariable(*scale, false);
      torch::autograd::set_history(loss, node);
    }
    results[0] = new Tensor(std::move(loss));
    results[1] = new Tensor(std::move(correct));
    results[2] = new Tensor(std::move(kept));
  });
}

}  // extern "C"
