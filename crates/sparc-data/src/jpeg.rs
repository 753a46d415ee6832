//! JPEG with libjpeg's decoder: the same bytes as Pillow.
//!
//! Pillow bundles libjpeg-turbo and leaves its decoder at its defaults (accurate integer DCT, smooth
//! chroma upsampling). The crate `mozjpeg` builds a fork of that library in which only the encoder
//! differs, behind a safe interface: a fatal error of the library unwinds as a Rust panic, which ends here.

use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use mozjpeg::decompress::DecompressStarted;
use mozjpeg::{ColorSpace, Decompress, Marker};

use crate::resample::STRIPE;

/// Scans of one picture. Encoders write about ten; each costs a pass over all pixels, so that a small
/// file with thousands keeps a thread busy for hours.
const MAX_SCANS: usize = 100;

/// A JPEG whose header has been read.
pub(crate) struct Jpeg<'a> {
    decoder: Decompress<Whole<'a>>,
    bytes: &'a [u8],
}

/// How many times smaller, in each direction, a JPEG is decoded. The library does this inside the
/// inverse DCT, for less work; sides are rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Full size.
    None,
    /// Half of each side.
    Half,
    /// A quarter of each side.
    Quarter,
    /// An eighth of each side: one pixel for each 8×8 block.
    Eighth,
}

impl Reduction {
    /// 1, 2, 4 or 8.
    pub fn factor(self) -> u32 {
        match self {
            Reduction::None => 1,
            Reduction::Half => 2,
            Reduction::Quarter => 4,
            Reduction::Eighth => 8,
        }
    }
}

impl<'a> Jpeg<'a> {
    /// Whether a file begins as a JPEG does.
    pub(crate) fn is_jpeg(bytes: &[u8]) -> bool {
        bytes.starts_with(&[0xFF, 0xD8, 0xFF])
    }

    /// Reads the header.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Jpeg<'a>, String> {
        let decoder = caught(|| Decompress::builder().with_markers(&[Marker::APP(1)]).from_reader(Whole(bytes)))?;
        Ok(Jpeg { decoder, bytes })
    }

    /// Width and height as stored, in pixels.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.decoder.width() as u64, self.decoder.height() as u64)
    }

    /// How the stored picture must be turned to be upright.
    pub(crate) fn orientation(&self) -> Orientation {
        self.decoder
            .markers()
            .find_map(|marker| Orientation::from_exif_chunk(marker.data.strip_prefix(b"Exif\0\0")?))
            .unwrap_or(Orientation::NoTransforms)
    }

    /// The stored picture's width, height and RGB bytes.
    pub(crate) fn decode(self, reduction: Reduction) -> Result<(u32, u32, Vec<u8>), String> {
        self.check_scans()?;
        caught(|| {
            let (mut started, four_inks) = self.start(reduction)?;
            let (width, height) = (started.width() as u32, started.height() as u32);
            let pixels = started.read_scanlines::<u8>()?;
            // Goes on to the end marker: a file that lacks it has been cut off, and Pillow refuses it too.
            started.finish()?;
            Ok((width, height, if four_inks { inverted_cmyk_to_rgb(&pixels) } else { pixels }))
        })
    }

    /// Hands the stored picture on, a stripe of rows of RGB bytes at a time with the number of the first: few enough to lie
    /// in a processor's cache.
    pub(crate) fn decode_rows(self, reduction: Reduction, mut take: impl FnMut(usize, &[u8])) -> Result<(), String> {
        self.check_scans()?;
        // The library alone is caught: what `take` does wrong is no fault of the file.
        let (mut started, four_inks) = caught(|| self.start(reduction))?;
        let (width, height) = (started.width(), started.height());
        let stride = width * if four_inks { 4 } else { 3 };
        let mut rows = vec![0; STRIPE.min(height) * stride];
        for y in (0..height).step_by(STRIPE) {
            let rows = &mut rows[..STRIPE.min(height - y) * stride];
            caught(|| started.read_scanlines_into::<u8>(rows).map(|_| ()))?;
            if four_inks { take(y, &inverted_cmyk_to_rgb(rows)) } else { take(y, rows) }
        }
        caught(|| started.finish())
    }

    fn check_scans(&self) -> Result<(), String> {
        if count_scans(self.bytes) > MAX_SCANS { Err(format!("more than {MAX_SCANS} scans")) } else { Ok(()) }
    }

    /// The decoder before its first row, and whether that has four inks a pixel instead of RGB.
    fn start(mut self, reduction: Reduction) -> io::Result<(DecompressStarted<Whole<'a>>, bool)> {
        if reduction != Reduction::None {
            self.decoder.scale(8 / reduction.factor() as u8);
        }
        let four_inks = matches!(self.decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK);
        let space = if four_inks { ColorSpace::JCS_CMYK } else { ColorSpace::JCS_RGB };
        Ok((self.decoder.to_colorspace(space)?, four_inks))
    }
}

