//! A trained network with its tokenizer, loaded from a run or checkpoint, ready to be evaluated.

use std::path::{Path, PathBuf};

use sparc_core::objectives::sparc::{SparcConfig, alignment_weights};
use sparc_core::tensor_math::masked_mean;
use sparc_core::{Batch, Encoder, Matcher, PatchPath, Tokenize};
use sparc_data::TextTokenizer;
use sparc_models::networks::Network;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::error::Error;
use crate::objective::Objective;
use crate::plan::RunPlan;
use crate::run::TOKENIZER;

/// A trained network and what belongs to it.
pub struct Trained {
    /// The network.
    pub network: Network,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// The plan of its run.
    pub plan: RunPlan,
    /// The checkpoint it was loaded from.
    pub checkpoint: PathBuf,
    /// Optimizer steps it has been trained for.
    pub step: u64,
    /// The folder of its run.
    pub run: PathBuf,
}

impl Trained {
    /// Loads the newest checkpoint of a run, or a given checkpoint.
    ///
    /// # Errors
    ///
    /// No checkpoint, one that does not fit, or a tokenizer that is not the one it was trained with.
    pub fn load(path: &Path) -> Result<Trained, Error> {
        let checkpoint = checkpoint::find(path)?;
        let run = checkpoint::run_of(&checkpoint);
        let state = checkpoint::load_state(&checkpoint)?;
        let plan = state.plan;
        let file = run.join(TOKENIZER);
        let tokenizer = TextTokenizer::from_file(&file, plan.config.model.text.context_length as usize)?;
        if tokenizer.fingerprint() != plan.resolved.tokenizer_fingerprint {
            return Err(Error::Mismatch {
                path: checkpoint,
                differences: vec![format!(
                    "tokenizer: {} (fingerprint {}, {} ids) is not the one the model was trained with (fingerprint {}, {} ids); put that tokenizer.json back",
                    file.display(),
                    tokenizer.fingerprint(),
                    tokenizer.vocab_size(),
                    plan.resolved.tokenizer_fingerprint,
                    plan.resolved.vocab_size,
                )],
            });
        }
        let mut network = Network::new(plan.network(), plan.config.seed, Kind::Float, plan.device());
        checkpoint::load_model(&checkpoint, &mut network)?;
        Ok(Trained { network, tokenizer, plan, checkpoint, step: state.step, run })
    }

    /// The alignment settings of the run; for a method without any, the paper's.
    pub fn alignment(&self) -> SparcConfig {
        match &self.plan.config.objective {
            Objective::Sparc(config) => config.clone(),
            _ => SparcConfig::PAPER,
        }
    }

    /// For each token of `text`, its piece and the weights of the patches it is grouped with.
    pub fn align(&self, image_chw: &Tensor, text: &str) -> Alignment {
        tch::no_grad(|| {
            let image = self.network.encode_images(&image_chw.unsqueeze(0), PatchPath::Local);
            let batch = self.tokenizer.tokenize(&[text]);
            let features = self.network.encode_text(&batch);
            let weights =
                alignment_weights(&image.patches_bpd, &features.tokens_bld, &batch.mask_bl, &self.alignment());
            let pieces = self.tokenizer.pieces(text);
            let shown: Vec<bool> =
                to_vec(&features.mask_bl.get(0).to_kind(Kind::Float)).iter().map(|&m| m > 0.0).collect();
            let tokens = pieces
                .into_iter()
                .enumerate()
                .filter(|(index, _)| shown.get(*index) == Some(&true))
                .map(|(index, piece)| (piece, to_vec(&weights.get(0).get(index as i64))))
                .collect();
            Alignment { grid: (image.grid.height as usize, image.grid.width as usize), tokens }
        })
    }
}

impl Trained {
    /// A batch of images `[3, H, W]`, no two of which are one, with a caption each.
    pub fn batch(&self, images_chw: &[&Tensor], captions: &[&str], keys: Vec<String>) -> Batch {
        Batch {
            images_bchw: Tensor::stack(images_chw, 0),
            text: self.tokenizer.tokenize(captions),
            captions: None,
            regions: None,
            targets: None,
            image_ids_b: Tensor::arange(images_chw.len() as i64, (Kind::Int64, Device::Cpu)),
            keys,
        }
    }

    fn matcher(&self) -> Result<&dyn Matcher, Error> {
        self.network.matcher().ok_or_else(|| Error::NoMatcher {
            checkpoint: self.checkpoint.clone(),
            objective: self.plan.config.objective.name(),
        })
    }

    /// Layers of the fusion encoder.
    ///
    /// # Errors
    ///
    /// A network without one.
    pub fn fusion_layers(&self) -> Result<usize, Error> {
        Ok(self.matcher()?.n_layers())
    }

    /// Where each token of `text` looks for the matching head, by Grad-CAM of a layer of the fusion encoder
    /// ([`Matcher::match_heatmaps`]); before them their mean, under the name `[ALL]`.
    ///
    /// # Errors
    ///
    /// A network without a matching head.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn grad_cam(&self, image_chw: &Tensor, text: &str, layer: usize) -> Result<Alignment, Error> {
        let matcher = self.matcher()?;
        tch::no_grad(|| {
            let batch = self.tokenizer.tokenize(&[text]);
            let image = matcher.image_tokens(&image_chw.unsqueeze(0));
            let heat_1lp = matcher.match_heatmaps(&image, &matcher.text_tokens(&batch), &batch.mask_bl, layer);
            let all = ("[ALL]".to_owned(), to_vec(&masked_mean(&heat_1lp, &batch.mask_bl)));
            let pieces = self.tokenizer.pieces(text).into_iter().enumerate();
            let each = pieces.map(|(index, piece)| (piece, to_vec(&heat_1lp.get(0).get(index as i64))));
            let grid = matcher.grid();
            let tokens = std::iter::once(all).chain(each).collect();
            Ok(Alignment { grid: (grid.height as usize, grid.width as usize), tokens })
        })
    }
}

/// Which patches the tokens of a text are grouped with.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// Rows and columns of patches.
    pub grid: (usize, usize),
    /// Pieces with one weight a patch, in row-major order.
    pub tokens: Vec<(String, Vec<f32>)>,
}

fn to_vec(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).contiguous().view([-1])).expect("a tensor of numbers")
}
