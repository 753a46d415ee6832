//! Captioners as the trainer sees them: what CoCa and SyCoCa compute on a batch, and what their network must be like.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparc_core::objectives::clip::ClipInputs;
use sparc_core::objectives::coca::{
    CaptionInputs, CocaConfig, CocaInputs, FineTuningInputs, HeadConfig, HeadTask, coca_loss, fine_tuning_loss,
};
use sparc_core::objectives::sycoca::{
    MaskSite, PatchChoice, PatchMask, ReconstructionInputs, ReconstructionMask, Side, SimilaritySpace, SycocaConfig,
    SycocaInputs, choose_patches, patch_scores, sycoca_loss,
};
use sparc_core::tensor_math::gather_rows;
use sparc_core::{Batch, Gathered, ImageFeatures, LossTerms, TextBatch, TextFeatures, seed};
use sparc_models::causal_text::CausalTextOutput;
use sparc_models::decoders::MaskedImage;
use sparc_models::heads::Pooler;
use sparc_models::networks::{CaptionerConfig, Coca, ImageTokens};
use tch::{Kind, Tensor};

use crate::config::RunConfig;
use crate::objective::Objective;
use crate::step::Moment;

// Dimension letters: b batch, p patches, k patches of a choice, l tokens, m tokens that the decoder sees, w width,
// x pixel values of a patch.

/// Whether objective and model fit together.
///
/// # Errors
///
/// A sentence that names the key.
pub fn check(config: &RunConfig) -> Result<(), String> {
    let (model, objective) = (&config.model, &config.objective);
    let name = objective.name();
    let Some(captioner) = model.captioner else {
        return if objective.is_captioner() {
            Err(format!("objective.{name} trains a captioner: give its decoders with model.captioner"))
        } else {
            Ok(())
        };
    };
    if !objective.is_captioner() {
        return Err(format!("model.captioner: objective.{name} has no use for decoders; leave the key out"));
    }
    if model.dense_layer {
        return Err("model.dense_layer must be false with model.captioner: its images have no dense layer".into());
    }
    let Objective::Sycoca(sycoca) = objective else { return Ok(()) };
    if sycoca.lambda_reconstruction > 0.0 && captioner.image_decoder.is_none() {
        return Err("objective.sycoca.lambda_reconstruction is above 0: give model.captioner.image_decoder, or set \
                    the weight to 0"
            .into());
    }
    if sycoca.caption_mask != PatchMask::None && captioner.pooler != Pooler::None {
        return Err("objective.sycoca.caption_mask hides patches from the captioner, but with model.captioner.pooler \
                    it sees none: set one of the two to none"
            .into());
    }
    let (image, text) = (model.image.size.shape().width, model.text.size.shape().width);
    if sycoca.similarity == SimilaritySpace::Raw && image != text {
        return Err(format!(
            "objective.sycoca.similarity: raw compares vectors of the towers, whose widths {image} and {text} differ; \
             set it to projected"
        ));
    }
    if model.image.grid().len() < 2 {
        return Err(
            "objective.sycoca: an image of one patch has none to hide; make model.image.patch_size smaller".into()
        );
    }
    Ok(())
}

/// The captioner that an objective needs: an image decoder that it would not use is not built.
pub fn built(captioner: CaptionerConfig, objective: &Objective) -> CaptionerConfig {
    let rebuilds = matches!(objective, Objective::Sycoca(config) if config.lambda_reconstruction > 0.0);
    CaptionerConfig { image_decoder: captioner.image_decoder.filter(|_| rebuilds), ..captioner }
}

/// The objective's value on a batch.
///
/// # Panics
///
/// If the objective trains no captioner, which the plan refuses.
pub fn loss(network: &Coca, objective: &Objective, batch: &Batch, moment: Moment) -> LossTerms {
    if let Objective::Coca(config @ CocaConfig { head: Some(head), .. }) = objective {
        return fine_tuning(network, batch, config, *head);
    }
    let encoded = Encoded::new(network, batch);
    match objective {
        Objective::Coca(config) => coca(&encoded, config),
        Objective::Sycoca(config) => sycoca(&encoded, config, moment),
        other => panic!("{} trains no captioner", other.name()),
    }
}

/// A batch, as the towers see it.
pub(crate) struct Encoded<'a> {
    network: &'a Coca,
    batch: &'a Batch,
    image: ImageTokens,
    text: CausalTextOutput,
    image_features: ImageFeatures,
    text_features: TextFeatures,
}

