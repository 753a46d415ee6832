//! FILIP: token-wise maximum similarity (Yao et al. 2022, arXiv:2111.07783, equations 3–5).
//!
//! With unit patches v̂ and tokens t̂:
//!
//! ```text
//! I_ij = (1/P)   Σ_p max_{l valid in j} ⟨v̂_ip, t̂_jl⟩
//! T_ji = (1/L_j) Σ_{l valid in j} max_p ⟨t̂_jl, v̂_ip⟩
//! L    = ½ (CE(s I) over texts + CE(s T) over images)
//! ```
//!
//! I is not the transpose of T. The gradient needs only the positions of the maxima: one pair of vectors
//! each, where products of all with all would cost P or L times as much.

use serde::{Deserialize, Serialize};
use sparc_torch::MaxSimilarity;
use tch::{Kind, Reduction, Tensor};

use super::sparc::LocalTemperature;
use crate::contrast::pairwise::{self, Pairs, block_of};
use crate::contrast::{Rows, chunks, wants_gradient, with_gradients};
use crate::tensor_math::{at_least_f32, check_tokens, l2_normalize, without_padding};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, a images and c texts, l tokens, p patches,
// k kept patches, w words of all texts, d width.

/// Configuration. Every field is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilipConfig {
    /// Share of each sample's patches and tokens that take part, in (0, 1]: those most similar to anything
    /// in this process's batch. The paper keeps 0.25, SPARC's comparison 0.2 (by its cost table); 1 keeps all.
    pub keep_tokens: f64,
    /// Whether the network's inverse temperature is used, or one of FILIP's own.
    pub temperature: LocalTemperature,
}

impl FilipConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.keep_tokens > 0.0 && self.keep_tokens <= 1.0) {
            return Err(format!("keep_tokens must lie in (0, 1], got {}", self.keep_tokens));
        }
        Ok(())
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct FilipInputs<'a> {
    /// Patch embeddings, not normalised, `[B, P, D]` of `[N, P, D]`.
    pub patches: Gathered<'a>,
    /// Token embeddings, not normalised, `[B, L, D]` of `[N, L, D]`.
    pub tokens: Gathered<'a>,
    /// True for the tokens that take part, `[B, L]` of `[N, L]`, `bool`.
    pub mask: Gathered<'a>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Inverse temperature s, a scalar.
    pub logit_scale: &'a Tensor,
}

/// FILIP's loss, with one term, `alignment`. Diagnostics: the accuracies inside the batch.
///
/// A caption without tokens has similarity 0 with every image. On the CPU the gradient follows the
/// positions of the maxima; elsewhere blocks of pairs are recomputed with LibTorch's own operations.
///
/// # Panics
///
/// If shapes disagree.
pub fn filip_loss(inputs: &FilipInputs) -> LossTerms {
    let (n_patches, length) = check_shapes(inputs);
    if !MaxSimilarity::takes(&at_least_f32(inputs.patches.local)) {
        let n_texts = inputs.mask.global.size()[0];
        return by_blocks(inputs, block_of(SIMILARITIES_AT_ONCE, n_patches * length, n_texts));
    }
    by_maxima(inputs)
}

/// Token-patch similarities held at a time, where blocks are used: 16 MiB in f32.
const SIMILARITIES_AT_ONCE: i64 = 1 << 22;

fn by_maxima(inputs: &FilipInputs) -> LossTerms {
    let patches = Rows::map(inputs.patches, at_least_f32);
    let words = Rows::map_both(inputs.tokens, inputs.mask, |tokens, mask| words_of(&at_least_f32(tokens), mask));
    let scale = inputs.logit_scale.to_kind(patches.local.kind());
    let (offset, b) = (inputs.row_offset, inputs.patches.local.size()[0]);
    let labels = Tensor::arange_start(offset, offset + b, (Kind::Int64, patches.local.device()));
    let (patches, words) = (patches.gathered(), words.gathered());
    let (value, accuracies) = if inputs.patches.global.size()[0] == b {
        let starts = starts(inputs.mask.local);
        Maxima { patches: patches.local, words: words.local, starts, scale: &scale, labels: &labels }
            .contrast(true, true)
    } else {
        let rows = Maxima {
            patches: patches.local,
            words: words.global,
            starts: starts(inputs.mask.global),
            scale: &scale,
            labels: &labels,
        };
        let columns = Maxima {
            patches: patches.global,
            words: words.local,
            starts: starts(inputs.mask.local),
            scale: &scale,
            labels: &labels,
        };
        let ((over_texts, mut accuracies), (over_images, more)) =
            (rows.contrast(true, false), columns.contrast(false, true));
        accuracies.extend(more);
        (over_texts + over_images, accuracies)
    };
    LossTerms::new(vec![LossTerm { name: "alignment".into(), value, weight: 1.0 }], accuracies)
}

