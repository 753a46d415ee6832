//! SPARC's fine-grained loss as one operation with a hand-derived backward pass (CPU).
#![expect(unsafe_code, reason = "calls into the C++ bridge")]

use tch::{Device, Kind, Tensor};

use crate::bridge::{Error, check, describe, sparc_sparc_local};

/// How similarities become alignment weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparcLocalWeights {
    /// Min-max along the patches.
    Minmax,
    /// Softmax along the patches.
    Softmax,
    /// Every patch weighs 1/P.
    None,
}

/// The fine-grained loss of SPARC (Bica et al. 2024, arXiv:2401.09865, equations 2–6), token by token.
///
/// For tokens t, patches v and a scale s of one caption: similarities S = ⟨t, v⟩ become weights A along
/// the patches, weights below σ are dropped and the rest divided by their sum, c = A v, and a token's loss
/// is the mean of its two cross-entropies among the logits s ⟨c/|c|, t/|t|⟩ of the caption.
///
/// The C++ (`cpp/sparc_local.cpp`) runs samples in parallel on LibTorch's threads, works on valid tokens
/// alone and keeps S and c between the passes instead of a graph; its results do not depend on how the
/// samples are shared out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparcLocal {
    /// How similarities become weights.
    pub weights: SparcLocalWeights,
    /// σ; a weight equal to it is kept.
    pub sigma: f64,
    /// Whether gradients stop at the weights.
    pub detach_weights: bool,
    /// A token whose similarities all lie within this share of their largest magnitude is grouped with all
    /// patches equally, and so is one whose weights are all dropped; no gradient flows through such weights.
    pub eps: f64,
}

/// What [`SparcLocal::apply`] returns, all `[B, L]` and 0 at padding.
#[derive(Debug)]
pub struct SparcLocalTokens {
    /// Loss of every token, differentiable, in f32 (f64 for f64 inputs).
    pub loss_bl: Tensor,
    /// Whether a token's own group is its nearest (the first of equals), `bool`.
    pub correct_bl: Tensor,
    /// Number of patches with a positive weight, f32.
    pub kept_bl: Tensor,
}

impl SparcLocal {
    /// Whether [`Self::apply`] takes these inputs: what it would say of their device, kinds and shapes.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`].
    pub fn check(
        patches_bpd: &Tensor,
        tokens_bld: &Tensor,
        mask_bl: &Tensor,
        logit_scale: &Tensor,
    ) -> Result<(), Error> {
        let (patches, tokens) = (patches_bpd.size(), tokens_bld.size());
        for (what, tensor) in
            [("patches", patches_bpd), ("tokens", tokens_bld), ("mask", mask_bl), ("scale", logit_scale)]
        {
            if tensor.device() != Device::Cpu || tensor.is_sparse() || tensor.is_mkldnn() {
                return Err(Error::tensor(what, "a strided tensor on the CPU", tensor));
            }
        }
        if patches.len() != 3 || patches[1] == 0 || accumulation_kind(patches_bpd.kind()).is_none() {
            return Err(Error::tensor("patches", "floats [B, P, D] with P > 0", patches_bpd));
        }
        if tokens.len() != 3 || tokens[0] != patches[0] || tokens[2] != patches[2] {
            return Err(Error::tensor("tokens", format!("[B, L, D] to patches {patches:?}"), tokens_bld));
        }
        if accumulation_kind(tokens_bld.kind()) != accumulation_kind(patches_bpd.kind()) {
            return Err(Error::tensor(
                "tokens",
                format!("the precision of patches, {}", describe(patches_bpd)),
                tokens_bld,
            ));
        }
        if mask_bl.kind() != Kind::Bool || mask_bl.size() != tokens[..2] {
            return Err(Error::tensor("mask", format!("Bool {:?}", &tokens[..2]), mask_bl));
        }
        if logit_scale.numel() != 1 || accumulation_kind(logit_scale.kind()).is_none() {
            return Err(Error::tensor("scale", "one float", logit_scale));
        }
        Ok(())
    }

