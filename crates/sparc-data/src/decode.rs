//! Encoded images to upright RGB pixels, with the size known before anything is decoded.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageReader, Limits, RgbImage};

use crate::jpeg::Jpeg;
pub use crate::jpeg::Reduction;
use crate::stages::{Stage, StageTimes};
use crate::transform::Frame;

/// Images with more pixels are refused: open_clip's default, against decompression bombs.
pub const MAX_PIXELS: u64 = 25_000_000;
/// Images with a longer side are refused, as libjpeg refuses them: the weights that resize a row of 25
/// million pixels are larger than the image.
pub const MAX_SIDE: u64 = 65_500;

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes.
    #[error("the file is empty (zero bytes)")]
    Empty,
    /// The header gives a size that is none, or that is refused before anything is decoded.
    #[error("{width}x{height} pixels: an image must have 1 to {MAX_PIXELS} pixels and no side above {MAX_SIDE}")]
    Size {
        /// Pixels in a row.
        width: u64,
        /// Rows.
        height: u64,
    },
    /// A label map that is not stored as 8-bit grey, so that its pixels would not be the labels.
    #[error("labels must be an 8-bit grey image, this one is {0}")]
    NotLabels(String),
    /// What the decoder said.
    #[error("{0}")]
    Broken(String),
}

fn broken(error: impl ToString) -> ImageError {
    ImageError::Broken(error.to_string())
}

/// An image whose header has been read.
pub struct EncodedImage<'a> {
    format: Format<'a>,
    stored: (u32, u32),
    orientation: Orientation,
}

enum Format<'a> {
    Jpeg(Box<Jpeg<'a>>),
    /// PNG or WebP.
    Other(Box<dyn ImageDecoder + 'a>),
}

/// Upright pixels, perhaps of a smaller picture.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedImage {
    /// The pixels.
    pub pixels: RgbImage,
    /// Where the point (x, y) of the full upright image lies in `pixels`: at
    /// (x / `reduction` + `shift.0`, y / `reduction` + `shift.1`), all measured in pixels from the
    /// upper left corner. The shift is the part of the last pixel that a size which `reduction` does
    /// not divide leaves empty, where turning the image upright brought it to the front.
    pub reduction: u32,
    /// See `reduction`.
    pub shift: (f64, f64),
}

impl From<RgbImage> for DecodedImage {
    fn from(pixels: RgbImage) -> DecodedImage {
        DecodedImage { pixels, reduction: 1, shift: (0.0, 0.0) }
    }
}

impl<'a> EncodedImage<'a> {
    /// Reads the header of a JPEG, PNG or WebP, told apart by content.
    ///
    /// # Errors
    ///
    /// An empty file, a size that is refused, or what the decoder said.
    pub fn open(bytes: &'a [u8]) -> Result<EncodedImage<'a>, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        let (format, (width, height), orientation) = if Jpeg::is_jpeg(bytes) {
            let jpeg = Jpeg::open(bytes).map_err(ImageError::Broken)?;
            let (size, orientation) = (jpeg.size(), jpeg.orientation());
            (Format::Jpeg(Box::new(jpeg)), size, orientation)
        } else {
            let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(broken)?;
            let mut limits = Limits::default();
            // Eight bytes a pixel hold 16-bit RGBA, the widest there is.
            limits.max_alloc = Some(MAX_PIXELS * 8);
            reader.limits(limits);
            let mut decoder = reader.into_decoder().map_err(broken)?;
            let (width, height) = decoder.dimensions();
            let orientation = decoder.orientation().map_err(broken)?;
            (Format::Other(Box::new(decoder)), (u64::from(width), u64::from(height)), orientation)
        };
        if width * height == 0 || width * height > MAX_PIXELS || width.max(height) > MAX_SIDE {
            return Err(ImageError::Size { width, height });
        }
        Ok(EncodedImage { format, stored: (width as u32, height as u32), orientation })
    }

