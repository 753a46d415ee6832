//! What a loader hands to a network.

use tch::{Device, Tensor};

// Dimension letters: b batch, c channel, h height, w width, l tokens, m regions, r tokens of a phrase,
// u distinct phrases, n captions of all images, k outputs of a head.

/// Token ids of several texts, padded to the longest.
#[derive(Debug)]
pub struct TextBatch {
    /// Token ids, `[B, L]`, `i64`. Padding positions hold the tokenizer's padding id.
    pub ids_bl: Tensor,
    /// True where a token stands, special tokens included, `[B, L]`, `bool`.
    pub mask_bl: Tensor,
    /// True where a token stands that is a piece of the text itself, neither padding nor special
    /// (BOS, EOS), `[B, L]`, `bool`.
    pub content_bl: Tensor,
}

impl TextBatch {
    /// Number of texts B.
    pub fn len(&self) -> i64 {
        self.ids_bl.size()[0]
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same batch on another device.
    pub fn to_device(&self, device: Device) -> TextBatch {
        TextBatch {
            ids_bl: self.ids_bl.to_device(device),
            mask_bl: self.mask_bl.to_device(device),
            content_bl: self.content_bl.to_device(device),
        }
    }
}

/// Up to M annotated regions of each image; unused slots are marked invalid.
///
/// A phrase that several regions of the batch share ("person") is there once, so that a text encoder
/// sees U ≤ B·M phrases; the features `[U, D]` of all phrases become those of the slots by
/// `index_select(0, phrase_of_slot.view(-1))`.
#[derive(Debug)]
pub struct RegionBatch {
    /// Boxes `x0, y0, x1, y1` in `[0, 1]` of the network input, x right, y down, `[B, M, 4]`, `f32`. Zeros
    /// in an unused slot.
    pub boxes_bm4: Tensor,
    /// The distinct phrases in the order of their first slots, `[U, R]`, padded to the longest of them. In
    /// a batch without any region one empty text stands in, so that U is at least 1.
    pub phrases: TextBatch,
    /// The row of `phrases` that each slot has, `[B, M]`, `i64`. 0 in an unused slot.
    pub phrase_of_slot_bm: Tensor,
    /// True where a slot holds a region, `[B, M]`, `bool`.
    pub valid_bm: Tensor,
}

impl RegionBatch {
    /// The same regions on another device.
    pub fn to_device(&self, device: Device) -> RegionBatch {
        RegionBatch {
            boxes_bm4: self.boxes_bm4.to_device(device),
            phrases: self.phrases.to_device(device),
            phrase_of_slot_bm: self.phrase_of_slot_bm.to_device(device),
            valid_bm: self.valid_bm.to_device(device),
        }
    }
}

/// Every caption of each image, for objectives with several positives.
#[derive(Debug)]
pub struct CaptionBatch {
    /// The captions, image by image, `[N, L]` with N ≥ B.
    pub text: TextBatch,
    /// The image (row of the batch) that each caption belongs to, `[N]`, `i64`, ascending.
    pub image_of_caption_n: Tensor,
}

impl CaptionBatch {
    /// The same captions on another device.
    pub fn to_device(&self, device: Device) -> CaptionBatch {
        CaptionBatch {
            text: self.text.to_device(device),
            image_of_caption_n: self.image_of_caption_n.to_device(device),
        }
    }
}

/// What a head that is fine-tuned is to say of each sample.
#[derive(Debug)]
pub struct TargetBatch {
    /// The share of each answer or class, `[B, K]`, `f32`: not negative, each row adds up to 1.
    pub shares_bk: Tensor,
    /// True where a token of the question stands, the beginning token among them, `[B, L]`, `bool`. Only
    /// questions have it: the batch's `text` is the question followed by its answer then.
    pub question_bl: Option<Tensor>,
}

impl TargetBatch {
    /// The same targets on another device.
    pub fn to_device(&self, device: Device) -> TargetBatch {
        TargetBatch {
            shares_bk: self.shares_bk.to_device(device),
            question_bl: self.question_bl.as_ref().map(|question_bl| question_bl.to_device(device)),
        }
    }
}

/// One step's input.
#[derive(Debug)]
pub struct Batch {
    /// Normalised images, `[B, 3, H, W]`, `f32`.
    pub images_bchw: Tensor,
    /// One caption per image.
    pub text: TextBatch,
    /// All captions, if the loader was asked for them. `text` is one of each image's then as well.
    pub captions: Option<CaptionBatch>,
    /// Regions, if the loader was asked for them.
    pub regions: Option<RegionBatch>,
    /// Answers or classes, if the loader was asked for them.
    pub targets: Option<TargetBatch>,
    /// Which image each pair is of, `[B]`, `i64`: a hash of the image as it is stored. Pairs of one image have one id,
    /// wherever they come from.
    pub image_ids_b: Tensor,
    /// The samples' keys, B of them, for logs and error messages.
    pub keys: Vec<String>,
}

impl Batch {
    /// Number of image-caption pairs B.
    pub fn len(&self) -> i64 {
        self.images_bchw.size()[0]
    }

    /// Whether there is no pair at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same batch on another device.
    pub fn to_device(&self, device: Device) -> Batch {
        Batch {
            images_bchw: self.images_bchw.to_device(device),
            text: self.text.to_device(device),
            captions: self.captions.as_ref().map(|captions| captions.to_device(device)),
            regions: self.regions.as_ref().map(|regions| regions.to_device(device)),
            targets: self.targets.as_ref().map(|targets| targets.to_device(device)),
            image_ids_b: self.image_ids_b.to_device(device),
            keys: self.keys.clone(),
        }
    }
}
