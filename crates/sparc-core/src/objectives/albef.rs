//! ALBEF: align before fuse (Li et al. 2021, arXiv:2107.07651).
//!
//! Contrast with queues (ITC), matching (ITM) and masked language modelling (MLM). With unit embeddings f, those of
//! the momentum encoders f′, inverse temperature s, and keys K = [f′ of the batch; queue]:
//!
//! `q = α softmax(s ⟨f′, K⟩) + (1 − α) onehot`, `L_itc = ½ mean_b (H(q_I, softmax(s ⟨f_I, K_T⟩)) + H(q_T, softmax(s ⟨f_T, K_I⟩)))`;
//! `L_itm` = cross-entropy of match against no match over B pairs and 2B hard negatives;
//! `L_mlm = (1 − α) CE(word) + α H(momentum's words)` over masked positions; `H(q, p) = −Σ q log p`.
//!
//! The matching and language terms need passes of the fusion encoder, and the passes need the negatives that the
//! contrast finds: hence a function for each stage, in the order contrast, [`hard_negatives`], passes, [`matching`],
//! [`language`], [`albef_loss`].

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::tensor_math::{PADDING_LOGIT, at_least_f32, l2_normalize};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, q rows of a queue, k keys (n + q), d width, r pairs
// that the fusion encoder has read, l tokens, m masked tokens, v words of the vocabulary.

/// Configuration. Every field is required: the values are part of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlbefConfig {
    /// Weight of the contrast; 1 in the paper.
    pub lambda_contrast: f64,
    /// Weight of matching; 1 in the paper.
    pub lambda_matching: f64,
    /// Weight of masked language modelling; 1 in the paper.
    pub lambda_language: f64,
    /// α, the momentum encoders' share in the targets; 0.4 in the paper, 0 for none.
    pub distillation: f64,
    /// Steps over which α rises linearly from 0; one epoch in the paper.
    pub distillation_warmup_steps: u64,
    /// What the momentum encoders keep of themselves at each step; 0.995 in the paper.
    pub momentum: f64,
    /// Most keys of a queue, 0 for no queue; 65,536 in the paper.
    pub queue_size: i64,
    /// Which keys are the right ones.
    pub positives: Positives,
    /// Share of a caption's tokens that is masked; 0.15 in the paper.
    pub masked_share: f64,
}

/// Which keys are the right ones of a contrast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positives {
    /// The row's own partner: ALBEF's pre-training.
    Pair,
    /// Every key of the same image, in equal shares: ALBEF's fine-tuning for retrieval.
    SameImage,
}

impl AlbefConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let weights = [
            ("lambda_contrast", self.lambda_contrast),
            ("lambda_matching", self.lambda_matching),
            ("lambda_language", self.lambda_language),
        ];
        for (name, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(format!("{name} must be a number of at least 0, got {weight}"));
            }
        }
        for (name, share) in [("distillation", self.distillation), ("momentum", self.momentum)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name} must lie in [0, 1], got {share}"));
            }
        }
        if self.queue_size < 0 {
            return Err(format!("queue_size must be at least 0, got {}", self.queue_size));
        }
        if !(self.masked_share > 0.0 && self.masked_share <= 1.0) {
            return Err(format!("masked_share must lie above 0 and not above 1, got {}", self.masked_share));
        }
        Ok(())
    }

    /// α at a step, the first of which is 0.
    pub fn distillation_at(&self, step: u64) -> f64 {
        let risen = step as f64 / self.distillation_warmup_steps.max(1) as f64;
        if self.distillation_warmup_steps == 0 { self.distillation } else { self.distillation * risen.min(1.0) }
    }
}

