//! Where in an image the network sees a phrase: one value a patch.

use ndarray::{Array2, ArrayView2, concatenate};
use sparc_core::{Matcher, tensor_math::masked_mean};
use tch::{Device, Kind, Tensor};

use super::EvalError;
use super::features::TextEmbedder;

// Dimension letters: q phrases, p patches, l tokens, m image tokens, c their width, d width of the shared space.

/// What phrase grounding takes for the heatmap of a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heatmaps {
    /// The cosine of the phrase's pooled embedding with every patch.
    Similarity,
    /// Grad-CAM of the matching head: what a layer of the fusion encoder sees for the pair to be judged a match, averaged
    /// over the phrase's tokens, special ones included (ALBEF, Li et al. 2021, section 6.3).
    GradCam {
        /// The layer, the first being 0; `None` is the middle one, of an even number the earlier, which is ALBEF's third
        /// of six.
        layer: Option<usize>,
    },
}

/// Heatmaps of a network.
#[derive(Clone, Copy)]
pub(super) enum HeatmapSource<'a> {
    Similarity,
    GradCam { matcher: &'a dyn Matcher, layer: usize },
}

impl Heatmaps {
    /// What gives them, or why nothing does.
    pub(super) fn source<'a>(self, matcher: Option<&'a dyn Matcher>) -> Result<HeatmapSource<'a>, EvalError> {
        let Heatmaps::GradCam { layer } = self else { return Ok(HeatmapSource::Similarity) };
        let matcher =
            matcher.ok_or(EvalError::NoMatcher { what: "Grad-CAM", instead: "ask for heatmaps by similarity" })?;
        let layer = layer.unwrap_or_else(|| middle_layer(matcher.n_layers()));
        if layer >= matcher.n_layers() {
            return Err(EvalError::InvalidRequest {
                field: "heatmaps",
                value: format!("Grad-CAM of fusion layer {}", layer + 1),
                expected: format!("of layers 1 to {}", matcher.n_layers()),
            });
        }
        Ok(HeatmapSource::GradCam { matcher, layer })
    }
}

/// The layer whose Grad-CAM is read unless another one is named, the first being 0.
pub fn middle_layer(n_layers: usize) -> usize {
    n_layers.saturating_sub(1) / 2
}

impl HeatmapSource<'_> {
    /// In words, for a report; layers are counted from 1.
    pub fn protocol(&self) -> String {
        match self {
            HeatmapSource::Similarity => "similarity".to_owned(),
            HeatmapSource::GradCam { matcher, layer } => {
                format!("grad-cam of fusion layer {} of {}", layer + 1, matcher.n_layers())
            }
        }
    }
}

/// Cosines of phrases with the L2-normalised patches of an image, `[Q, P]`.
pub(super) fn by_similarity(
    embedder: TextEmbedder<'_>,
    key: &str,
    patches_pd: ArrayView2<'_, f32>,
    phrases: &[&str],
) -> Result<Array2<f32>, EvalError> {
    let phrases_qd = embedder.embed(phrases, |index| EvalError::NonFinite {
        key: key.to_owned(),
        what: format!("embedding of the phrase `{}`", phrases[index]),
    })?;
    Ok(phrases_qd.dot(&patches_pd.t()))
}

/// Grad-CAM of phrases with what matching reads of an image, `[M, C]`: `[Q, P]`.
pub(super) fn by_grad_cam(
    embedder: TextEmbedder<'_>,
    key: &str,
    (matcher, layer): (&dyn Matcher, usize),
    tokens_mc: &Tensor,
    phrases: &[&str],
) -> Result<Array2<f32>, EvalError> {
    let n_patches = matcher.grid().len() as usize;
    let mut rows = Vec::new();
    for chunk in phrases.chunks(embedder.batch_size) {
        let texts = embedder.tokenizer.tokenize(chunk).to_device(embedder.device);
        let image_qmc = tokens_mc.unsqueeze(0).expand([chunk.len() as i64, -1, -1], false);
        let heat_qlp = matcher.match_heatmaps(&image_qmc, &matcher.text_tokens(&texts), &texts.mask_bl, layer);
        let heat_qp = masked_mean(&heat_qlp, &texts.mask_bl).to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        let values = Vec::<f32>::try_from(&heat_qp.view([-1])).expect("numbers");
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            let what = format!("Grad-CAM of the phrase `{}`", chunk[place / n_patches]);
            return Err(EvalError::NonFinite { key: key.to_owned(), what });
        }
        rows.push(Array2::from_shape_vec((chunk.len(), n_patches), values).expect("P values a phrase"));
    }
    let views: Vec<_> = rows.iter().map(Array2::view).collect();
    Ok(concatenate(ndarray::Axis(0), &views).expect("P values a phrase"))
}
