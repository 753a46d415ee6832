//! What a captioner's losses are made of, on data it has not seen: whether masks help it, whether it reads the text.

use sparc_core::objectives::coca::{CaptionInputs, CocaConfig, CocaInputs, Normalisation, coca_loss};
use sparc_core::objectives::sycoca::{
    MaskSite, PatchMask, ReconstructionInputs, Side, SycocaConfig, choose_patches, rebuilt_pixels, reconstruction_error,
};
use sparc_core::{Batch, EvalSample, PatchGrid};
use sparc_models::networks::{Coca, Network};
use tch::{Kind, Tensor};

use crate::captioners::{Caption, Encoded};
use crate::error::Error;
use crate::evaluation::Trained;
use crate::objective::Objective;

// Dimension letters: b batch, p patches, k hidden patches, x pixel values of a patch.

/// Sums over the images seen so far; the first caption of each counts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CaptionerLosses {
    n_tokens: f64,
    n_images: f64,
    whole: f64,
    masked: Option<f64>,
    rebuilt: Option<f64>,
    rebuilt_from_another: Option<f64>,
}

impl CaptionerLosses {
    /// Adds a batch of at least two images, each with a caption.
    ///
    /// # Errors
    ///
    /// A run that trained no captioner.
    pub fn add(&mut self, trained: &Trained, samples: &[EvalSample]) -> Result<(), Error> {
        let network = captioner(trained)?;
        let batch = batch(trained, samples);
        tch::no_grad(|| {
            let encoded = Encoded::new(network, &batch);
            let n_tokens = sparc_core::objectives::coca::caption_denominator(&batch.text.mask_bl).double_value(&[]);
            let n_images = samples.len() as f64;
            self.n_tokens += n_tokens;
            self.n_images += n_images;
            let caption = |visible: Option<&Tensor>, site| n_tokens * encoded.caption_loss(visible, site);
            self.whole += caption(None, MaskSite::Latent);
            let Objective::Sycoca(config) = &trained.plan.config.objective else { return Ok(()) };
            let scores_bp = encoded.patch_scores(config.similarity);
            if config.lambda_caption > 0.0 && config.caption_mask != PatchMask::None {
                let choice = choose_patches(&scores_bp, config.caption_mask_ratio, Side::Lowest);
                *self.masked.get_or_insert(0.0) += caption(Some(&choice.others_bk), config.mask_site);
            }
            if config.lambda_reconstruction > 0.0 {
                let choice = choose_patches(&scores_bp, config.reconstruction_mask_ratio, Side::Highest);
                let pixels_bpx = network.patch_pixels(&batch.images_bchw);
                let error = |caption: Caption| {
                    let inputs = ReconstructionInputs {
                        predicted_bpx: &encoded.rebuild(&choice, config, caption),
                        pixels_bpx: &pixels_bpx,
                        hidden_bk: &choice.chosen_bk,
                    };
                    n_images
                        * reconstruction_error(&inputs, config.target, config.distance)
                            .mean(None::<Kind>)
                            .double_value(&[])
                };
                *self.rebuilt.get_or_insert(0.0) += error(Caption::Own);
                *self.rebuilt_from_another.get_or_insert(0.0) += error(Caption::Another);
            }
            Ok(())
        })
    }

    /// Keys and means, in a fixed order: per token of captioning, per hidden patch of reconstruction.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        if self.n_images == 0.0 {
            return Vec::new();
        }
        let of = |sum: Option<f64>, n: f64| sum.map(|sum| sum / n.max(1.0));
        let all = [
            ("caption_loss", of(Some(self.whole), self.n_tokens)),
            ("caption_loss_masked", of(self.masked, self.n_tokens)),
            ("reconstruction_error", of(self.rebuilt, self.n_images)),
            ("reconstruction_error_of_another_text", of(self.rebuilt_from_another, self.n_images)),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

impl Encoded<'_> {
    /// Mean cross-entropy of a token, where these patches alone are visible.
    fn caption_loss(&self, visible_bk: Option<&Tensor>, site: MaskSite) -> f64 {
        let states_blw = self.caption_states(visible_bk, site);
        let config = CocaConfig {
            lambda_contrastive: 0.0,
            lambda_caption: 1.0,
            normalisation: Normalisation::OpenClip,
            head: None,
        };
        let logit_scale = self.logit_scale();
        let caption: CaptionInputs = self.caption(&states_blw);
        coca_loss(&CocaInputs { contrastive: self.contrastive(&logit_scale), caption: Some(caption) }, &config)
            .total
            .double_value(&[])
    }
}