/// The valid tokens of all texts, one after the other, `[W, D]`.
fn words_of(tokens_cld: &Tensor, mask_cl: &Tensor) -> Tensor {
    let valid_w = mask_cl.reshape([-1]).nonzero().squeeze_dim(1);
    tokens_cld.reshape([-1, tokens_cld.size()[2]]).index_select(0, &valid_w)
}

/// Where each text's words begin, and their number at the end.
fn starts(mask_cl: &Tensor) -> Vec<i64> {
    let counts = mask_cl.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
    let counts = Vec::<i64>::try_from(&counts).expect("a list of counts");
    std::iter::once(0)
        .chain(counts.into_iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        }))
        .collect()
}

/// Images and texts whose maxima make logits.
struct Maxima<'a> {
    patches: &'a Tensor,
    words: &'a Tensor,
    starts: Vec<i64>,
    scale: &'a Tensor,
    labels: &'a Tensor,
}

impl Maxima<'_> {
    /// ½ CE(s I) over texts and ½ CE(s T) over images, as asked for, added.
    fn contrast(&self, over_texts: bool, over_images: bool) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let wanted = wants_gradient([self.patches, self.words, self.scale]);
        let similarity = MaxSimilarity::new(self.patches, self.words, &self.starts).expect("shapes were checked");
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(wanted);
        let (image_ac, text_ac, scale) =
            (leaf(&similarity.over_patches_ac), leaf(&similarity.over_words_ac), leaf(self.scale));
        let mut value: Option<Tensor> = None;
        let mut accuracies = Vec::new();
        for (name, logits, asked) in [
            ("image_to_text_accuracy", &image_ac * &scale, over_texts),
            ("text_to_image_accuracy", text_ac.tr() * &scale, over_images),
        ] {
            if asked {
                accuracies.push((name, logits.detach().argmax(1, false).eq_tensor(self.labels).mean(Kind::Float)));
                let loss = logits.cross_entropy_loss::<Tensor>(self.labels, None, Reduction::Mean, -100, 0.0) * 0.5;
                value = Some(value.map_or_else(|| loss.shallow_clone(), |value| value + &loss));
            }
        }
        let value = value.expect("a contrast has a direction");
        if !wanted {
            return (value, accuracies);
        }
        let gradients = sparc_torch::vjp(&[&value], &[&image_ac, &text_ac, &scale], &[&value.ones_like()]);
        let [image_ac, text_ac, scale] =
            <[_; 3]>::try_from(gradients.expect("the graph is there")).expect("one a leaf");
        let (patches, words) =
            similarity.backward(image_ac.as_ref(), text_ac.as_ref()).expect("gradients have the means' shapes");
        let inputs = [(self.patches, Some(patches)), (self.words, Some(words)), (self.scale, scale)];
        (with_gradients(value.detach(), inputs), accuracies)
    }
}

