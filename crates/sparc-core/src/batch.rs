//! What a loader hands to a network.

use tch::{Device, Tensor};

// Dimension letters: b batch, c channel, h height, w width, l tokens, m regions, r tokens of a region.

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
#[derive(Debug)]
pub struct RegionBatch {
    /// Boxes `x0, y0, x1, y1` in `[0, 1]` of the network input, x right, y down, `[B, M, 4]`, `f32`.
    pub boxes_bm4: Tensor,
    /// The regions' phrases, `B * M` texts in row-major order (empty text in an unused slot).
    pub text: TextBatch,
    /// True where a slot holds a region, `[B, M]`, `bool`.
    pub valid_bm: Tensor,
}

/// One step's input.
#[derive(Debug)]
pub struct Batch {
    /// Normalised images, `[B, 3, H, W]`, `f32`.
    pub images_bchw: Tensor,
    /// One caption per image.
    pub text: TextBatch,
    /// Regions, if the loader was asked for them.
    pub regions: Option<RegionBatch>,
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
            regions: self.regions.as_ref().map(|regions| RegionBatch {
                boxes_bm4: regions.boxes_bm4.to_device(device),
                text: regions.text.to_device(device),
                valid_bm: regions.valid_bm.to_device(device),
            }),
            keys: self.keys.clone(),
        }
    }
}