/// What the contrast compares. Embeddings are not normalised.
#[derive(Debug, Clone, Copy)]
pub struct ContrastInputs<'a> {
    /// Image embeddings, `[B, D]`.
    pub image_bd: &'a Tensor,
    /// Text embeddings, `[B, D]`.
    pub text_bd: &'a Tensor,
    /// The momentum encoders' image embeddings, `[B, D]` and `[N, D]`. Nothing of theirs gets a gradient.
    pub momentum_image: Gathered<'a>,
    /// The momentum encoders' text embeddings.
    pub momentum_text: Gathered<'a>,
    /// Earlier image keys, `[Q, D]`; Q may be 0.
    pub image_queue_qd: &'a Tensor,
    /// Earlier text keys, `[Q, D]`.
    pub text_queue_qd: &'a Tensor,
    /// Which image each row is of, `[B]` and `[N]`, `i64`.
    pub image_ids: Gathered<'a>,
    /// Which image each key of the queues is of, `[Q]`, `i64`.
    pub queue_ids_q: &'a Tensor,
    /// For each text one further wrong image (NAS).
    pub edited: Option<EditedImages<'a>>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Inverse temperature s = 1/τ, a scalar.
    pub logit_scale: &'a Tensor,
}

/// Images that are wrong because they have been edited.
#[derive(Debug, Clone, Copy)]
pub struct EditedImages<'a> {
    /// Embeddings, `[B, D]`, with gradient.
    pub image_bd: &'a Tensor,
    /// Whether anything has been edited, `[B]`, `bool`; if not, the row has no such key.
    pub found_b: &'a Tensor,
}

/// What the contrast gives.
#[derive(Debug)]
pub struct Contrast {
    /// L_itc of the local rows.
    pub value: Tensor,
    /// s ⟨f_I, f′_T⟩ with the texts of the global batch, `[B, N]`, without gradient: what [`hard_negatives`] draws by.
    pub image_to_text_bn: Tensor,
    /// s ⟨f_T, f′_I⟩ with its images, `[B, N]`.
    pub text_to_image_bn: Tensor,
    /// Share of images whose most similar text in the batch is one of theirs.
    pub image_to_text_accuracy: Tensor,
    /// Share of texts whose most similar image in the batch is theirs.
    pub text_to_image_accuracy: Tensor,
}

/// The contrast of local rows with the keys of the global batch and of the queues.
///
/// # Panics
///
/// If shapes disagree, or the local rows do not lie inside the global ones.
pub fn contrast(inputs: &ContrastInputs, positives: Positives, distillation: f64) -> Contrast {
    let (b, n) = check_contrast(inputs);
    let unit = |x: &Tensor| l2_normalize(&at_least_f32(x));
    let (image_bd, text_bd) = (unit(inputs.image_bd), unit(inputs.text_bd));
    let scale = inputs.logit_scale.to_kind(image_bd.kind());
    let key_ids_k = Tensor::cat(&[inputs.image_ids.global, inputs.queue_ids_q], 0);
    let device = image_bd.device();
    let labels_b1 = Tensor::arange_start(inputs.row_offset, inputs.row_offset + b, (Kind::Int64, device)).unsqueeze(1);
    let same_bk = inputs.image_ids.local.unsqueeze(1).eq_tensor(&key_ids_k.unsqueeze(0));
    let direction =
        |rows_bd: &Tensor, momentum: &Tensor, keys: Gathered, queue: &Tensor, edited: Option<EditedImages>| {
            let keys_kd = unit(&Tensor::cat(&[keys.global, queue], 0).detach());
            let targets_bk = tch::no_grad(|| {
                (unit(momentum).matmul(&keys_kd.tr()) * &scale).softmax(-1, None::<Kind>).to_kind(rows_bd.kind())
            });
            let logits_bk = rows_bd.matmul(&keys_kd.tr()) * &scale;
            let in_batch_bn = logits_bk.narrow(1, 0, n).detach();
            let nearest_b1 = in_batch_bn.argmax(1, true);
            let accuracy = same_bk.gather(1, &nearest_b1, false).mean(Kind::Float);
            let logits = match edited {
                Some(EditedImages { image_bd, found_b }) => {
                    let cosine_b1 = (rows_bd * unit(image_bd)).sum_dim_intlist([1i64].as_slice(), true, None::<Kind>);
                    let edited_b1 =
                        (cosine_b1 * &scale).masked_fill(&found_b.logical_not().unsqueeze(1), PADDING_LOGIT);
                    Tensor::cat(&[logits_bk, edited_b1], 1)
                }
                None => logits_bk,
            };
            let log_shares_bk = logits.log_softmax(-1, None::<Kind>).narrow(1, 0, key_ids_k.size()[0]);
            let hard_b1 = match positives {
                Positives::Pair => log_shares_bk.gather(1, &labels_b1, false),
                Positives::SameImage => masked_row_mean(&log_shares_bk, &same_bk),
            };
            let soft_b1 = (targets_bk * log_shares_bk).sum_dim_intlist([1i64].as_slice(), true, None::<Kind>);
            let value = -(hard_b1 * (1.0 - distillation) + soft_b1 * distillation).mean(None::<Kind>);
            (value, in_batch_bn, accuracy)
        };
    let (of_images, image_to_text_bn, image_to_text_accuracy) =
        direction(&image_bd, inputs.momentum_image.local, inputs.momentum_text, inputs.text_queue_qd, None);
    let (of_texts, text_to_image_bn, text_to_image_accuracy) =
        direction(&text_bd, inputs.momentum_text.local, inputs.momentum_image, inputs.image_queue_qd, inputs.edited);
    Contrast {
        value: (of_images + of_texts) * 0.5,
        image_to_text_bn,
        text_to_image_bn,
        image_to_text_accuracy,
        text_to_image_accuracy,
    }
}

