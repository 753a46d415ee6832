//! What the network sees of an image: which part, at which scale, and how it was changed.

use image::RgbImage;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::decode::{DecodedImage, Reduction};
pub use crate::directions::survives_mirroring;
pub use crate::geometry::{Affine, Geometry};
use crate::pixels::flip_horizontally;
pub use crate::random_augment::{Operation, RandomAugment};
use crate::resample::{PixelRect, Resampling, Resizer};

/// How an image of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The whole image, its aspect ratio changed (what SPARC's "resize" says, read literally).
    Squash,
    /// Short side to size, then the centre: `Resize` and `CenterCrop` of torchvision, as CLIP and
    /// open_clip evaluate.
    CenterCrop,
    /// Long side to size, centred on black (open_clip's `longest`).
    Pad,
}

/// Randomness in training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Smallest share of the image's area that a random crop keeps; 1 turns crops off. open_clip
    /// uses 0.9.
    pub min_crop_area: f64,
    /// Whether images are mirrored half of the time. Those whose captions say left or right never are.
    pub horizontal_flip: bool,
    /// RandAugment after that; absent turns it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_augment: Option<RandomAugment>,
}

impl Augmentation {
    /// No randomness at all: what evaluation sees.
    pub const NONE: Augmentation = Augmentation { min_crop_area: 1.0, horizontal_flip: false, random_augment: None };
}

/// What the network sees of one image. In this order: `crop` is cut out of the upright image, resized
/// to `scaled`, a square window of it is taken, mirrored, and changed by `operations`.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    source: (u32, u32),
    side: u32,
    crop: PixelRect,
    scaled: (u64, u64),
    /// The window's left and upper edge in the resized picture; below 0 where the frame is larger.
    offset: (i64, i64),
    mirrored: bool,
    operations: Vec<Operation>,
}

/// Aspect ratios that random crops are drawn from (torchvision's RandomResizedCrop).
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// How often a crop is drawn before the centre is taken (torchvision's number).
const ATTEMPTS: usize = 10;
/// A reduced image keeps at least this many pixels for each pixel of the frame, in each direction: the
/// last halving is left to the filter that all images get.
const REDUCED_PIXELS: u64 = 2;
/// What surrounds a padded image (open_clip's fill colour).
const BLACK: u8 = 0;

impl Frame {
    /// The frame of `side`×`side` pixels that an image of `width`×`height` gets without randomness.
    pub fn plain((width, height): (u32, u32), side: u32, mode: ResizeMode) -> Frame {
        let (w, h, s) = (u64::from(width), u64::from(height), u64::from(side));
        let scaled = match mode {
            ResizeMode::Squash => (s, s),
            // The long side is rounded down (torchvision's `int`).
            ResizeMode::CenterCrop if w <= h => (s, s * h / w),
            ResizeMode::CenterCrop => (s * w / h, s),
            ResizeMode::Pad => {
                let ratio = w.max(h) as f64 / s as f64;
                let round = |length: u64| ((length as f64 / ratio).round_ties_even() as u64).max(1);
                (round(w), round(h))
            }
        };
        let offset = |length: u64| {
            if length < s {
                // Of an odd rest the larger half comes after the image.
                return -((s - length) as i64 / 2);
            }
            ((length - s) as f64 / 2.0).round_ties_even() as i64
        };
        Frame {
            source: (width, height),
            side,
            crop: PixelRect { left: 0, top: 0, width: w, height: h },
            scaled,
            offset: (offset(scaled.0), offset(scaled.1)),
            mirrored: false,
            operations: Vec::new(),
        }
    }

    /// A frame with randomness: a crop if crops are asked for and else the plain frame, mirrored or not,
    /// and RandAugment's operations.
    pub fn random(
        source: (u32, u32),
        side: u32,
        mode: ResizeMode,
        augmentation: &Augmentation,
        may_mirror: bool,
        generator: &mut impl Rng,
    ) -> Frame {
        let mut frame = Frame::plain(source, side, mode);
        frame.mirrored = augmentation.horizontal_flip && generator.random_bool(0.5) && may_mirror;
        if augmentation.min_crop_area < 1.0 {
            frame.crop = random_crop(source, augmentation.min_crop_area, generator);
            frame.scaled = (side.into(), side.into());
            frame.offset = (0, 0);
        }
        if let Some(settings) = augmentation.random_augment {
            frame.operations = settings.draw(side, generator);
        }
        frame
    }

