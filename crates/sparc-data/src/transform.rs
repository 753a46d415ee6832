//! Geometry: which part of the image the network sees, and where boxes and labels go with it.

use rand::Rng;
use serde::{Deserialize, Serialize};
use sparc_core::LabelMap;

use crate::pixels::{CropBox, flip_horizontally, resize};

/// How an image of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The whole image, its aspect ratio changed (what SPARC's "resize" says, read literally).
    Squash,
    /// The largest centred square: short side to size, then centre crop, as CLIP evaluates.
    CenterCrop,
}

/// Random geometry in training; every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Smallest share of the image's area that a random crop keeps; 1 turns crops off. open_clip
    /// uses 0.9.
    pub min_crop_area: f64,
    /// Whether images are mirrored half of the time. Those whose captions say left or right never are.
    pub horizontal_flip: bool,
}

impl Augmentation {
    /// No randomness at all: what evaluation sees.
    pub const NONE: Augmentation = Augmentation { min_crop_area: 1.0, horizontal_flip: false };
}

/// The frame that the network sees, within the source image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    crop: CropBox,
    source: (f64, f64),
    flipped: bool,
}

impl Frame {
    /// Aspect ratios that random crops are drawn from (torchvision's RandomResizedCrop).
    const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
    /// How often a crop is drawn before the plain frame is taken (torchvision's number).
    const ATTEMPTS: usize = 10;

    /// Chooses a frame in an image of `width`×`height` pixels.
    pub fn choose(
        (width, height): (u32, u32),
        mode: ResizeMode,
        augmentation: Augmentation,
        may_flip: bool,
        generator: &mut impl Rng,
    ) -> Frame {
        let source = (f64::from(width), f64::from(height));
        let flipped = augmentation.horizontal_flip && generator.random_bool(0.5) && may_flip;
        let crop = Self::random_crop(source, augmentation.min_crop_area, generator).unwrap_or(match mode {
            ResizeMode::Squash => CropBox { left: 0.0, top: 0.0, width: source.0, height: source.1 },
            ResizeMode::CenterCrop => {
                let side = source.0.min(source.1);
                CropBox { left: (source.0 - side) / 2.0, top: (source.1 - side) / 2.0, width: side, height: side }
            }
        });
        Frame { crop, source, flipped }
    }

    fn random_crop(source: (f64, f64), min_area: f64, generator: &mut impl Rng) -> Option<CropBox> {
        if min_area >= 1.0 {
            return None;
        }
        for _ in 0..Self::ATTEMPTS {
            let area = source.0 * source.1 * generator.random_range(min_area..=1.0);
            let aspect = generator.random_range(Self::ASPECT.0.ln()..=Self::ASPECT.1.ln()).exp();
            let (width, height) = ((area * aspect).sqrt(), (area / aspect).sqrt());
            let (left, top) = (generator.random::<f64>(), generator.random::<f64>());
            if width >= 1.0 && height >= 1.0 && width <= source.0 && height <= source.1 {
                let crop = CropBox { left: left * (source.0 - width), top: top * (source.1 - height), width, height };
                return Some(crop);
            }
        }
        None
    }

    /// The frame's pixels at `size`×`size`.
    ///
    /// # Errors
    ///
    /// What the resizer said.
    pub fn pixels(&self, image: &image::RgbImage, size: u32) -> Result<Vec<u8>, String> {
        let mut pixels = resize(image, self.crop, size)?;
        if self.flipped {
            flip_horizontally(&mut pixels, size as usize);
        }
        Ok(pixels)
    }

    /// A box in `[0, 1]` of the source image, in `[0, 1]` of the frame and cut at its edges; `None`
    /// if less than `min_visible` of its area is inside.
    pub fn map_box(&self, [x0, y0, x1, y1]: [f32; 4], min_visible: f32) -> Option<[f32; 4]> {
        let x = |v: f32| ((f64::from(v) * self.source.0 - self.crop.left) / self.crop.width) as f32;
        let y = |v: f32| ((f64::from(v) * self.source.1 - self.crop.top) / self.crop.height) as f32;
        let (x0, y0, x1, y1) = (x(x0), y(y0), x(x1), y(y1));
        let (x0, x1) = if self.flipped { (1.0 - x1, 1.0 - x0) } else { (x0, x1) };
        let cut = [x0.clamp(0.0, 1.0), y0.clamp(0.0, 1.0), x1.clamp(0.0, 1.0), y1.clamp(0.0, 1.0)];
        let area = |[x0, y0, x1, y1]: [f32; 4]| (x1 - x0) * (y1 - y0);
        (area(cut) > 0.0 && area(cut) >= min_visible * area([x0, y0, x1, y1])).then_some(cut)
    }