impl<'a> Encoded<'a> {
    pub fn new(network: &'a Coca, batch: &'a Batch) -> Encoded<'a> {
        let image = network.image_tokens(&batch.images_bchw, None);
        let text = network.text_tokens(&batch.text);
        Encoded {
            image_features: network.image_features(&image),
            text_features: network.text_features(&text, &batch.text),
            network,
            batch,
            image,
            text,
        }
    }

    pub fn contrastive<'b>(&'b self, logit_scale: &'b Tensor) -> ClipInputs<'b> {
        ClipInputs {
            image: Gathered::single(&self.image_features.pooled_bd),
            text: Gathered::single(&self.text_features.pooled_bd),
            row_offset: 0,
            logit_scale,
        }
    }

    pub fn caption<'b>(&'b self, states_blw: &'b Tensor) -> CaptionInputs<'b> {
        CaptionInputs {
            states_blw,
            vocabulary_vw: self.network.vocabulary(),
            ids_bl: &self.batch.text.ids_bl,
            mask_bl: &self.batch.text.mask_bl,
            denominator: None,
        }
    }

    /// How much each patch has to do with the caption, `[B, P]`.
    pub fn patch_scores(&self, space: SimilaritySpace) -> Tensor {
        let valid_bl = &self.text_features.mask_bl;
        match space {
            SimilaritySpace::Projected => {
                patch_scores(&self.image_features.patches_bpd, &self.text_features.tokens_bld, valid_bl)
            }
            SimilaritySpace::Raw => {
                patch_scores(&self.image.patches_bpw, &self.network.normalized_tokens(&self.text), valid_bl)
            }
        }
    }

    /// What the captioner sees where these patches alone are visible, `[B, M, W]`; all of them with `None`.
    fn memory(&self, visible_bk: Option<&Tensor>, site: MaskSite) -> Tensor {
        match (site, visible_bk) {
            (MaskSite::Input, Some(visible_bk)) => {
                let image = self.network.image_tokens(&self.batch.images_bchw, Some(visible_bk));
                self.network.memory(&image, None)
            }
            (MaskSite::Latent, _) | (MaskSite::Input, None) => self.network.memory(&self.image, visible_bk),
        }
    }

    /// The captioner's states, where these patches alone are visible, `[B, L, W]`.
    pub fn caption_states(&self, visible_bk: Option<&Tensor>, site: MaskSite) -> Tensor {
        self.network.caption_states(&self.text.tokens_blw, &self.memory(visible_bk, site))
    }

    /// The network's inverse temperature.
    pub fn logit_scale(&self) -> Tensor {
        self.network.logit_scale()
    }

    /// The image decoder's pixels of all patches, `[B, P, X]`, where the chosen ones are hidden.
    pub fn rebuild(&self, choice: &PatchChoice, config: &SycocaConfig, caption: Caption) -> Tensor {
        let visible_bkw = match config.mask_site {
            MaskSite::Latent => gather_rows(&self.image.patches_bpw, &choice.others_bk),
            MaskSite::Input => self.network.image_tokens(&self.batch.images_bchw, Some(&choice.others_bk)).patches_bpw,
        };
        let image =
            MaskedImage { visible_bkw: &visible_bkw, visible_bk: &choice.others_bk, hidden_bh: &choice.chosen_bk };
        match caption {
            Caption::Own => self.network.rebuild(&image, &self.text, &self.batch.text, config.detach_text),
            Caption::Another => {
                let another = |rows: &Tensor| rows.roll(1, 0);
                let TextBatch { ids_bl, mask_bl, content_bl } = &self.batch.text;
                let text =
                    TextBatch { ids_bl: another(ids_bl), mask_bl: another(mask_bl), content_bl: another(content_bl) };
                let output = CausalTextOutput {
                    tokens_blw: another(&self.text.tokens_blw),
                    class_bw: another(&self.text.class_bw),
                };
                self.network.rebuild(&image, &output, &text, config.detach_text)
            }
        }
    }
}

/// Which caption an image is rebuilt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caption {
    /// Its own.
    Own,
    /// That of the image before it in the batch.
    Another,
}

fn coca(encoded: &Encoded, config: &CocaConfig) -> LossTerms {
    let network = encoded.network;
    let states_blw = (config.lambda_caption > 0.0).then(|| encoded.caption_states(None, MaskSite::Latent));
    let logit_scale = network.logit_scale();
    let caption = states_blw.as_ref().map(|states_blw| encoded.caption(states_blw));
    coca_loss(&CocaInputs { contrastive: encoded.contrastive(&logit_scale), caption }, config)
}