/// What SyCoCa shows and hides of one image, and how it rebuilds what is hidden.
#[derive(Debug)]
pub struct MaskedView {
    /// How the patches lie.
    pub grid: PatchGrid,
    /// How much each patch has to do with the caption, row by row.
    pub scores: Vec<f32>,
    /// Patches that the captioner does not see.
    pub hidden_from_captioner: Vec<usize>,
    /// Patches that the image decoder does not see, and rebuilds.
    pub hidden_from_decoder: Vec<usize>,
    /// The image with these patches rebuilt, normalised, `[3, H, W]`; of a run without an image decoder, none.
    pub rebuilt_chw: Option<Tensor>,
}

/// Looks at one normalised image `[3, H, W]` with a caption, as a run of SyCoCa does in training with attentive masks.
///
/// # Errors
///
/// A run of another objective.
pub fn masked_view(trained: &Trained, image_chw: &Tensor, caption: &str) -> Result<MaskedView, Error> {
    let (network, config) = (captioner(trained)?, sycoca(trained)?);
    let batch = trained.batch(&[image_chw], &[caption], vec![String::new()]);
    tch::no_grad(|| {
        let encoded = Encoded::new(network, &batch);
        let scores_bp = encoded.patch_scores(config.similarity);
        let lowest = choose_patches(&scores_bp, config.caption_mask_ratio, Side::Lowest);
        let highest = choose_patches(&scores_bp, config.reconstruction_mask_ratio, Side::Highest);
        let rebuilt_chw = network.has_image_decoder().then(|| {
            let pixels_bpx = network.patch_pixels(&batch.images_bchw);
            let predicted_bpx = encoded.rebuild(&highest, &config, Caption::Own);
            let rebuilt_bpx = rebuilt_pixels(&predicted_bpx, &pixels_bpx, config.target);
            let at = highest.chosen_bk.unsqueeze(-1).expand([-1, -1, pixels_bpx.size()[2]], false);
            let mixed_bpx = pixels_bpx.scatter(1, &at, &rebuilt_bpx.gather(1, &at, false));
            network.image_of_patches(&mixed_bpx).get(0)
        });
        Ok(MaskedView {
            grid: network.config().image.grid(),
            scores: numbers(&scores_bp).into_iter().map(|score| score as f32).collect(),
            hidden_from_captioner: indices(&lowest.chosen_bk),
            hidden_from_decoder: indices(&highest.chosen_bk),
            rebuilt_chw,
        })
    })
}

fn captioner(trained: &Trained) -> Result<&Coca, Error> {
    match &trained.network {
        Network::Coca(network) => Ok(network),
        Network::DualEncoder(_) | Network::Albef(_) => Err(Error::Captions(format!(
            "{} was trained with {}, which has no decoders; give a run of coca or sycoca",
            trained.run.display(),
            trained.plan.config.objective.name()
        ))),
    }
}

fn sycoca(trained: &Trained) -> Result<SycocaConfig, Error> {
    match &trained.plan.config.objective {
        Objective::Sycoca(config) => Ok(*config),
        other => Err(Error::Captions(format!(
            "{} was trained with {}, which masks no patches; give a run of sycoca",
            trained.run.display(),
            other.name()
        ))),
    }
}

fn batch(trained: &Trained, samples: &[EvalSample]) -> Batch {
    let images: Vec<&Tensor> = samples.iter().map(|sample| &sample.image_chw).collect();
    let captions: Vec<&str> = samples.iter().map(|sample| sample.captions.first().map_or("", String::as_str)).collect();
    trained.batch(&images, &captions, samples.iter().map(|sample| sample.key.clone()).collect())
}

fn numbers(x: &Tensor) -> Vec<f64> {
    Vec::try_from(x.to_kind(Kind::Double).contiguous().view([-1])).expect("a tensor of numbers")
}

fn indices(x: &Tensor) -> Vec<usize> {
    numbers(x).into_iter().map(|index| index as usize).collect()
}