    /// Width and height of the upright image, in pixels.
    pub fn size(&self) -> (u32, u32) {
        if swaps_sides(self.orientation) { (self.stored.1, self.stored.0) } else { self.stored }
    }

    /// Whether [`EncodedImage::decode`] can reduce, which only a JPEG's decoder does.
    pub fn can_reduce(&self) -> bool {
        matches!(self.format, Format::Jpeg(_))
    }

    /// What `frame` shows of the image, `side`×`side` RGB bytes: those of [`EncodedImage::decode`] and [`Frame::render`]. An
    /// upright JPEG is resized while it is decoded, so that its pixels never leave the processor's cache.
    ///
    /// # Errors
    ///
    /// What the decoder said.
    ///
    /// # Panics
    ///
    /// A frame that was made for another size.
    pub(crate) fn render(
        self,
        frame: &Frame,
        reduction: Reduction,
        stages: &StageTimes,
    ) -> Result<Vec<u8>, ImageError> {
        let is_upright = self.orientation == Orientation::NoTransforms;
        let jpeg = match self.format {
            Format::Jpeg(jpeg) if is_upright => jpeg,
            _ => {
                let image = stages.time(Stage::Decode, || self.decode(reduction))?;
                return Ok(stages.time(Stage::Resize, || frame.render(&image)));
            }
        };
        let size = (self.stored.0.div_ceil(reduction.factor()), self.stored.1.div_ceil(reduction.factor()));
        let mut rendering = stages.time(Stage::Resize, || frame.begin(size, reduction.factor(), (0.0, 0.0)));
        let (started, mut resizing) = (Instant::now(), Duration::ZERO);
        let decoded = jpeg.decode_rows(reduction, |y, rows| {
            let started = Instant::now();
            rendering.take(y, rows);
            resizing += started.elapsed();
        });
        stages.add(Stage::Decode, started.elapsed() - resizing);
        stages.add(Stage::Resize, resizing);
        decoded.map_err(ImageError::Broken)?;
        Ok(stages.time(Stage::Resize, || rendering.finish()))
    }

    /// The upright pixels. A format that cannot reduce is decoded in full.
    ///
    /// # Errors
    ///
    /// What the decoder said.
    pub fn decode(self, reduction: Reduction) -> Result<DecodedImage, ImageError> {
        let (mut image, reduction) = match self.format {
            Format::Jpeg(jpeg) => {
                let (width, height, pixels) = jpeg.decode(reduction).map_err(ImageError::Broken)?;
                let image = RgbImage::from_raw(width, height, pixels).ok_or_else(|| broken("libjpeg left rows out"))?;
                (DynamicImage::from(image), reduction.factor())
            }
            Format::Other(decoder) => {
                // A panic over one hostile file must not end a run of days.
                let decoded = catch_unwind(AssertUnwindSafe(|| DynamicImage::from_decoder(decoder)));
                let image = decoded.map_err(|_| broken("the decoder panicked"))?.map_err(broken)?;
                (DynamicImage::from(to_rgb8(image)), 1)
            }
        };
        let empty = |side: u32| f64::from(side.div_ceil(reduction)) - f64::from(side) / f64::from(reduction);
        let shift = shift_of(self.orientation, (empty(self.stored.0), empty(self.stored.1)));
        image.apply_orientation(self.orientation);
        Ok(DecodedImage { pixels: image.into_rgb8(), reduction, shift })
    }
}

/// Whether turning upright exchanges width and height.
fn swaps_sides(orientation: Orientation) -> bool {
    match orientation {
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => false,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            true
        }
    }
}

/// What of the empty parts at the right and lower edge of the stored picture comes to the left and
/// the top.
fn shift_of(orientation: Orientation, (right, bottom): (f64, f64)) -> (f64, f64) {
    match orientation {
        Orientation::NoTransforms | Orientation::Rotate90FlipH => (0.0, 0.0),
        Orientation::Rotate90 => (bottom, 0.0),
        Orientation::Rotate180 => (right, bottom),
        Orientation::Rotate270 => (0.0, right),
        Orientation::FlipHorizontal => (right, 0.0),
        Orientation::FlipVertical => (0.0, bottom),
        Orientation::Rotate270FlipH => (bottom, right),
    }
}