/// What the head says of a batch, and captioning of its questions with their answers.
fn fine_tuning(network: &Coca, batch: &Batch, config: &CocaConfig, head: HeadConfig) -> LossTerms {
    let targets = batch.targets.as_ref().expect("the loader reads what a head learns from");
    let image = network.image_tokens(&batch.images_bchw, None);
    let (logits_bk, states_blw) = match head.task {
        HeadTask::Classification => (network.class_logits(&image), None),
        HeadTask::Vqa => {
            let tokens_blw = network.text_tokens(&batch.text).tokens_blw;
            // The answer stands behind the question, whose states do not see it.
            let states_blw = network.caption_states(&tokens_blw, &network.memory(&image, None));
            let question_bl = targets.question_bl.as_ref().expect("questions come with their places");
            (network.answer_logits(&states_blw, question_bl), Some(states_blw))
        }
    };
    let caption = states_blw.as_ref().map(|states_blw| CaptionInputs {
        states_blw,
        vocabulary_vw: network.vocabulary(),
        ids_bl: &batch.text.ids_bl,
        mask_bl: &batch.text.mask_bl,
        denominator: None,
    });
    let inputs = FineTuningInputs { logits_bk: &logits_bk, shares_bk: &targets.shares_bk, caption };
    fine_tuning_loss(&inputs, config)
}

fn sycoca(encoded: &Encoded, config: &SycocaConfig, moment: Moment) -> LossTerms {
    let (network, batch) = (encoded.network, encoded.batch);
    let attentive_bp = encoded.patch_scores(config.similarity);
    let range = attentive_bp.amax([1i64].as_slice(), false) - attentive_bp.amin([1i64].as_slice(), false);
    let random_bp = random_scores(batch, &attentive_bp, moment);
    let in_warmup = moment.updates < config.mask_warmup_steps;
    let scores = |random: bool| if random || in_warmup { &random_bp } else { &attentive_bp };

    let states_blw = (config.lambda_caption > 0.0).then(|| {
        let hidden = match config.caption_mask {
            PatchMask::None => None,
            _ if sees_all(config.full_image_probability, moment) => None,
            mask => {
                let scores_bp = scores(mask == PatchMask::Random);
                Some(choose_patches(scores_bp, config.caption_mask_ratio, Side::Lowest))
            }
        };
        encoded.caption_states(hidden.as_ref().map(|choice| &choice.others_bk), config.mask_site)
    });
    let rebuilt = (config.lambda_reconstruction > 0.0).then(|| {
        let scores_bp = scores(config.reconstruction_mask == ReconstructionMask::Random);
        let choice = choose_patches(scores_bp, config.reconstruction_mask_ratio, Side::Highest);
        let predicted_bpx = encoded.rebuild(&choice, config, Caption::Own);
        (predicted_bpx, network.patch_pixels(&batch.images_bchw), choice.chosen_bk)
    });
    let logit_scale = network.logit_scale();
    let inputs = SycocaInputs {
        contrastive: encoded.contrastive(&logit_scale),
        caption: states_blw.as_ref().map(|states_blw| encoded.caption(states_blw)),
        reconstruction: rebuilt.as_ref().map(|(predicted_bpx, pixels_bpx, hidden_bk)| ReconstructionInputs {
            predicted_bpx,
            pixels_bpx,
            hidden_bk,
        }),
    };
    let mut terms = sycoca_loss(&inputs, config);
    // How far apart the scores are: before the encoders agree, they say nothing.
    terms.diagnostics.push(("patch_score_range".into(), range.mean(Kind::Float)));
    terms
}

/// Scores that depend on the sample's key and the moment alone, `[B, P]`: a split over processes draws the same.
fn random_scores(batch: &Batch, like_bp: &Tensor, moment: Moment) -> Tensor {
    let n_patches = like_bp.size()[1];
    let of_sample = |key: &String| {
        let words: [&[u8]; 3] = [b"patch mask", key.as_bytes(), &moment.updates.to_le_bytes()];
        let mut generator = ChaCha8Rng::seed_from_u64(seed::derive(moment.seed, &words));
        (0..n_patches).map(move |_| generator.random::<f64>()).collect::<Vec<_>>()
    };
    let scores: Vec<f64> = batch.keys.iter().flat_map(of_sample).collect();
    Tensor::from_slice(&scores).view([-1, n_patches]).to_device(like_bp.device())
}

/// Whether the captioner sees whole images in this step.
fn sees_all(probability: f64, moment: Moment) -> bool {
    let words: [&[u8]; 2] = [b"full image", &moment.updates.to_le_bytes()];
    ChaCha8Rng::seed_from_u64(seed::derive(moment.seed, &words)).random::<f64>() < probability
}
