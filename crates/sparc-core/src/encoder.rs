//! The narrow view that evaluation has of a network and of a tokenizer.

use tch::Tensor;

use crate::{ImageFeatures, PatchGrid, TextBatch, TextFeatures};

/// Which way patch features take to the shared space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchPath {
    /// The way the fine-grained loss sees them: tower, then adapter.
    Local,
    /// The way the pooled embedding goes: tower, dense layer, adapter, patch by patch. SPARC's
    /// zero-shot segmentation reads patches here (Bica et al. 2024, appendix D.7).
    Global,
}

/// A network that embeds images and texts into one space.
pub trait Encoder {
    /// Height and width of the input images in pixels.
    fn image_size(&self) -> (i64, i64);

    /// Embeds normalised images `[B, 3, H, W]`, with patch features along `path`.
    fn encode_images(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures;

    /// Embeds texts.
    fn encode_text(&self, text: &TextBatch) -> TextFeatures;

    /// The network as one that embeds regions, if it was trained to.
    fn region_encoder(&self) -> Option<&dyn RegionEncoder> {
        None
    }

    /// The captioner, of a network that is one.
    fn captioner(&self) -> Option<&dyn Caption> {
        None
    }

    /// What answers questions about images, of a network that does.
    fn answerer(&self) -> Option<&dyn Answer> {
        None
    }

    /// The network's own classifier, if it was fine-tuned to be one.
    fn classifier(&self) -> Option<&dyn Classify> {
        None
    }

    /// The network as one that judges pairs with a fusion encoder, if it has one.
    fn matcher(&self) -> Option<&dyn Matcher> {
        None
    }
}

/// A network that reads a text together with an image and tells whether they belong together (ALBEF, Li et al. 2021):
/// dearer than comparing embeddings, as every pair is read anew, so that it re-ranks a few candidates.
pub trait Matcher {
    /// What matching reads of normalised images `[B, 3, H, W]`: tokens `[B, M, C]`, computed once for all texts.
    fn image_tokens(&self, images_bchw: &Tensor) -> Tensor;

    /// [`Encoder::encode_images`] and [`Matcher::image_tokens`] of the same images, which pass the tower once.
    fn features_and_tokens(&self, images_bchw: &Tensor, path: PatchPath) -> (ImageFeatures, Tensor);

    /// What matching reads of texts: tokens `[B, L, W]`, computed once for all images.
    fn text_tokens(&self, text: &TextBatch) -> Tensor;

    /// Log-odds that pair r belongs together, `[R]`, of image tokens `[R, M, C]` with text tokens `[R, L, W]` and their
    /// mask `[R, L]`.
    fn match_logits(&self, image_rmc: &Tensor, text_rlw: &Tensor, mask_rl: &Tensor) -> Tensor;

    /// Layers of the fusion encoder.
    fn n_layers(&self) -> usize;

    /// How patches lie on the image.
    fn grid(&self) -> PatchGrid;

    /// Where each token of a text looks for the pair to be judged a match: Grad-CAM of the logit of "match" by what the
    /// fusion encoder's `layer`, the first being 0, sees of the patches ([`grad_cam`](crate::grad_cam)). Inputs as those
    /// of [`Matcher::match_logits`]; the result is `[R, L, P]`, nowhere below 0, and 0 at padding.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    fn match_heatmaps(&self, image_rmc: &Tensor, text_rlw: &Tensor, mask_rl: &Tensor, layer: usize) -> Tensor;
}

/// A network that embeds regions of images, and may find the region of a phrase.
pub trait RegionEncoder {
    /// One embedding for each box, not normalised, in the space of [`Encoder::encode_text`].
    ///
    /// # Shapes
    ///
    /// Normalised images `[B, 3, H, W]`, boxes `[B, S, 4]` in `[0, 1]` of them, `valid_bs` `[B, S]` `bool`; the result
    /// is `[B, S, D]`, without meaning where `valid_bs` is false.
    fn encode_regions(&self, images_bchw: &Tensor, boxes_bs4: &Tensor, valid_bs: &Tensor) -> Tensor;

    /// Where each phrase is: boxes `[B, S, 4]` cut to `[0, 1]` of the images, from pooled embeddings of the phrases
    /// `[B, S, D]`. `None` if the network was not trained to tell.
    fn ground_phrases(&self, images_bchw: &Tensor, phrases_bsd: &Tensor, valid_bs: &Tensor) -> Option<Tensor>;
}

/// A network that describes images in words.
pub trait Caption {
    /// One caption for each normalised image `[B, 3, H, W]`; `keys` are the samples' and seed what is drawn.
    fn caption(&self, images_bchw: &Tensor, keys: &[&str]) -> Vec<String>;

    /// How captions are made, in words for a report.
    fn protocol(&self) -> String;
}

/// A question about one image of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedQuestion<'a> {
    /// The image's row.
    pub image: usize,
    /// The sample's key, which seeds what is drawn.
    pub key: &'a str,
    /// The question.
    pub question: &'a str,
}

/// A network that answers questions about images.
pub trait Answer {
    /// One answer for each question about normalised images `[B, 3, H, W]`.
    fn answer(&self, images_bchw: &Tensor, questions: &[AskedQuestion]) -> Vec<String>;

    /// How answers are found, in words for a report.
    fn protocol(&self) -> String;

    /// Whether the answer can be given at all: not, where it is none of a closed list.
    fn knows(&self, answer: &str) -> bool;
}

/// A network that was trained to tell the classes of images.
pub trait Classify {
    /// Names of the K classes it tells apart.
    fn class_names(&self) -> &[String];

    /// A score of each class, `[B, K]`, of normalised images `[B, 3, H, W]`.
    fn class_scores(&self, images_bchw: &Tensor) -> Tensor;
}

/// The special tokens of a vocabulary, as generation needs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextEnds {
    /// Stands before every text.
    pub begin: i64,
    /// Ends it.
    pub end: i64,
    /// Never written: the beginning token, padding, the unknown token.
    pub never: Vec<i64>,
}

/// Turns texts into padded token ids.
pub trait Tokenize {
    /// Tokenises texts into one padded batch on the CPU, truncated to the context length.
    fn tokenize(&self, texts: &[&str]) -> TextBatch;

    /// The pieces of one text as shown to a reader, one per token of [`Tokenize::tokenize`]
    /// (special tokens included).
    fn pieces(&self, text: &str) -> Vec<String>;
}
