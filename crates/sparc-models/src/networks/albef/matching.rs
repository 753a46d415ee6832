//! How pairs are judged in evaluation, and where a text looks for it.

use sparc_core::{ImageFeatures, Matcher, PatchGrid, PatchPath, TextBatch, grad_cam};
use tch::Tensor;

use super::{Albef, ImageVectors};
use crate::layers::SeeAttention;

// Dimension letters: b batch, r pairs, p patches, m image tokens, l tokens, w width.

impl Matcher for Albef {
    /// # Panics
    ///
    /// If there is a dictionary without codes, as before the first step of training.
    fn image_tokens(&self, images_bchw: &Tensor) -> Tensor {
        self.tokens(&self.encoders.image_vectors(images_bchw))
    }

    /// # Panics
    ///
    /// As [`Matcher::image_tokens`].
    fn features_and_tokens(&self, images_bchw: &Tensor, _path: PatchPath) -> (ImageFeatures, Tensor) {
        let image = self.encoders.image_vectors(images_bchw);
        (self.features(&image), self.tokens(&image))
    }

    fn text_tokens(&self, text: &TextBatch) -> Tensor {
        self.encoders.text_vectors(text)
    }

    fn match_logits(&self, image_rmc: &Tensor, text_rlw: &Tensor, mask_rl: &Tensor) -> Tensor {
        let logits_r2 = self.match_fused(&self.encoders.fuse(text_rlw, mask_rl, image_rmc));
        logits_r2.select(1, 1) - logits_r2.select(1, 0)
    }

    fn n_layers(&self) -> usize {
        self.encoders.fusion.n_layers()
    }

    fn grid(&self) -> PatchGrid {
        self.config.image.grid()
    }

    fn match_heatmaps(&self, image_rmc: &Tensor, text_rlw: &Tensor, mask_rl: &Tensor, layer: usize) -> Tensor {
        tch::with_grad(|| {
            let mut attention = Tensor::new();
            let pairs = Pairs { image_rmw: &image_rmc.detach(), text_rlw: &text_rlw.detach(), mask_rl };
            let match_r = self.match_seen(&pairs, layer, &mut |probabilities| {
                // What comes before has no part in the gradient.
                attention = probabilities.detach().set_requires_grad(true);
                attention.shallow_clone()
            });
            // Pairs do not see each other: the gradient of the sum is that of each.
            let gradient = Tensor::run_backward(&[match_r.sum(match_r.kind())], &[&attention], false, false);
            let heat_rlm =
                grad_cam(&attention.detach(), &gradient[0]).masked_fill(&mask_rl.logical_not().unsqueeze(-1), 0.0);
            // The class token, where there is one, comes before the patches.
            let (n_patches, n_tokens) = (self.grid().len(), heat_rlm.size()[2]);
            heat_rlm.narrow(2, n_tokens - n_patches, n_patches)
        })
    }
}

/// Pairs as the fusion encoder reads them.
pub(super) struct Pairs<'a> {
    pub image_rmw: &'a Tensor,
    pub text_rlw: &'a Tensor,
    pub mask_rl: &'a Tensor,
}

impl Albef {
    /// What the fusion encoder reads in evaluation.
    fn tokens(&self, image: &ImageVectors) -> Tensor {
        let tokens = self.look_up(&image.patches_bpw).map(|(_, tokens)| tokens);
        self.image_sequence(&self.encoders, image, tokens.as_ref())
    }

    /// Logits of "match", `[R]`, with what texts see of images in a layer through `see`.
    pub(super) fn match_seen(&self, pairs: &Pairs<'_>, layer: usize, see: SeeAttention<'_>) -> Tensor {
        let Pairs { image_rmw, text_rlw, mask_rl } = *pairs;
        let fused_rlw = self.encoders.fusion.forward_seen(text_rlw, mask_rl, image_rmw, layer, see);
        self.match_fused(&fused_rlw).select(1, 1)
    }
}
