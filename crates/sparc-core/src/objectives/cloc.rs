//! CLOC: contrastive localized language-image pre-training (Chen et al. 2024, arXiv:2410.02746, section 3).
//!
//! An image is encoded once; its regions get embeddings z of their own, made from the image's features and a
//! box. Over all R regions of the global batch, with the unit embeddings t of their phrases:
//!
//! ```text
//! A_rq   = 1 if r = q, else 1[⟨t_r, t_q⟩ ≤ 0.9]                       (no gradient)
//! L_R→T  = −(1/R) Σ_r log( exp(s ⟨z_r, t_r⟩) / Σ_q A_rq exp(s ⟨z_r, t_q⟩) )
//! L_T→R  = −(1/R) Σ_r log( exp(s ⟨z_r, t_r⟩) / Σ_q A_qr exp(s ⟨z_q, t_r⟩) )
//! L_g    = (1/4R) Σ_r ‖l_r − Head(z(y_r))‖²
//! L      = L_CLIP + λ (½ (L_R→T + L_T→R) + L_g),   λ = λ_region · images with regions / images
//! ```
//!
//! The paper divides by the number of images times M, which is R where every image has M regions.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::clip::{self, ClipInputs};
use super::sparc::LocalTemperature;
use crate::contrast::{chunks, wants_gradient, with_gradients};
use crate::tensor_math::{at_least_f32, l2_normalize};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, m slots of an image, r local and q global valid
// regions, c rows of a chunk, d width; 4 are the corners x0, y0, x1, y1.

/// How a region gets its embedding; read by the network that owns the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionHead {
    /// The paper's: one transformer layer over the prompt and the image's features.
    Prompter(PrompterConfig),
    /// The paper's ablation: RoIAlign (7×7 bins, their mean) on the image's features and a projection. It
    /// takes no phrases, so that nothing is grounded.
    RoiAlign,
}

/// The Prompter. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrompterConfig {
    /// How a box becomes two tokens.
    pub box_encoding: BoxEncoding,
    /// Which output tokens make the embedding.
    pub readout: Readout,
}

/// How the two corners of a box become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxEncoding {
    /// Fixed sines and cosines of both coordinates (CLOC, table A).
    Sinusoidal,
    /// Random Fourier features and a learned vector for each corner's role (Segment Anything).
    Fourier,
}

/// Which output tokens of the Prompter's layer are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readout {
    /// All, those of the image included: the paper's "global average pooler", read literally.
    GapAll,
    /// Those of the prompt: the image's keys and values are made once for all of its prompts.
    PromptMean,
}

/// Configuration. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClocConfig {
    /// λ in a batch whose images all have regions; 1 in the paper.
    pub lambda_region: f64,
    /// Weight of L_g beside the regions' contrast, 1 in the paper; 0 leaves it out.
    pub lambda_grounding: f64,
    /// Largest cosine of two phrases that are contrasted, 0.9 in the paper; `null` contrasts all.
    pub text_filter: Option<f64>,
    /// Optimizer steps at the start without the filter: the phrases of a network without training are all alike.
    pub filter_warmup_steps: u64,
    /// Whether regions share the inverse temperature of the images, or have one of their own.
    pub temperature: LocalTemperature,
    /// How a region gets its embedding.
    pub region_head: RegionHead,
}

impl ClocConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.lambda_region.is_finite() && self.lambda_region > 0.0) {
            return Err(format!("lambda_region must be a finite number above 0, got {}", self.lambda_region));
        }
        if !(self.lambda_grounding.is_finite() && self.lambda_grounding >= 0.0) {
            return Err(format!(
                "lambda_grounding must be a finite number of at least 0, got {}",
                self.lambda_grounding
            ));
        }
        if self.region_head == RegionHead::RoiAlign && self.lambda_grounding > 0.0 {
            return Err("lambda_grounding must be 0 with region_head: roi_align, which takes no phrases".into());
        }
        match self.text_filter {
            Some(cosine) if !(-1.0..1.0).contains(&cosine) => {
                Err(format!("text_filter must lie in [-1, 1) or be null, got {cosine}"))
            }
            _ => Ok(()),
        }
    }

    /// The largest cosine of two phrases that are contrasted after so many optimizer steps.
    pub fn filter_after(&self, updates: u64) -> Option<f64> {
        self.text_filter.filter(|_| updates >= self.filter_warmup_steps)
    }
}