    /// The way of positions from the source image to this frame.
    pub fn geometry(&self) -> Geometry {
        let side = f64::from(self.side);
        let scale = |new: u64, old: u64| new as f64 / old as f64;
        let scale = (scale(self.scaled.0, self.crop.width), scale(self.scaled.1, self.crop.height));
        let place = |edge: u64, scale: f64, offset: i64| -(edge as f64 * scale + offset as f64);
        let moved = (place(self.crop.left, scale.0, self.offset.0), place(self.crop.top, scale.1, self.offset.1));
        let mut map = Affine::scale_and_move(scale, moved);
        if self.mirrored {
            map = map.then(&Affine::scale_and_move((-1.0, 1.0), (side, 0.0)));
        }
        let warps = self.operations.iter().filter_map(|operation| match operation {
            Operation::Warp(warp) => Some(*warp),
            _ => None,
        });
        let maps = std::iter::once(map).chain(warps).collect();
        Geometry::new((self.source.0.into(), self.source.1.into()), (side, side), maps)
    }

    /// The strongest reduction of a JPEG that leaves twice the frame's pixels in each direction.
    pub fn reduction(&self) -> Reduction {
        [Reduction::Eighth, Reduction::Quarter, Reduction::Half]
            .into_iter()
            .find(|reduction| {
                let fits = |old: u64, new: u64| old >= new * REDUCED_PIXELS * u64::from(reduction.factor());
                fits(self.crop.width, self.scaled.0) && fits(self.crop.height, self.scaled.1)
            })
            .unwrap_or(Reduction::None)
    }

    /// The frame's RGB bytes, `side`×`side` pixels.
    ///
    /// # Panics
    ///
    /// An image of another size than the frame was made for.
    pub fn render(&self, image: &DecodedImage) -> Vec<u8> {
        let mut rendering = self.begin(image.pixels.dimensions(), image.reduction, image.shift);
        rendering.take(0, image.pixels.as_raw());
        rendering.finish()
    }

    /// Begins to render an image whose rows come later: it is decoded at 1/`reduction` to `size` pixels; `shift` is that of
    /// [`DecodedImage`].
    ///
    /// # Panics
    ///
    /// As [`Frame::render`].
    pub(crate) fn begin(&self, size: (u32, u32), reduction: u32, shift: (f64, f64)) -> Rendering<'_> {
        let side = u64::from(self.side);
        let reduced = |length: u32| length.div_ceil(reduction);
        let expected = (reduced(self.source.0), reduced(self.source.1));
        assert_eq!(size, expected, "the frame was made for {:?} pixels", self.source);
        let across = Axis::new(
            (self.crop.left, self.crop.width),
            (size.0, reduction, shift.0),
            (self.scaled.0, self.offset.0),
            side,
        );
        let down = Axis::new(
            (self.crop.top, self.crop.height),
            (size.1, reduction, shift.1),
            (self.scaled.1, self.offset.1),
            side,
        );
        let resampling = Resampling {
            within: PixelRect {
                left: across.within.0,
                top: down.within.0,
                width: across.within.1,
                height: down.within.1,
            },
            part: [across.part.0, down.part.0, across.part.1, down.part.1],
            scaled: self.scaled,
            window: PixelRect {
                left: across.window.0,
                top: down.window.0,
                width: across.window.1,
                height: down.window.1,
            },
        };
        Rendering { frame: self, resizer: Resizer::new(size, &resampling), across, down }
    }

    /// The frame's RGB bytes of an image that was decoded in full.
    ///
    /// # Panics
    ///
    /// As [`Frame::render`].
    pub fn pixels(&self, image: RgbImage) -> Vec<u8> {
        self.render(&image.into())
    }
}

/// A frame under way.
pub(crate) struct Rendering<'a> {
    frame: &'a Frame,
    resizer: Resizer,
    across: Axis,
    down: Axis,
}