/// Runs the library, with its fatal errors as messages.
fn caught<T>(work: impl FnOnce() -> io::Result<T>) -> Result<T, String> {
    // What the closure touches is dropped with it, so nothing half-finished is seen afterwards.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(payload) => Err(match payload.downcast_ref::<String>() {
            // The library asks for more than there is: it says "read error", for it thinks of a file.
            Some(message) if message.contains("Input file read error") => "the JPEG is cut off".to_owned(),
            Some(message) => message.clone(),
            None => "libjpeg stopped".to_owned(),
        }),
    }
}

/// The bytes of a file; reading on after their end is an error, where the library would otherwise
/// make up an end marker and give a picture with a grey rest.
struct Whole<'a>(&'a [u8]);

impl Read for Whole<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.0.is_empty() {
            return Err(io::Error::other("the JPEG is cut off"));
        }
        Ok(self.0)
    }

    fn consume(&mut self, n: usize) {
        self.0 = &self.0[n.min(self.0.len())..];
    }
}

/// How many scans stand before the end marker. What follows it, such as the film of a "motion photo",
/// does not count; neither is a second one looked for where the first has everything.
fn count_scans(bytes: &[u8]) -> usize {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    /// Frames that are refined by no later scan: of baseline and of extended sequential JPEG.
    const SEQUENTIAL: [u8; 2] = [0xC0, 0xC1];
    let (mut place, mut scans) = (2, 0);
    let mut sequential_components = None;
    while let Some(&[first, marker]) = bytes.get(place..place + 2) {
        match (first, marker) {
            (0xFF, END_OF_IMAGE) => break,
            // A filled byte; a stuffed one, a restart marker, or one that means nothing, which the library passes over:
            // all without a length.
            (0xFF, 0xFF) => place += 1,
            (0xFF, 0x00..=0xBF | 0xD0..=0xD7) => place += 2,
            (0xFF, marker) => {
                scans += usize::from(marker == START_OF_SCAN);
                let byte = |after: usize| bytes.get(place + 4 + after).copied();
                if SEQUENTIAL.contains(&marker) {
                    // Behind the precision and both sides.
                    sequential_components = byte(5);
                } else if marker == START_OF_SCAN && sequential_components.is_some() && sequential_components == byte(0)
                {
                    break;
                }
                let length =
                    bytes.get(place + 2..place + 4).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
                place += 2 + length;
            }
            // Inside a scan: on to the next byte that may begin a marker.
            _ => place += 1 + memchr::memchr(0xFF, &bytes[place + 1..]).unwrap_or(bytes.len()),
        }
    }
    scans
}

/// Inks to light as Pillow does it. Adobe stores inks inverted, and so everybody else does.
fn inverted_cmyk_to_rgb(pixels: &[u8]) -> Vec<u8> {
    let product = |a: u8, b: u8| {
        let product = u32::from(a) * u32::from(b) + 128;
        (((product >> 8) + product) >> 8) as u8
    };
    pixels
        .chunks_exact(4)
        .flat_map(|pixel| {
            let not_black = pixel[3];
            [0, 1, 2].map(|c| not_black.saturating_sub(product(255 - pixel[c], not_black)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_are_counted_up_to_the_end_marker() {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 0xFF, 0xDA];
        for _ in 0..3 {
            bytes.extend([0xFF, 0xDA, 0, 3, 9, 1, 2, 0xFF, 0x00, 0xDA, 0xFF, 0xD0, 5]);
        }
        assert_eq!(count_scans(&bytes), 3);
        bytes.extend([0xFF, 0xD9, 0xFF, 0xDA, 0, 2]);
        assert_eq!(count_scans(&bytes), 3);
        assert_eq!(count_scans(&[0xFF]), 0);
        // A frame of one component: baseline ends with the first scan of it, progressive does not.
        let frame = [0xFF, 0xC0, 0, 11, 8, 0, 1, 0, 1, 1, 1, 0x11, 0];
        let scan = [0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 5];
        let mut bytes = [&[0xFF, 0xD8], &frame[..], &scan, &scan].concat();
        assert_eq!(count_scans(&bytes), 1);
        bytes[3] = 0xC2;
        assert_eq!(count_scans(&bytes), 2);
        // A marker without meaning hides no scans: it has no length.
        let scans = 9 * scan.len();
        let hidden =
            [&[0xFF, 0xD8], &scan[..], &[0xFF, 0x02, 0, scans as u8 + 2], &scan.repeat(9), &[0xFF, 0xD9]].concat();
        assert_eq!(count_scans(&hidden), 10);
    }

    #[test]
    fn inks_are_mixed_as_pillow_does() {
        // Pillow: Image.new("CMYK", (1, 1), (10, 128, 255, 40)).convert("RGB") is (207, 107, 0).
        assert_eq!(inverted_cmyk_to_rgb(&[245, 127, 0, 215]), [207, 107, 0]);
    }
}