/// What the network must provide. Slots that hold no region may hold anything.
#[derive(Debug, Clone, Copy)]
pub struct ClocInputs<'a> {
    /// Pooled image embeddings, not normalised, `[B, D]` of `[N, D]`.
    pub image: Gathered<'a>,
    /// Pooled caption embeddings, not normalised, `[B, D]` of `[N, D]`.
    pub text: Gathered<'a>,
    /// Region embeddings, not normalised, `[B, M, D]` of `[N, M, D]`.
    pub regions: Gathered<'a>,
    /// Embeddings of the regions' phrases, not normalised, `[B, M, D]` of `[N, M, D]`.
    pub phrases: Gathered<'a>,
    /// True where a slot holds a region, `[B, M]` of `[N, M]`, `bool`.
    pub valid: Gathered<'a>,
    /// Boxes as the annotation has them and as they are predicted from the phrases, in `[0, 1]` of the network
    /// input; `None` leaves grounding out.
    pub grounding: Option<Grounding<'a>>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Inverse temperature of images and captions, a scalar.
    pub logit_scale: &'a Tensor,
    /// Inverse temperature of regions and phrases, a scalar (the same tensor when shared).
    pub region_logit_scale: &'a Tensor,
    /// Largest cosine of two phrases that are contrasted; `None` contrasts all.
    pub text_filter: Option<f64>,
}

/// Boxes of this process's regions.
#[derive(Debug, Clone, Copy)]
pub struct Grounding<'a> {
    /// l, `[B, M, 4]`.
    pub boxes_bm4: &'a Tensor,
    /// Head(z(y)), `[B, M, 4]`.
    pub predicted_bm4: &'a Tensor,
}

/// CLOC's loss, with the terms `contrastive` (CLIP's), `region` and `grounding`; the weights of the last two have λ
/// in them.
///
/// A global batch without regions has CLIP's value and gradients, bit for bit, and zero gradients elsewhere.
/// Diagnostics: CLIP's accuracies, `regions` (R), `region_share` (images with regions), `filtered_share` (pairs of
/// regions that the filter leaves out), `region_to_text_accuracy` and `text_to_region_accuracy` among the contrasted,
/// and `grounding_iou`, the mean over this process's regions.
///
/// # Panics
///
/// If shapes disagree.
pub fn cloc_loss(inputs: &ClocInputs, config: &ClocConfig) -> LossTerms {
    let (b, n) = check_shapes(inputs);
    let ClocInputs { image, text, row_offset, logit_scale, .. } = *inputs;
    let (contrastive, mut diagnostics) = clip::contrastive(&ClipInputs { image, text, row_offset, logit_scale });
    let mut terms = vec![LossTerm { name: "contrastive".into(), value: contrastive, weight: 1.0 }];

    let slots = Slots::new(inputs);
    let share = inputs.valid.global.any_dim(1, false).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    let lambda = config.lambda_region * share;
    // The mean over processes divides by their number, n / b.
    let weight = (n as f64 / b as f64) / slots.n_global.max(1) as f64;
    let (region, accuracies) = region_contrast(inputs, &slots, weight);
    terms.push(LossTerm { name: "region".into(), value: region, weight: lambda });
    let one = |value: f64| Tensor::from(value);
    diagnostics.extend([("regions", one(slots.n_global as f64)), ("region_share", one(share))]);
    diagnostics.extend(accuracies);
    if let Some(boxes) = &inputs.grounding {
        let (grounding, iou) = regression(boxes, &slots, weight);
        terms.push(LossTerm { name: "grounding".into(), value: grounding, weight: lambda * config.lambda_grounding });
        diagnostics.push(("grounding_iou", iou));
    }
    LossTerms::new(terms, diagnostics)
}

