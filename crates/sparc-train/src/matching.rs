//! Networks that match pairs, as the trainer sees them: what ALBEF and NAS compute on a batch, and what their network
//! must be like.

use serde::{Deserialize, Serialize};
use sparc_core::objectives::albef::{
    AlbefConfig, ContrastInputs, EditedImages, HardNegatives, LanguageInputs, MatchingInputs, albef_loss, contrast,
    hard_negatives, language, mask_tokens, matching,
};
use sparc_core::objectives::nas::{Edit, NasConfig, ScoreSpace, TextNegatives, VisualTokens, nas_loss};
use sparc_core::{Batch, Gathered, LossTerms, TextBatch, seed};
use sparc_models::networks::{Albef, Encoders, ImageVectors, Seen, VisualTokensConfig};
use sparc_models::visual_dictionary::DictionaryConfig;
use sparc_models::vit::ImagePool;
use tch::{Device, Kind, Tensor};

use crate::config::RunConfig;
use crate::objective::Objective;
use crate::step::Moment;

mod edits;

use edits::Edits;

// Dimension letters: b batch, r pairs, p patches, m image tokens, l tokens, w width, d shared space, k masked tokens,
// v vocabulary.

/// NAS: ALBEF with a dictionary and negatives made by edits. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NasObjective {
    /// What it is built on.
    pub albef: AlbefConfig,
    /// The visual dictionary.
    pub dictionary: DictionaryConfig,
    /// What is made with it.
    pub negatives: NasConfig,
}

impl NasObjective {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.albef.validate().map_err(|reason| format!("albef.{reason}"))?;
        self.dictionary.validate().map_err(|reason| format!("dictionary.{reason}"))?;
        self.negatives.validate().map_err(|reason| format!("negatives.{reason}"))
    }
}

/// Whether objective and model fit together.
///
/// # Errors
///
/// A sentence that names the key.
pub fn check(config: &RunConfig) -> Result<(), String> {
    let (model, objective) = (&config.model, &config.objective);
    let name = objective.name();
    match (model.fusion, objective.is_matcher()) {
        (None, false) => return Ok(()),
        (None, true) => {
            return Err(format!("objective.{name} trains a fusion encoder: give its size with model.fusion"));
        }
        (Some(_), false) => {
            return Err(format!("model.fusion: objective.{name} has no use for a fusion encoder; leave the key out"));
        }
        (Some(_), true) => {}
    }
    if model.dense_layer {
        return Err("model.dense_layer must be false with model.fusion: its images have no dense layer".into());
    }
    if model.image.pool != ImagePool::Cls {
        return Err(format!("model.image.pool must be cls: objective.{name} contrasts the class token"));
    }
    let (image, text) = (model.image.size.shape().width, model.text.size.shape().width);
    match objective {
        Objective::Nas(nas) if nas.negatives.score_space == ScoreSpace::Raw && image != text => Err(format!(
            "objective.nas.negatives.score_space: raw compares vectors of the towers, whose widths {image} and {text} \
             differ; set it to projected"
        )),
        _ => Ok(()),
    }
}

/// What the objective says of the network: ALBEF's settings, and the dictionary of NAS.
///
/// # Panics
///
/// If the objective trains no fusion encoder, which the plan refuses.
pub fn settings(objective: &Objective) -> (AlbefConfig, Option<VisualTokensConfig>) {
    match objective {
        Objective::Albef(config) => (*config, None),
        Objective::Nas(NasObjective { albef, dictionary, negatives }) => {
            let NasConfig { tokens, class_token, .. } = *negatives;
            (*albef, Some(VisualTokensConfig { dictionary: *dictionary, tokens, class_token }))
        }
        other => panic!("{} trains no fusion encoder", other.name()),
    }
}