fn masked_row_mean(values_bk: &Tensor, mask_bk: &Tensor) -> Tensor {
    let sum_b1 =
        values_bk.masked_fill(&mask_bk.logical_not(), 0.0).sum_dim_intlist([1i64].as_slice(), true, None::<Kind>);
    sum_b1 / mask_bk.sum_dim_intlist([1i64].as_slice(), true, values_bk.kind()).clamp_min(1.0)
}

fn check_contrast(inputs: &ContrastInputs) -> (i64, i64) {
    let (b, n) = inputs.momentum_image.check_rows(inputs.row_offset);
    let width = inputs.image_bd.size().last().copied().unwrap_or(0);
    let q = inputs.queue_ids_q.size()[0];
    let (edited, found) =
        inputs.edited.map_or_else(|| (vec![b, width], vec![b]), |e| (e.image_bd.size(), e.found_b.size()));
    for (name, size, expected) in [
        ("images", inputs.image_bd.size(), vec![b, width]),
        ("texts", inputs.text_bd.size(), vec![b, width]),
        ("momentum images", inputs.momentum_image.global.size(), vec![n, width]),
        ("momentum texts", inputs.momentum_text.global.size(), vec![n, width]),
        ("local momentum texts", inputs.momentum_text.local.size(), vec![b, width]),
        ("the image queue", inputs.image_queue_qd.size(), vec![q, width]),
        ("the text queue", inputs.text_queue_qd.size(), vec![q, width]),
        ("edited images", edited, vec![b, width]),
        ("whether images are edited", found, vec![b]),
        ("image ids", inputs.image_ids.local.size(), vec![b]),
        ("global image ids", inputs.image_ids.global.size(), vec![n]),
    ] {
        assert!(size == expected, "{name} must be {expected:?}, got {size:?}");
    }
    assert!(b > 0, "an empty batch has no contrast");
    (b, n)
}

/// A share that every column has at least, before it is drawn by: X-VLM's ε, added after the softmax, where it counts.
const LEAST_WEIGHT: f64 = 1e-5;

/// For each row one column of another image with another text, where there is one.
#[derive(Debug)]
pub struct HardNegatives {
    /// Columns, `[B]`, `i64`; 0 where none was found.
    pub columns_b: Tensor,
    /// Whether the row has a negative, `[B]`, `bool`: not if every column is of its own image or text.
    pub found_b: Tensor,
}