/// Which slots hold regions.
struct Slots {
    /// Flat indices of the local ones, `[R]`.
    local_r: Tensor,
    /// Flat indices of all of the global batch, `[Q]`.
    global_q: Tensor,
    /// Place of each local region among the global ones, `[R]`.
    place_r: Tensor,
    n_global: i64,
}

impl Slots {
    fn new(inputs: &ClocInputs) -> Slots {
        let indices = |valid: &Tensor| valid.reshape([-1]).nonzero().squeeze_dim(1);
        let (local_r, global_q) = (indices(inputs.valid.local), indices(inputs.valid.global));
        let m = inputs.valid.global.size()[1];
        let before = inputs.valid.global.reshape([-1]).narrow(0, 0, inputs.row_offset * m);
        let first = before.sum(Kind::Int64).int64_value(&[]);
        let n_local = local_r.size()[0];
        let place_r = Tensor::arange_start(first, first + n_local, (Kind::Int64, local_r.device()));
        let n_global = global_q.size()[0];
        Slots { local_r, global_q, place_r, n_global }
    }

    /// The regions' unit rows of `[…, M, D]`, local `[R, D]` and global `[Q, D]`.
    fn unit(&self, rows: Gathered) -> (Tensor, Tensor) {
        let pick = |rows: &Tensor, index: &Tensor| {
            let width = rows.size()[2];
            l2_normalize(&at_least_f32(rows).reshape([-1, width]).index_select(0, index))
        };
        (pick(rows.local, &self.local_r), pick(rows.global, &self.global_q))
    }
}

/// ½ (L_R→T + L_T→R) of the local regions, times R times `weight`.
fn region_contrast(inputs: &ClocInputs, slots: &Slots, weight: f64) -> (Tensor, Vec<(&'static str, Tensor)>) {
    let (regions_rd, regions_qd) = slots.unit(inputs.regions);
    let (phrases_rd, phrases_qd) = slots.unit(inputs.phrases);
    let scale = inputs.region_logit_scale.to_kind(regions_rd.kind());
    let (filter_rd, filter_qd) = (phrases_rd.detach(), phrases_qd.detach());
    let logits = |rows_rd: &Tensor, columns_qd: &Tensor| {
        let logits = FilteredLogits {
            rows_rd,
            columns_qd,
            filter: inputs.text_filter.map(|largest| (&filter_rd, &filter_qd, largest)),
            scale: &scale,
            place_r: &slots.place_r,
            weight: 0.5 * weight,
            rows_at_once: (LOGITS_AT_ONCE / slots.n_global.max(1)).max(1),
        };
        logits.contrast()
    };
    let over_texts = logits(&regions_rd, &phrases_qd);
    let over_regions = logits(&phrases_rd, &regions_qd);
    let diagnostics = vec![
        ("filtered_share", over_texts.filtered_share.shallow_clone()),
        ("region_to_text_accuracy", over_texts.accuracy.shallow_clone()),
        ("text_to_region_accuracy", over_regions.accuracy.shallow_clone()),
    ];
    let value = over_texts.with_gradients(&regions_rd, &phrases_qd, &scale)
        + over_regions.with_gradients(&phrases_rd, &regions_qd, &scale);
    (value, diagnostics)
}

/// Logits held at a time: 64 MiB in f32. At 131,072 regions they are contrasted 128 rows at a time.
const LOGITS_AT_ONCE: i64 = 1 << 24;

/// The matrix Z = s A Bᵀ of unit rows, without the pairs that the filter leaves out, never held whole. Row i's
/// partner is column `place_r[i]`.
struct FilteredLogits<'a> {
    rows_rd: &'a Tensor,
    columns_qd: &'a Tensor,
    /// Unit phrases of rows and columns, and the largest cosine that is contrasted.
    filter: Option<(&'a Tensor, &'a Tensor, f64)>,
    scale: &'a Tensor,
    place_r: &'a Tensor,
    /// What each cross-entropy is multiplied by.
    weight: f64,
    rows_at_once: i64,
}

