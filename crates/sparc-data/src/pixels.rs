//! RGB pixels to network inputs.

use pulp::{Simd, WithSimd};
use sparc_torch::Filling;
use tch::Tensor;

/// CLIP's channel means (Radford et al. 2021, reference code), of pixels in `[0, 1]`.
pub const IMAGE_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// CLIP's channel standard deviations.
pub const IMAGE_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Mirrors RGB rows of a `size`×`size` image left to right, in place.
pub fn flip_horizontally(pixels: &mut [u8], size: usize) {
    for row in pixels.chunks_exact_mut(size * 3) {
        for x in 0..size / 2 {
            for c in 0..3 {
                row.swap(x * 3 + c, (size - 1 - x) * 3 + c);
            }
        }
    }
}

/// RGB bytes, rows of pixels, to normalised channels: `[H·W·3]` → `[3·H·W]`.
pub fn normalize(pixels: &[u8]) -> Vec<f32> {
    let mut channels = vec![0.0; pixels.len()];
    normalize_into(pixels, &mut channels);
    channels
}

/// Normalised images `[B, 3, H, W]` of a batch under way. Each is written when it comes: its pixels are in a processor's
/// cache then, and their memory is free for the next.
pub(crate) struct ImageStack {
    values: Filling,
    image_len: usize,
}

impl ImageStack {
    /// Of `n_images` of `side`×`side` pixels.
    pub(crate) fn new(n_images: usize, side: u32) -> ImageStack {
        let (b, side) = (n_images as i64, i64::from(side));
        let values = Filling::new(&[b, 3, side, side]).expect("memory for a batch of images");
        ImageStack { values, image_len: (3 * side * side) as usize }
    }

    /// Writes the RGB bytes of one.
    pub(crate) fn put(&mut self, place: usize, pixels: &[u8]) {
        normalize_into(pixels, &mut self.values.values()[place * self.image_len..][..self.image_len]);
    }

    /// The images, once all are written.
    pub(crate) fn finish(self) -> Tensor {
        self.values.finish()
    }
}

fn normalize_into(pixels: &[u8], channels: &mut [f32]) {
    assert_eq!(pixels.len(), channels.len(), "an image has the size of the network input");
    // With the widest instructions that this processor has; multiplying and subtracting stay two steps, so the same
    // numbers come out.
    pulp::Arch::new().dispatch(Normalize { pixels, channels });
}

/// `WithSimd` and not a closure: that would be compiled apart from its caller, for the oldest processor.
struct Normalize<'a> {
    pixels: &'a [u8],
    channels: &'a mut [f32],
}

impl WithSimd for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Normalize { pixels, channels } = self;
        let (red, rest) = channels.split_at_mut(channels.len() / 3);
        let (green, blue) = rest.split_at_mut(rest.len() / 2);
        let scale = IMAGE_STD.map(|deviation| 1.0 / (255.0 * deviation));
        let shift: [f32; 3] = std::array::from_fn(|c| IMAGE_MEAN[c] / IMAGE_STD[c]);
        let of = |pixel: &[u8], c: usize| f32::from(pixel[c]) * scale[c] - shift[c];
        for (((red, green), blue), pixel) in red.iter_mut().zip(green).zip(blue).zip(pixels.chunks_exact(3)) {
            (*red, *green, *blue) = (of(pixel, 0), of(pixel, 1), of(pixel, 2));
        }
    }
}

/// RGB bytes, `H * W * 3`, of a normalised image `[3, H, W]`, row by row: the inverse of [`normalize`]. What is out of
/// range is cut.
pub fn denormalize(image_chw: &[f32]) -> Vec<u8> {
    let n_pixels = image_chw.len() / 3;
    let byte = |pixel: usize, channel: usize| {
        let value = image_chw[channel * n_pixels + pixel] * IMAGE_STD[channel] + IMAGE_MEAN[channel];
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    };
    (0..n_pixels).flat_map(|pixel| [0, 1, 2].map(|channel| byte(pixel, channel))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation_is_clips() {
        let channels = normalize(&[255, 0, 128, 0, 255, 128]);
        for (value, expected) in channels.iter().zip([1.9303, -1.7923, -1.7521, 2.0749, 0.3400, 0.3400]) {
            assert!((value - expected).abs() < 1e-3, "{value} {expected}");
        }
    }

    #[test]
    fn pixels_come_back() {
        let pixels: Vec<u8> = (0..=255).cycle().take(3 * 512).collect();
        assert_eq!(denormalize(&normalize(&pixels)), pixels);
        assert_eq!(denormalize(&[99.0, -99.0, 0.0])[..2], [255, 0]);
    }

    #[test]
    fn flipping_mirrors_rows() {
        let mut pixels = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        flip_horizontally(&mut pixels, 2);
        assert_eq!(pixels, [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]);
    }
}