/// Draws for each row a column of another image with another text, by the softmax of the logits over such columns. Two images
/// may have the same text, which is true of both: it would be the likeliest negative of all.
///
/// The numbers drawn with are given, so that the choice depends on them and the logits alone (see
/// [`crate::seed::uniforms`]). Logits that are no numbers count as 0 rather than make the draw fail.
///
/// # Shapes
///
/// `logits_bn [B, N]`; `image_ids` `[B]` and `[N]`, `i64`; token ids `texts` `[B, L]` and `[N, L]`; `uniform_b [B]` in [0, 1),
/// f64.
///
/// # Panics
///
/// If shapes disagree.
pub fn hard_negatives(logits_bn: &Tensor, image_ids: Gathered, texts: Gathered, uniform_b: &Tensor) -> HardNegatives {
    let (b, n) = (image_ids.local.size()[0], image_ids.global.size()[0]);
    assert!(
        texts.local.size()[0] == b && texts.global.size()[0] == n,
        "{b} and {n} images have texts {:?} and {:?}",
        texts.local.size(),
        texts.global.size()
    );
    assert!(logits_bn.size() == [b, n], "logits must be {:?}, got {:?}", [b, n], logits_bn.size());
    tch::no_grad(|| {
        let same_image_bn = image_ids.local.unsqueeze(1).eq_tensor(&image_ids.global.unsqueeze(0));
        let same_text_bn = texts.local.unsqueeze(1).eq_tensor(&texts.global.unsqueeze(0)).all_dim(-1, false);
        let same_bn = same_image_bn.logical_or(&same_text_bn);
        let logits_bn = at_least_f32(logits_bn).nan_to_num(0.0, None, None);
        let shares_bn = logits_bn.masked_fill(&same_bn, PADDING_LOGIT).softmax(-1, None::<Kind>);
        draw(&(shares_bn + LEAST_WEIGHT).masked_fill(&same_bn, 0.0), uniform_b)
    })
}

/// Draws a column of each row by weights of at least 0; a column of weight 0 is never drawn.
pub(super) fn draw(weights_bn: &Tensor, uniform_b: &Tensor) -> HardNegatives {
    let (b, n) = weights_bn.size2().expect("weights are [B, N]");
    assert!(uniform_b.size() == [b] && n > 0, "{b} rows of {n} columns, numbers are {:?}", uniform_b.size());
    let weights_bn = weights_bn.to_kind(Kind::Double);
    let upto_bn = weights_bn.cumsum(1, Kind::Double);
    let total_b1 = upto_bn.narrow(1, n - 1, 1);
    let reached_b1 = uniform_b.to_kind(Kind::Double).unsqueeze(1) * &total_b1;
    let column_b = upto_bn.le_tensor(&reached_b1).sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
    // A product rounded up to the total would lie behind the last column that may be drawn.
    let places_n = Tensor::arange(n, (Kind::Int64, weights_bn.device()));
    let last_b = (weights_bn.gt(0.0) * places_n).amax([1i64].as_slice(), false);
    HardNegatives { columns_b: column_b.minimum(&last_b), found_b: total_b1.squeeze_dim(1).gt(0.0) }
}

/// What the fusion encoder says of pairs.
#[derive(Debug, Clone, Copy)]
pub struct MatchingInputs<'a> {
    /// Logits of "no match" and "match", `[R, 2]`.
    pub logits_r2: &'a Tensor,
    /// 1 for a pair that belongs together, else 0, `[R]`, `i64`.
    pub labels_r: &'a Tensor,
    /// Which pairs count, local and of the global batch, `bool`: not those for which no negative was found.
    pub valid: Gathered<'a>,
}

/// The matching term with what is worth logging.
#[derive(Debug)]
pub struct Matching {
    /// L_itm of the local pairs.
    pub value: Tensor,
    /// Share of valid local pairs judged rightly.
    pub accuracy: Tensor,
    /// The same among those that match: with three negatives to a positive, accuracy alone would hide it.
    pub positive_recall: Tensor,
}