impl Rendering<'_> {
    /// As [`Resizer::take`].
    pub(crate) fn take(&mut self, y: usize, rows: &[u8]) {
        self.resizer.take(y, rows);
    }

    /// The frame's RGB bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        let Rendering { frame, resizer, across, down } = self;
        let side = u64::from(frame.side);
        let mut pixels = resizer.finish();
        if (across.window.1, down.window.1) != (side, side) {
            pixels = padded(&pixels, frame.side as usize, (across.margin, down.margin), across.window.1);
        }
        if frame.mirrored {
            flip_horizontally(&mut pixels, side as usize);
        }
        for operation in &frame.operations {
            operation.apply(&mut pixels, side as usize);
        }
        pixels
    }
}

/// A picture of `width` columns on a canvas of `side`×`side`.
fn padded(pixels: &[u8], side: usize, (left, top): (u64, u64), width: u64) -> Vec<u8> {
    let stride = side * 3;
    let mut canvas = vec![BLACK; stride * side];
    let line = width as usize * 3;
    for (row, into) in pixels.chunks_exact(line).zip(canvas.chunks_exact_mut(stride).skip(top as usize)) {
        into[left as usize * 3..][..line].copy_from_slice(row);
    }
    canvas
}

/// One direction of what [`Frame::render`] resamples.
struct Axis {
    /// First pixel of the decoded image that may be looked at, and how many.
    within: (u64, u64),
    /// What of them is spread out.
    part: (f32, f32),
    /// First pixel of the resized picture that is in the frame, and how many.
    window: (u64, u64),
    /// Pixels of the frame before the picture.
    margin: u64,
}

impl Axis {
    /// `length` pixels of the full image from `start` on, of which the decoded one has `size` pixels at 1/`reduction`, moved
    /// by `shift`; resized to `scaled`, of which the frame's `side` begins at `offset`.
    fn new(
        (start, length): (u64, u64),
        (size, reduction, shift): (u32, u32, f64),
        (scaled, offset): (u64, i64),
        side: u64,
    ) -> Axis {
        let place = |edge: u64| edge as f64 / f64::from(reduction) + shift;
        let (low, high) = (place(start), place(start + length));
        let (first, end) = (low.floor(), high.ceil().min(f64::from(size)));
        let (skipped, margin) = (offset.max(0) as u64, (-offset).max(0) as u64);
        Axis {
            within: (first as u64, (end - first) as u64),
            part: ((low - first) as f32, (high - first) as f32),
            window: (skipped, (scaled - skipped).min(side - margin)),
            margin,
        }
    }
}

/// torchvision's `RandomResizedCrop.get_params`, drawn from `generator`: whole pixels, and where ten
/// draws found none, the centre, as large as the aspect ratios allow.
fn random_crop((width, height): (u32, u32), min_area: f64, generator: &mut impl Rng) -> PixelRect {
    let (w, h) = (f64::from(width), f64::from(height));
    let whole = |length: f64| length.round_ties_even() as u32;
    for _ in 0..ATTEMPTS {
        let area = w * h * generator.random_range(min_area..=1.0);
        let aspect = generator.random_range(ASPECT.0.ln()..=ASPECT.1.ln()).exp();
        let (crop_width, crop_height) = (whole((area * aspect).sqrt()), whole((area / aspect).sqrt()));
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            return PixelRect {
                left: generator.random_range(0..=width - crop_width).into(),
                top: generator.random_range(0..=height - crop_height).into(),
                width: crop_width.into(),
                height: crop_height.into(),
            };
        }
    }
    let (crop_width, crop_height) = if w / h < ASPECT.0 {
        (width, whole(w / ASPECT.0).clamp(1, height))
    } else if w / h > ASPECT.1 {
        (whole(h * ASPECT.1).clamp(1, width), height)
    } else {
        (width, height)
    };
    PixelRect {
        left: u64::from((width - crop_width) / 2),
        top: u64::from((height - crop_height) / 2),
        width: crop_width.into(),
        height: crop_height.into(),
    }
}

#[cfg(test)]
#[path = "transform_tests.rs"]
mod tests;