/// The objective's value on a batch, and what the network is to follow after the update.
///
/// # Panics
///
/// If the objective trains no fusion encoder, which the plan refuses; or a dictionary has not been started.
pub fn loss(network: &Albef, objective: &Objective, batch: &Batch, moment: Moment) -> (LossTerms, Seen) {
    let (albef, _) = settings(objective);
    let nas = match objective {
        Objective::Nas(nas) => Some(&nas.negatives),
        _ => None,
    };
    let draws = Draws { moment, n_rows: batch.len(), device: batch.images_bchw.device() };
    let online = View::new(network, network.online(), batch);
    let copies = tch::no_grad(|| View::new(network, network.momentum(), batch));
    let edits = nas
        .filter(|nas| has_started(network, nas, moment))
        .map(|nas| Edits::new(network, nas, batch, (&online, &copies), &draws));
    let distillation = albef.distillation_at(moment.updates);

    let keys = network.queue().keys();
    let contrast = contrast(
        &ContrastInputs {
            image_bd: &online.image_bd,
            text_bd: &online.text_bd,
            momentum_image: Gathered::single(&copies.image_bd),
            momentum_text: Gathered::single(&copies.text_bd),
            image_queue_qd: &keys.image_qd,
            text_queue_qd: &keys.text_qd,
            image_ids: Gathered::single(&batch.image_ids_b),
            queue_ids_q: &keys.ids_q,
            edited: edits.as_ref().and_then(|edits| {
                let found_b = &edits.images.found_b;
                edits.image_bd.as_ref().map(|image_bd| EditedImages { image_bd, found_b })
            }),
            row_offset: 0,
            logit_scale: &network.logit_scale(),
        },
        albef.positives,
        distillation,
    );
    let negatives = |logits_bn: &Tensor, purpose: &[u8]| {
        let uniform_b = draws.numbers(purpose, 1).squeeze_dim(1);
        let (images, texts) = (Gathered::single(&batch.image_ids_b), Gathered::single(&batch.text.ids_bl));
        hard_negatives(logits_bn, images, texts, &uniform_b)
    };
    let wrong_texts = negatives(&contrast.image_to_text_bn, b"wrong texts");
    let wrong_images = negatives(&contrast.text_to_image_bn, b"wrong images");
    let judged = judge(network, &online, &batch.text, (&wrong_texts, &wrong_images), edits.as_ref());
    let language = words(network, (&online, &copies), &batch.text, (albef.masked_share, distillation), &draws);

    let pairs = MatchingInputs {
        logits_r2: &judged.pair_logits_r2,
        labels_r: &judged.pair_labels_r,
        valid: Gathered::single(&judged.pair_valid_r),
    };
    let terms = match (nas, &judged.edits) {
        (None, _) => albef_loss(contrast, matching(&pairs), language, &albef),
        (Some(nas), judged) => {
            let edited = judged.as_ref().map(|(logits_r2, labels_r, valid_r)| MatchingInputs {
                logits_r2,
                labels_r,
                valid: Gathered::single(valid_r),
            });
            let mut terms = nas_loss(contrast, &pairs, edited.as_ref(), language, (&albef, nas));
            let usage = network.dictionary().expect("a network of NAS").usage();
            terms.diagnostics.push(("dictionary_perplexity".into(), usage.perplexity));
            terms.diagnostics.push(("dictionary_dead_share".into(), usage.dead_share));
            terms.diagnostics.push(("dictionary_largest_share".into(), usage.largest_share));
            terms
        }
    };
    let seen = Seen {
        momentum_image_nd: copies.image_bd,
        momentum_text_nd: copies.text_bd,
        image_ids_n: batch.image_ids_b.shallow_clone(),
        patches: online.codes.map(|(index_bp, _)| (online.image.patches_bpw.detach(), index_bp)),
    };
    (terms, seen)
}

/// What a step would do to the images of a batch, whether edits have begun or not: how much each patch has to do with
/// its pair `[B, P]`, and the edit.
pub fn edited_images(network: &Albef, config: &NasObjective, batch: &Batch, moment: Moment) -> (Tensor, Edit) {
    tch::no_grad(|| {
        let draws = Draws { moment, n_rows: batch.len(), device: batch.images_bchw.device() };
        let view = View::new(network, network.online(), batch);
        let nas = NasConfig { text_negatives: TextNegatives::None, ..config.negatives };
        let Edits { scores_bp, images, .. } = Edits::new(network, &nas, batch, (&view, &view), &draws);
        (scores_bp, images)
    })
}

/// Whether this step makes edits.
fn has_started(network: &Albef, nas: &NasConfig, moment: Moment) -> bool {
    let dictionary = network.dictionary().expect("a network of NAS");
    nas.has_started(moment.updates, dictionary.peak_perplexity(), dictionary.codes().size()[0])
}

/// A batch as one half of the network sees it.
struct View<'a> {
    encoders: &'a Encoders,
    image: ImageVectors,
    /// Codes of the patches and what the dictionary makes of them, of NAS.
    codes: Option<(Tensor, VisualTokens)>,
    /// What the fusion encoder reads of the images, `[B, M, W]`.
    sequence_bmw: Tensor,
    tokens_blw: Tensor,
    image_bd: Tensor,
    text_bd: Tensor,
}