    /// Token losses, differentiable in `patches_bpd`, `tokens_bld` and `logit_scale`.
    ///
    /// Computed in f32, or f64 where embeddings are f64; gradients have the kinds of the inputs. What padding
    /// holds, NaN too, does not matter, and its gradient is 0.
    ///
    /// # Shapes
    ///
    /// `patches_bpd` `[B, P, D]`, `tokens_bld` `[B, L, D]`, `mask_bl` `[B, L]` (`bool`, true for tokens that take
    /// part), `logit_scale` one number. Any strides; what is not dense along D is copied first.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit; kinds other than f64 (both embeddings then), f32, bf16 and f16; tensors that are
    /// not on the CPU. The backward pass fails, as tch reports it, under `create_graph` (there is no second
    /// derivative), when run twice without keeping the graph, and when an input was changed in place.
    pub fn apply(
        &self,
        patches_bpd: &Tensor,
        tokens_bld: &Tensor,
        mask_bl: &Tensor,
        logit_scale: &Tensor,
    ) -> Result<SparcLocalTokens, Error> {
        Self::check(patches_bpd, tokens_bld, mask_bl, logit_scale)?;
        // The order of `enum class Weights` in C++.
        let weights = match self.weights {
            SparcLocalWeights::Minmax => 0,
            SparcLocalWeights::Softmax => 1,
            SparcLocalWeights::None => 2,
        };
        let mut results = [std::ptr::null_mut(); 3];
        // SAFETY: the four tensors are valid, outlive the call and were checked as the bridge demands; on
        // success it has written three new, owned tensors to `results`.
        unsafe {
            check(sparc_sparc_local(
                patches_bpd.as_ptr().cast_mut(),
                tokens_bld.as_ptr().cast_mut(),
                mask_bl.as_ptr().cast_mut(),
                logit_scale.as_ptr().cast_mut(),
                weights,
                self.sigma,
                self.detach_weights,
                self.eps,
                results.as_mut_ptr(),
            ))?;
            let [loss_bl, correct_bl, kept_bl] = results.map(|result| Tensor::from_ptr(result));
            Ok(SparcLocalTokens { loss_bl, correct_bl, kept_bl })
        }
    }
}

/// The kind that sums over values of this kind are made in.
fn accumulation_kind(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::Double => Some(Kind::Double),
        Kind::Float | Kind::BFloat16 | Kind::Half => Some(Kind::Float),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values and gradients are compared with a composition of tch operations, and with numbers, in sparc-core.

    const LOSS: SparcLocal =
        SparcLocal { weights: SparcLocalWeights::Minmax, sigma: 0.25, detach_weights: false, eps: 1e-6 };

    fn floats(shape: &[i64]) -> Tensor {
        Tensor::ones(shape, tch::kind::FLOAT_CPU)
    }

    #[test]
    fn equal_tokens_cost_the_logarithm_of_their_number() {
        let mask = Tensor::from_slice(&[true, true, false]).unsqueeze(0);
        let tokens = LOSS.apply(&floats(&[1, 4, 2]), &floats(&[1, 3, 2]), &mask, &Tensor::from(10.0f32)).unwrap();
        let row = |x: &Tensor| Vec::<f64>::try_from(x.to_kind(Kind::Double).reshape([-1])).unwrap();
        for (actual, expected) in row(&tokens.loss_bl).into_iter().zip([2.0f64.ln(), 2.0f64.ln(), 0.0]) {
            assert!((actual - expected).abs() < 1e-6);
        }
        assert_eq!(row(&tokens.correct_bl), [1.0, 0.0, 0.0]);
        assert_eq!(row(&tokens.kept_bl), [4.0, 4.0, 0.0]);
    }

    #[test]
    fn nothing_is_too_small() {
        for [b, l, p, d] in [[0, 3, 4, 2], [2, 0, 4, 2], [2, 3, 1, 0]] {
            let (patches, tokens) = (floats(&[b, p, d]).set_requires_grad(true), floats(&[b, l, d]));
            let mask = Tensor::ones([b, l], (Kind::Bool, Device::Cpu));
            let result = LOSS.apply(&patches, &tokens, &mask, &Tensor::from(1.0f32)).unwrap();
            assert_eq!(result.loss_bl.size(), [b, l]);
            result.loss_bl.sum(Kind::Float).backward();
            assert_eq!(patches.grad().size(), [b, p, d]);
        }
    }

    #[test]
    fn misfits_are_named() {
        let (patches, tokens, scale) = (floats(&[2, 4, 5]), floats(&[2, 3, 5]), Tensor::from(1.0f32));
        let mask = floats(&[2, 3]).to_kind(Kind::Bool);
        let message = |patches: &Tensor, tokens: &Tensor, mask: &Tensor, scale: &Tensor| {
            LOSS.apply(patches, tokens, mask, scale).unwrap_err().to_string()
        };
        assert_eq!(
            message(&patches, &tokens, &floats(&[2, 3]), &scale),
            "mask: expected Bool [2, 3], got Float [2, 3] on Cpu"
        );
        assert_eq!(
            message(&patches, &floats(&[2, 3, 6]), &mask, &scale),
            "tokens: expected [B, L, D] to patches [2, 4, 5], got Float [2, 3, 6] on Cpu"
        );
        assert!(message(&floats(&[2, 0, 5]), &tokens, &mask, &scale).starts_with("patches: expected floats"));
        assert!(message(&patches, &tokens.to_kind(Kind::Double), &mask, &scale).contains("the precision of patches"));
        assert!(message(&patches, &tokens, &mask, &floats(&[2])).starts_with("scale: expected one float"));
        let sparse = Tensor::zeros([2, 4, 5], (Kind::Float, Device::Cpu)).to_sparse_sparse_dim(3);
        assert!(message(&sparse, &tokens, &mask, &scale).contains("strided tensor on the CPU"));
    }
}