    /// The part of a label map, given for the whole source image, that lies in the frame.
    pub fn map_labels(&self, labels: &image::GrayImage) -> LabelMap {
        let (width, height) = (f64::from(labels.width()), f64::from(labels.height()));
        let (sx, sy) = (width / self.source.0, height / self.source.1);
        let left = (self.crop.left * sx).round() as u32;
        let top = (self.crop.top * sy).round() as u32;
        let crop_width = ((self.crop.width * sx).round() as u32).clamp(1, labels.width() - left);
        let crop_height = ((self.crop.height * sy).round() as u32).clamp(1, labels.height() - top);
        let mut map = Vec::with_capacity((crop_width * crop_height) as usize);
        for y in top..top + crop_height {
            let row = (left..left + crop_width).map(|x| labels.get_pixel(x, y).0[0]);
            if self.flipped { map.extend(row.rev()) } else { map.extend(row) }
        }
        LabelMap { height: crop_height as usize, width: crop_width as usize, labels: map }
    }
}

/// Whether a text stays true when its image is mirrored: it says nothing of left or right.
pub fn survives_mirroring(text: &str) -> bool {
    !text.split(|c: char| !c.is_alphanumeric()).any(|word| {
        let word = word.to_ascii_lowercase();
        // "leftover" and "rightful" only lose a flip.
        word.starts_with("left") || word.starts_with("right") || word.ends_with("clockwise")
    })
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, Rgb, RgbImage};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// A bright rectangle on black: after any frame, the box must be where the pixels are.
        #[test]
        fn boxes_move_with_their_pixels(
            width in 40u32..160, height in 40u32..160, x in 0.1f32..0.5, y in 0.1f32..0.5, seed in 0u64..1000,
            center in any::<bool>(), crop in prop_oneof![Just(1.0), 0.4..1.0f64],
        ) {
            let given = [x, y, x + 0.35, y + 0.35];
            let inside = |v: u32, n: u32, lo: f32, hi: f32| (lo..hi).contains(&((v as f32 + 0.5) / n as f32));
            let image = RgbImage::from_fn(width, height, |px, py| {
                let lit = inside(px, width, given[0], given[2]) && inside(py, height, given[1], given[3]);
                if lit { Rgb([255; 3]) } else { Rgb([0; 3]) }
            });
            let mode = if center { ResizeMode::CenterCrop } else { ResizeMode::Squash };
            let augmentation = Augmentation { min_crop_area: crop, horizontal_flip: true };
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            let frame = Frame::choose((width, height), mode, augmentation, true, &mut generator);
            let size = 64;
            let pixels = frame.pixels(&image, size).unwrap();
            let labels = frame.map_labels(&GrayImage::from_fn(width, height, |px, py| Luma([image.get_pixel(px, py).0[0]])));
            let mapped = frame.map_box(given, 0.0);
            let lit = |px: u32, py: u32| pixels[((py * size + px) * 3) as usize] > 127;
            for py in 0..size {
                for px in 0..size {
                    let (cx, cy) = ((px as f32 + 0.5) / size as f32, (py as f32 + 0.5) / size as f32);
                    let [x0, y0, x1, y1] = mapped.unwrap_or([2.0; 4]);
                    // Pixels within two of an edge may fall to either side.
                    let margin = 2.5 / size as f32 + 1.0 / width.min(height) as f32;
                    let surely_in = cx > x0 + margin && cx < x1 - margin && cy > y0 + margin && cy < y1 - margin;
                    let surely_out = cx < x0 - margin || cx > x1 + margin || cy < y0 - margin || cy > y1 + margin;
                    if surely_in || surely_out {
                        prop_assert_eq!(lit(px, py), surely_in, "pixel {} {} box {:?}", px, py, mapped);
                        let column = ((cx * labels.width as f32) as usize).min(labels.width - 1);
                        let row = ((cy * labels.height as f32) as usize).min(labels.height - 1);
                        prop_assert_eq!(labels.labels[row * labels.width + column] > 127, surely_in);
                    }
                }
            }
        }
    }

    #[test]
    fn boxes_outside_the_frame_vanish() {
        let mut generator = ChaCha8Rng::seed_from_u64(0);
        let frame = Frame::choose((200, 100), ResizeMode::CenterCrop, Augmentation::NONE, true, &mut generator);
        assert_eq!(frame.map_box([0.0, 0.0, 0.2, 1.0], 0.0), None);
        assert_eq!(frame.map_box([0.25, 0.0, 0.75, 1.0], 1.0), Some([0.0, 0.0, 1.0, 1.0]));
        assert_eq!(frame.map_box([0.0, 0.0, 0.5, 1.0], 0.6), None);
    }

    #[test]
    fn words_of_direction_forbid_mirroring() {
        assert!(survives_mirroring("a red circle above a square"));
        for text in ["Left of it", "on the right.", "left-hand", "an arrow pointing rightwards"] {
            assert!(!survives_mirroring(text), "{text}");
        }
        assert!(survives_mirroring("a bright copyright sign"));
    }
}