impl<'a> View<'a> {
    fn new(network: &Albef, encoders: &'a Encoders, batch: &Batch) -> View<'a> {
        let image = encoders.image_vectors(&batch.images_bchw);
        let codes = network.look_up(&image.patches_bpw);
        let tokens_blw = encoders.text_vectors(&batch.text);
        View {
            sequence_bmw: network.image_sequence(encoders, &image, codes.as_ref().map(|(_, tokens)| tokens)),
            image_bd: encoders.embed_image(&image.class_bw),
            text_bd: encoders.embed_text(&tokens_blw.select(1, 0)),
            encoders,
            image,
            codes,
            tokens_blw,
        }
    }

    /// Logits of all words `[K, V]` at the chosen places of a masked text.
    fn words(&self, text: &TextBatch, chosen_bl: &Tensor) -> Tensor {
        let fused = self.encoders.fuse(&self.encoders.text_vectors(text), &text.mask_bl, &self.sequence_bmw);
        let width = fused.size()[2];
        self.encoders.words(&fused.masked_select(&chosen_bl.unsqueeze(-1)).view([-1, width]))
    }
}

/// Numbers in [0, 1) that depend on the run's seed, the step, the purpose and the row alone.
struct Draws {
    moment: Moment,
    n_rows: i64,
    device: Device,
}

impl Draws {
    /// `[B, n]`, f64.
    fn numbers(&self, purpose: &[u8], n: i64) -> Tensor {
        let Moment { seed, updates } = self.moment;
        let numbers = seed::uniforms(seed, &[purpose, &updates.to_le_bytes()], 0, (self.n_rows * n) as usize);
        Tensor::from_slice(&numbers).view([self.n_rows, n]).to_device(self.device)
    }
}

/// What the fusion encoder says of all pairs.
struct Judged {
    pair_logits_r2: Tensor,
    pair_labels_r: Tensor,
    pair_valid_r: Tensor,
    /// The same of pairs made by edits.
    edits: Option<(Tensor, Tensor, Tensor)>,
}

/// One pass over the batch's pairs, images with wrong texts, texts with wrong images, and edits.
fn judge(
    network: &Albef,
    online: &View,
    text: &TextBatch,
    (wrong_texts, wrong_images): (&HardNegatives, &HardNegatives),
    edits: Option<&Edits>,
) -> Judged {
    let b = text.len();
    let View { tokens_blw, sequence_bmw, .. } = online;
    let rows = |x: &Tensor, negatives: &HardNegatives| x.index_select(0, &negatives.columns_b);
    let same = Tensor::shallow_clone;
    let mut tokens = vec![same(tokens_blw), rows(tokens_blw, wrong_texts), same(tokens_blw)];
    let mut masks = vec![same(&text.mask_bl), rows(&text.mask_bl, wrong_texts), same(&text.mask_bl)];
    let mut images = vec![same(sequence_bmw), same(sequence_bmw), rows(sequence_bmw, wrong_images)];
    let mut found = Vec::new();
    if let Some(edits) = edits {
        tokens.push(same(tokens_blw));
        images.push(same(&edits.sequence_bmw));
        found.push(&edits.images.found_b);
        if let Some((edited_blw, found_b)) = &edits.text {
            tokens.push(same(edited_blw));
            images.push(same(sequence_bmw));
            found.push(found_b);
        }
        masks.extend(found.iter().map(|_| same(&text.mask_bl)));
    }
    let fused = online.encoders.fuse(&Tensor::cat(&tokens, 0), &Tensor::cat(&masks, 0), &Tensor::cat(&images, 0));
    let logits_r2 = network.match_fused(&fused);
    let n_pairs = 3 * b;
    let valid = [&wrong_texts.found_b.ones_like(), &wrong_texts.found_b, &wrong_images.found_b];
    Judged {
        pair_logits_r2: logits_r2.narrow(0, 0, n_pairs),
        pair_labels_r: Tensor::arange(n_pairs, (Kind::Int64, logits_r2.device())).lt(b).to_kind(Kind::Int64),
        pair_valid_r: Tensor::cat(&valid, 0),
        edits: (!found.is_empty()).then(|| {
            let valid_r = Tensor::cat(&found, 0);
            (logits_r2.narrow(0, n_pairs, valid_r.size()[0]), valid_r.zeros_like().to_kind(Kind::Int64), valid_r)
        }),
    }
}

/// Masked language modelling with the momentum copies as teachers; the images are as they are.
fn words(
    network: &Albef,
    (online, copies): (&View, &View),
    text: &TextBatch,
    (masked_share, distillation): (f64, f64),
    draws: &Draws,
) -> Tensor {
    let (length, context) = (text.ids_bl.size()[1], network.config().text.context_length);
    // As many numbers as the context has places: what a row draws does not depend on the longest text of its batch.
    let uniform_3bl = [&b"masked words"[..], b"fates of masked words", b"random words"]
        .map(|purpose| draws.numbers(purpose, context).narrow(1, 0, length));
    let masked = mask_tokens(
        &text.ids_bl,
        &text.content_bl,
        network.config().masking,
        masked_share,
        &Tensor::stack(&uniform_3bl, 0),
    );
    let text = TextBatch {
        ids_bl: masked.ids_bl,
        mask_bl: text.mask_bl.shallow_clone(),
        content_bl: text.content_bl.shallow_clone(),
    };
    language(
        &LanguageInputs {
            logits_mv: &online.words(&text, &masked.chosen_bl),
            momentum_logits_mv: &tch::no_grad(|| copies.words(&text, &masked.chosen_bl)),
            targets_m: &masked.targets_m,
            chosen: Gathered::single(&masked.chosen_bl),
        },
        distillation,
    )
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