/// Mean cross-entropy over the valid pairs of the global batch.
///
/// # Panics
///
/// If shapes disagree.
pub fn matching(inputs: &MatchingInputs) -> Matching {
    let MatchingInputs { logits_r2, labels_r, valid } = *inputs;
    let (r, all) = (valid.local.size()[0], valid.global.size()[0]);
    assert!(
        logits_r2.size() == [r, 2] && labels_r.size() == [r] && all >= r && r > 0,
        "{r} of {all} pairs: logits are {:?}, labels {:?}",
        logits_r2.size(),
        labels_r.size()
    );
    let log_shares_r2 = at_least_f32(logits_r2).log_softmax(-1, None::<Kind>);
    let each_r = -log_shares_r2.gather(1, &labels_r.unsqueeze(1), false).squeeze_dim(1);
    let right_r = logits_r2.detach().argmax(1, false).eq_tensor(labels_r);
    let share =
        |among_r: &Tensor| right_r.logical_and(among_r).sum(Kind::Float) / among_r.sum(Kind::Float).clamp_min(1.0);
    let accuracy = share(valid.local);
    let positive_recall = share(&valid.local.logical_and(&labels_r.gt(0)));
    Matching { value: mean_of_all(&each_r, valid, (r, all)), accuracy, positive_recall }
}

/// The sum over local elements, over the number of all, times the number of processes: the mean of this value over
/// processes is the mean over all elements. 0 if there is none.
fn mean_of_all(each_r: &Tensor, valid: Gathered, (local, global): (i64, i64)) -> Tensor {
    let sum = each_r.where_self(valid.local, &each_r.zeros_like()).sum(None::<Kind>);
    let count = valid.global.sum(sum.kind()).clamp_min(1.0);
    sum * (global as f64 / local as f64) / count
}

/// The ids that masking needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskingVocabulary {
    /// What stands for a masked token.
    pub mask_id: i64,
    /// The first id that a random token may have. It has none below, and not the mask's.
    pub first_id: i64,
    /// Number of ids.
    pub n_ids: i64,
}

impl MaskingVocabulary {
    /// Ids that a random token may have, as their number and what turns a number below it into an id.
    fn ordinary(self) -> (i64, impl Fn(Tensor) -> Tensor) {
        let MaskingVocabulary { mask_id, first_id, n_ids } = self;
        let has_mask = i64::from((first_id..n_ids).contains(&mask_id));
        let id_of = move |index: Tensor| {
            let id = index + first_id;
            let beyond_mask = id.ge(mask_id).to_kind(Kind::Int64) * has_mask;
            id + beyond_mask
        };
        (n_ids - first_id - has_mask, id_of)
    }
}

/// Captions with masked tokens.
#[derive(Debug)]
pub struct MaskedTokens {
    /// What the encoder reads, `[B, L]`, `i64`.
    pub ids_bl: Tensor,
    /// The positions to be predicted, `[B, L]`, `bool`.
    pub chosen_bl: Tensor,
    /// Their true ids in row-major order, `[M]`, `i64`.
    pub targets_m: Tensor,
}