/// The same by LibTorch's own operations, for devices that the kernel does not know.
fn by_blocks(inputs: &FilipInputs, block: (i64, i64)) -> LossTerms {
    let patches = Rows::map(inputs.patches, |patches| l2_normalize(&at_least_f32(patches)));
    let tokens = Rows::map_both(inputs.tokens, inputs.mask, |tokens_bld, mask_bl| {
        l2_normalize(&without_padding(&at_least_f32(tokens_bld), mask_bl))
    });
    let scale = inputs.logit_scale.to_kind(patches.local.kind());
    let pairs = Pairs {
        images: &[patches.gathered()],
        texts: &[tokens.gathered(), inputs.mask],
        parameters: &[&scale],
        row_offset: inputs.row_offset,
        block,
        weight: 0.5,
    };
    let contrast = pairwise::contrast_each(
        &pairs,
        &|images, texts, scale| mean_over_patches(&similarities(&images[0], &texts[0]), &texts[1]) * &scale[0],
        &|images, texts, scale| mean_over_words(&similarities(&images[0], &texts[0]), &texts[1]) * &scale[0],
    );
    LossTerms::new(
        vec![LossTerm { name: "alignment".into(), value: contrast.value, weight: 1.0 }],
        vec![
            ("image_to_text_accuracy", contrast.image_to_text_accuracy),
            ("text_to_image_accuracy", contrast.text_to_image_accuracy),
        ],
    )
}

fn similarities(patches_apd: &Tensor, tokens_cld: &Tensor) -> Tensor {
    let (patches, tokens) = (patches_apd.size(), tokens_cld.size());
    let sim = patches_apd.reshape([-1, patches[2]]).matmul(&tokens_cld.reshape([-1, tokens[2]]).tr());
    sim.view([patches[0], patches[1], tokens[0], tokens[1]])
}

/// I of all pairs, `[A, C]`.
fn mean_over_patches(sim_apcl: &Tensor, mask_cl: &Tensor) -> Tensor {
    let is_empty_c = mask_cl.any_dim(1, false).logical_not();
    over_words(sim_apcl, mask_cl).mean_dim([1i64].as_slice(), false, None::<Kind>).masked_fill(&is_empty_c, 0.0)
}

/// Tᵀ of all pairs, `[A, C]`.
fn mean_over_words(sim_apcl: &Tensor, mask_cl: &Tensor) -> Tensor {
    let best_acl = sim_apcl.amax([1i64].as_slice(), false).masked_fill(&mask_cl.logical_not(), 0.0);
    let count_c = mask_cl.sum_dim_intlist([1i64].as_slice(), false, best_acl.kind()).clamp_min(1.0);
    best_acl.sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>) / count_c
}

fn over_words(sim_apcl: &Tensor, mask_cl: &Tensor) -> Tensor {
    // No cosine is below −1: a padded token never is the maximum.
    sim_apcl.masked_fill(&mask_cl.logical_not(), -2.0).amax([-1i64].as_slice(), false)
}

/// I and the transpose of T for all pairs, `[A, C]` each, without the temperature and without gradients.
///
/// # Shapes
///
/// `patches_apd` `[A, P, D]`, `tokens_cld` `[C, L, D]`, `mask_cl` `[C, L]` `bool`.
///
/// # Panics
///
/// If shapes disagree.
pub fn scores(patches_apd: &Tensor, tokens_cld: &Tensor, mask_cl: &Tensor) -> (Tensor, Tensor) {
    let patches_apd = at_least_f32(patches_apd);
    if patches_apd.size()[0] == 0 || mask_cl.numel() == 0 {
        let none = patches_apd
            .new_zeros([patches_apd.size()[0], mask_cl.size()[0]], (patches_apd.kind(), patches_apd.device()));
        return (none.shallow_clone(), none);
    }
    if MaxSimilarity::takes(&patches_apd) {
        let words_wd = words_of(&at_least_f32(tokens_cld), mask_cl);
        let similarity = MaxSimilarity::new(&patches_apd, &words_wd, &starts(mask_cl)).expect("shapes agree");
        return (similarity.over_patches_ac, similarity.over_words_ac);
    }
    let patches_apd = l2_normalize(&patches_apd);
    let tokens_cld = l2_normalize(&without_padding(&at_least_f32(tokens_cld), mask_cl));
    let (a, p, _) = patches_apd.size3().expect("patches are [A, P, D]");
    let (c, l) = mask_cl.size2().expect("the mask is [C, L]");
    let rows = |(start, size)| {
        let sim_apcl = similarities(&patches_apd.narrow(0, start, size), &tokens_cld);
        (mean_over_patches(&sim_apcl, mask_cl), mean_over_words(&sim_apcl, mask_cl))
    };
    let (image, text): (Vec<Tensor>, Vec<Tensor>) =
        chunks(a, SIMILARITIES_AT_ONCE / (p * c * l).max(1)).map(rows).unzip();
    (Tensor::cat(&image, 0), Tensor::cat(&text, 0))
}