/// Pillow's `convert("RGB")`: alpha is left out without being blended, grey is repeated, and of 16 bits
/// the upper 8 remain. (Pillow does so with 16-bit colour; 16-bit grey it cuts at 255, which turns
/// nearly every picture white.)
fn to_rgb8(image: DynamicImage) -> RgbImage {
    let high = |value: u16| (value >> 8) as u8;
    match image {
        DynamicImage::ImageLuma16(image) => map(&image, |p| [high(p.0[0]); 3]),
        DynamicImage::ImageLumaA16(image) => map(&image, |p| [high(p.0[0]); 3]),
        DynamicImage::ImageRgb16(image) => map(&image, |p| p.0.map(high)),
        DynamicImage::ImageRgba16(image) => map(&image, |p| [0, 1, 2].map(|c| high(p.0[c]))),
        DynamicImage::ImageLumaA8(image) => map(&image, |p| [p.0[0]; 3]),
        DynamicImage::ImageRgba8(image) => map(&image, |p| [p.0[0], p.0[1], p.0[2]]),
        other => other.into_rgb8(),
    }
}

fn map<P: image::Pixel + Sync>(
    image: &image::ImageBuffer<P, Vec<P::Subpixel>>,
    rgb: impl Fn(&P) -> [u8; 3],
) -> RgbImage {
    let pixels = image.pixels().flat_map(rgb).collect();
    RgbImage::from_raw(image.width(), image.height(), pixels).expect("three bytes for each pixel")
}

/// Decodes a JPEG, PNG or WebP to 8-bit RGB, upright as its EXIF orientation says.
///
/// # Errors
///
/// As [`EncodedImage::open`] and [`EncodedImage::decode`].
pub fn decode_rgb(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    Ok(EncodedImage::open(bytes)?.decode(Reduction::None)?.pixels)
}

/// Decodes an 8-bit grey PNG of labels; a palette or colour image is refused, for its pixels would
/// not be the labels.
///
/// # Errors
///
/// What the decoder said, or which kind of image it is instead.
pub fn decode_labels(bytes: &[u8]) -> Result<GrayImage, ImageError> {
    let EncodedImage { format, orientation, .. } = EncodedImage::open(bytes)?;
    let Format::Other(decoder) = format else {
        return Err(ImageError::NotLabels("a JPEG".into()));
    };
    // Images of 1, 2 and 4 bits would be decoded to the full range of 8: their values are no labels. The decoder does
    // not tell, but a PNG's first chunk does.
    match png_depth_and_colour(bytes) {
        Some((8, PNG_GREY)) => {}
        Some((depth, PNG_GREY)) => return Err(ImageError::NotLabels(format!("a grey PNG of {depth} bits"))),
        Some(_) => return Err(ImageError::NotLabels("a PNG with colours or transparency".into())),
        None => return Err(ImageError::NotLabels("not a PNG".into())),
    }
    match DynamicImage::from_decoder(decoder).map_err(broken)? {
        DynamicImage::ImageLuma8(labels) => {
            let mut image = DynamicImage::from(labels);
            image.apply_orientation(orientation);
            Ok(image.into_luma8())
        }
        // Grey with one transparent value.
        other => Err(ImageError::NotLabels(format!("a PNG of {:?}", other.color()))),
    }
}

/// Colour type of grey PNGs without transparency.
const PNG_GREY: u8 = 0;

/// Bits a channel and colour type, from the header chunk, which comes first in every PNG.
fn png_depth_and_colour(bytes: &[u8]) -> Option<(u8, u8)> {
    let header = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    Some((*header.get(16)?, *header.get(17)?))
}

#[cfg(test)]
#[path = "decode_tests.rs"]
pub(crate) mod tests;