/// BERT's masking (Devlin et al. 2019): each token that may be is chosen with probability `share`; 80 % of the chosen
/// become the mask id, 10 % a random id, 10 % stay.
///
/// # Shapes
///
/// `ids_bl [B, L]`, `maskable_bl [B, L]` `bool`, `uniform_3bl [3, B, L]` in [0, 1), f64: for the choice, for what
/// becomes of a token, for the random id.
///
/// # Panics
///
/// If shapes disagree, or there is no id to draw.
pub fn mask_tokens(
    ids_bl: &Tensor,
    maskable_bl: &Tensor,
    vocabulary: MaskingVocabulary,
    share: f64,
    uniform_3bl: &Tensor,
) -> MaskedTokens {
    let (b, l) = ids_bl.size2().expect("ids are [B, L]");
    assert!(
        maskable_bl.size() == [b, l] && uniform_3bl.size() == [3, b, l],
        "ids are {:?}, what may be masked {:?}, numbers {:?}",
        [b, l],
        maskable_bl.size(),
        uniform_3bl.size()
    );
    let (n_ordinary, id_of) = vocabulary.ordinary();
    assert!(n_ordinary > 0, "{vocabulary:?} has no id to draw");
    let chosen_bl = maskable_bl.logical_and(&uniform_3bl.get(0).lt(share));
    let fate_bl = uniform_3bl.get(1);
    let drawn_bl = id_of((uniform_3bl.get(2) * n_ordinary as f64).floor().to_kind(Kind::Int64));
    let masked_bl = chosen_bl.logical_and(&fate_bl.lt(0.8));
    let replaced_bl = chosen_bl.logical_and(&fate_bl.ge(0.9));
    let ids = ids_bl.masked_fill(&masked_bl, vocabulary.mask_id);
    MaskedTokens {
        ids_bl: drawn_bl.where_self(&replaced_bl, &ids),
        targets_m: ids_bl.masked_select(&chosen_bl),
        chosen_bl,
    }
}

/// What is predicted of masked tokens.
#[derive(Debug, Clone, Copy)]
pub struct LanguageInputs<'a> {
    /// Logits at the local masked positions in row-major order, `[M, V]`.
    pub logits_mv: &'a Tensor,
    /// The momentum encoders', `[M, V]`; gets no gradient.
    pub momentum_logits_mv: &'a Tensor,
    /// True ids, `[M]`, `i64`.
    pub targets_m: &'a Tensor,
    /// The masked positions, `[B, L]` and `[N, L]`, `bool`; the global rows may be padded further.
    pub chosen: Gathered<'a>,
}

/// Mean over the masked positions of the global batch of (1 − α) CE(true word) + α H(momentum's words).
///
/// # Panics
///
/// If shapes disagree.
pub fn language(inputs: &LanguageInputs, distillation: f64) -> Tensor {
    let LanguageInputs { logits_mv, momentum_logits_mv, targets_m, chosen } = *inputs;
    let (m, b, n) = (targets_m.size()[0], chosen.local.size()[0], chosen.global.size()[0]);
    assert!(
        logits_mv.size()[0] == m && momentum_logits_mv.size() == logits_mv.size() && n >= b && b > 0,
        "{m} masked tokens of {b} of {n} captions: logits are {:?} and {:?}",
        logits_mv.size(),
        momentum_logits_mv.size()
    );
    let log_shares_mv = at_least_f32(logits_mv).log_softmax(-1, None::<Kind>);
    let hard = log_shares_mv.gather(1, &targets_m.unsqueeze(1), false).sum(None::<Kind>);
    let teacher_mv = tch::no_grad(|| at_least_f32(momentum_logits_mv).softmax(-1, None::<Kind>));
    let soft = (teacher_mv * &log_shares_mv).sum(None::<Kind>);
    let count = chosen.global.sum(log_shares_mv.kind()).clamp_min(1.0);
    -(hard * (1.0 - distillation) + soft * distillation) * (n as f64 / b as f64) / count
}

/// The weighted sum of the three terms, `contrast`, `matching` and `language`.
pub fn albef_loss(contrast: Contrast, matching: Matching, language: Tensor, config: &AlbefConfig) -> LossTerms {
    let term = |name: &'static str, value, weight| LossTerm { name: name.into(), value, weight };
    LossTerms::new(
        vec![
            term("contrast", contrast.value, config.lambda_contrast),
            term("matching", matching.value, config.lambda_matching),
            term("language", language, config.lambda_language),
        ],
        vec![
            ("image_to_text_accuracy", contrast.image_to_text_accuracy),
            ("text_to_image_accuracy", contrast.text_to_image_accuracy),
            ("matching_accuracy", matching.accuracy),
            ("matching_positive_recall", matching.positive_recall),
        ],
    )
}

#[cfg(test)]
#[path = "albef_tests.rs"]
mod tests;