/// Gradients are there if anything wants one.
struct Contrasted {
    value: Tensor,
    accuracy: Tensor,
    /// Share of the pairs of different regions that are left out.
    filtered_share: Tensor,
    gradients: Option<[Tensor; 3]>,
}

impl Contrasted {
    fn with_gradients(self, rows_rd: &Tensor, columns_qd: &Tensor, scale: &Tensor) -> Tensor {
        let Some([rows, columns, of_scale]) = self.gradients else { return self.value };
        with_gradients(self.value, [(rows_rd, Some(rows)), (columns_qd, Some(columns)), (scale, Some(of_scale))])
    }
}

impl FilteredLogits<'_> {
    /// The cross-entropies of all rows and, chunk by chunk, their gradients: ∂L/∂Z = softmax(Z) − I.
    fn contrast(&self) -> Contrasted {
        let wanted = wants_gradient([self.rows_rd, self.columns_qd, self.scale]);
        tch::no_grad(|| {
            let (r, q) = (self.rows_rd.size()[0], self.columns_qd.size()[0]);
            let zero = || Tensor::zeros([0i64; 0], (self.rows_rd.kind(), self.rows_rd.device()));
            let (mut value, mut hits, mut filtered) = (zero(), zero(), zero());
            let (mut columns_gradient, mut scale_gradient) = (self.columns_qd.zeros_like(), self.scale.zeros_like());
            let rows_gradient = self.rows_rd.zeros_like();
            for (start, size) in chunks(r, self.rows_at_once) {
                let rows_cd = self.rows_rd.narrow(0, start, size);
                let place_c1 = self.place_r.narrow(0, start, size).unsqueeze(1);
                let mut logits_cq = rows_cd.matmul(&self.columns_qd.tr()) * self.scale;
                if let Some(left_out_cq) = self.left_out(start, size, &place_c1) {
                    filtered += left_out_cq.sum(self.rows_rd.kind());
                    logits_cq = logits_cq.masked_fill(&left_out_cq, f64::NEG_INFINITY);
                }
                let lse_c1 = logits_cq.logsumexp([1i64].as_slice(), true);
                value += (&lse_c1 - logits_cq.gather(1, &place_c1, false)).sum(None::<Kind>);
                hits += logits_cq.argmax(1, true).eq_tensor(&place_c1).sum(self.rows_rd.kind());
                if wanted {
                    let minus = place_c1.ones_like().to_kind(self.rows_rd.kind()) * -1.0;
                    let gradient_cq = (logits_cq - lse_c1).exp().scatter_add_(1, &place_c1, &minus) * self.weight;
                    let pulled_cd = gradient_cq.matmul(self.columns_qd);
                    scale_gradient += (&pulled_cd * &rows_cd).sum(None::<Kind>);
                    rows_gradient.narrow(0, start, size).copy_(&(pulled_cd * self.scale));
                    columns_gradient += gradient_cq.tr().matmul(&rows_cd) * self.scale;
                }
            }
            Contrasted {
                value: value * self.weight,
                accuracy: hits / r.max(1) as f64,
                filtered_share: filtered / (r * (q - 1)).max(1) as f64,
                gradients: wanted.then_some([rows_gradient, columns_gradient, scale_gradient]),
            }
        })
    }

    /// True where a pair is left out, `[C, Q]`.
    fn left_out(&self, start: i64, size: i64, place_c1: &Tensor) -> Option<Tensor> {
        let (rows_rd, columns_qd, largest) = self.filter?;
        let cosine_cq = rows_rd.narrow(0, start, size).matmul(&columns_qd.tr());
        Some(cosine_cq.gt(largest).scatter_value(1, place_c1, 0))
    }
}