/// The patches and tokens of each sample that take part.
#[derive(Debug)]
pub struct Kept {
    /// The kept patches in their order, `[B, K, D]` with K = ⌈keep · P⌉.
    pub patches_bkd: Tensor,
    /// True for the kept tokens, `[B, L]`, `bool`: ⌈keep · L_j⌉ of the valid ones.
    pub mask_bl: Tensor,
}

/// Keeps a share of each sample's patches and tokens: those whose largest cosine with any token or patch of
/// this process's batch is largest (FILIP, section 3.2). Called before anything is gathered.
///
/// # Panics
///
/// If shapes disagree.
pub fn keep_tokens(patches_bpd: &Tensor, tokens_bld: &Tensor, mask_bl: &Tensor, keep: f64) -> Kept {
    if keep >= 1.0 {
        return Kept { patches_bkd: patches_bpd.shallow_clone(), mask_bl: mask_bl.shallow_clone() };
    }
    check_tokens(patches_bpd, tokens_bld, mask_bl);
    let (b, p, d) = patches_bpd.size3().expect("patches are [B, P, D]");
    let kept_patches = (keep * p as f64).ceil() as i64;
    let (chosen_bk, mask_bl) = tch::no_grad(|| {
        let (patch_bp, token_bl) = largest_cosines(patches_bpd, tokens_bld, mask_bl);
        let (_, chosen_bk) = patch_bp.topk(kept_patches, 1, true, true);
        let rank_bl = token_bl.argsort(1, true).argsort(1, false);
        let count_b1 = (mask_bl.sum_dim_intlist([1i64].as_slice(), true, Kind::Double) * keep).ceil();
        let mask_bl = mask_bl.logical_and(&rank_bl.lt_tensor(&count_b1));
        (chosen_bk.sort(1, false).0, mask_bl)
    });
    let index_bkd = chosen_bk.unsqueeze(-1).expand([b, kept_patches, d], false);
    Kept { patches_bkd: patches_bpd.gather(1, &index_bkd, false), mask_bl }
}

/// For every patch its largest cosine with a token of the batch, `[B, P]`, and for every token with a
/// patch, `[B, L]` (−2 at padding).
fn largest_cosines(patches_bpd: &Tensor, tokens_bld: &Tensor, mask_bl: &Tensor) -> (Tensor, Tensor) {
    let patches_bpd = l2_normalize(&at_least_f32(patches_bpd));
    let tokens_bld = l2_normalize(&without_padding(&at_least_f32(tokens_bld), mask_bl));
    let (b, l, _) = tokens_bld.size3().expect("tokens are [B, L, D]");
    let p = patches_bpd.size()[1];
    let mut token_bl = tokens_bld.new_full([b, l], -2.0, (tokens_bld.kind(), tokens_bld.device()));
    let mut patch = Vec::new();
    for (start, size) in chunks(b, SIMILARITIES_AT_ONCE / (p * b * l).max(1)) {
        let sim_apbl = similarities(&patches_bpd.narrow(0, start, size), &tokens_bld);
        patch.push(over_words(&sim_apbl, mask_bl).amax([-1i64].as_slice(), false));
        token_bl = token_bl.maximum(&sim_apbl.amax([0i64, 1].as_slice(), false));
    }
    (Tensor::cat(&patch, 0), token_bl.masked_fill(&mask_bl.logical_not(), -2.0))
}

/// P and L, at least 1.
fn check_shapes(inputs: &FilipInputs) -> (i64, i64) {
    check_tokens(inputs.patches.local, inputs.tokens.local, inputs.mask.local);
    let (patches, tokens) = (inputs.patches.local.size(), inputs.tokens.local.size());
    assert!(patches[1] > 0 && tokens[1] > 0, "nothing to compare: {patches:?} and {tokens:?}");
    for rows in [inputs.patches, inputs.tokens, inputs.mask] {
        rows.check_rows(inputs.row_offset);
    }
    (patches[1], tokens[1])
}

#[cfg(test)]
#[path = "filip_tests.rs"]
mod tests;