/// L_g of the local regions, times R times `weight`; and the mean IoU of their boxes.
fn regression(boxes: &Grounding, slots: &Slots, weight: f64) -> (Tensor, Tensor) {
    let pick = |boxes: &Tensor| at_least_f32(boxes).reshape([-1, 4]).index_select(0, &slots.local_r);
    let predicted_r4 = pick(boxes.predicted_bm4);
    let true_r4 = pick(boxes.boxes_bm4).to_kind(predicted_r4.kind());
    let value = (&predicted_r4 - &true_r4).square().sum(None::<Kind>) * (0.25 * weight);
    let iou = tch::no_grad(|| {
        let sum = box_ious(&predicted_r4.clamp(0.0, 1.0), &true_r4).sum(Kind::Double);
        sum / slots.local_r.size()[0].max(1) as f64
    });
    (value, iou)
}

/// Intersection over union of boxes, `[R]`; 0 where both are empty or the corners are exchanged.
fn box_ious(a_r4: &Tensor, b_r4: &Tensor) -> Tensor {
    let corner = |boxes: &Tensor, index: i64| boxes.select(1, index);
    let area = |x0: &Tensor, y0: &Tensor, x1: &Tensor, y1: &Tensor| (x1 - x0).clamp_min(0.0) * (y1 - y0).clamp_min(0.0);
    let of = |boxes: &Tensor| area(&corner(boxes, 0), &corner(boxes, 1), &corner(boxes, 2), &corner(boxes, 3));
    let low = |index: i64| corner(a_r4, index).maximum(&corner(b_r4, index));
    let high = |index: i64| corner(a_r4, index).minimum(&corner(b_r4, index));
    let both_r = area(&low(0), &low(1), &high(2), &high(3));
    let either_r = of(a_r4) + of(b_r4) - &both_r;
    let is_empty_r = either_r.le(0.0);
    both_r / either_r.masked_fill(&is_empty_r, 1.0)
}

/// Local and global batch, B and N.
fn check_shapes(inputs: &ClocInputs) -> (i64, i64) {
    let (b, n) = clip::check_pooled(inputs.image, inputs.text, inputs.row_offset);
    let regions = inputs.regions.local.size();
    assert!(regions.len() == 3 && regions[0] == b, "regions must be [{b}, M, D], got {regions:?}");
    assert!(
        inputs.phrases.local.size() == regions && inputs.phrases.global.size() == inputs.regions.global.size(),
        "regions are {regions:?} of {:?}, their phrases {:?} of {:?}",
        inputs.regions.global.size(),
        inputs.phrases.local.size(),
        inputs.phrases.global.size()
    );
    let valid = inputs.valid.local;
    assert!(
        valid.size() == regions[..2] && valid.kind() == Kind::Bool,
        "valid must be bool {:?}, got {:?} {:?}",
        &regions[..2],
        valid.kind(),
        valid.size()
    );
    for rows in [inputs.regions, inputs.phrases, inputs.valid] {
        let sizes = rows.check_rows(inputs.row_offset);
        assert!(sizes == (b, n), "{sizes:?} local and global rows of regions beside {:?} of images", (b, n));
    }
    if let Some(Grounding { boxes_bm4, predicted_bm4 }) = inputs.grounding {
        let expected = [b, regions[1], 4];
        assert!(
            boxes_bm4.size() == expected && predicted_bm4.size() == expected,
            "boxes must be {expected:?}, got {:?} and predicted {:?}",
            boxes_bm4.size(),
            predicted_bm4.size()
        );
    }
    (b, n)
}

#[cfg(test)]
#[path = "cloc_tests.rs"]
mod tests;
