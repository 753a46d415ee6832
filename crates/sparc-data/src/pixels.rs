//! RGB pixels to network inputs.

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

/// CLIP's channel means (Radford et al. 2021, reference code), of pixels in `[0, 1]`.
pub const IMAGE_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// CLIP's channel standard deviations.
pub const IMAGE_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A rectangle of the source image, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CropBox {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// Cuts out `crop` and resizes it to `size`×`size` with an antialiased bicubic filter (a = −0.5, the
/// one Pillow uses).
///
/// # Errors
///
/// A crop outside the image.
pub fn resize(source: &image::RgbImage, crop: CropBox, size: u32) -> Result<Vec<u8>, String> {
    let (width, height) = source.dimensions();
    let whole = crop == CropBox { left: 0.0, top: 0.0, width: f64::from(width), height: f64::from(height) };
    if whole && (width, height) == (size, size) {
        return Ok(source.as_raw().clone());
    }
    let view = fast_image_resize::images::ImageRef::new(width, height, source.as_raw(), PixelType::U8x3)
        .map_err(|error| error.to_string())?;
    let mut target = Image::new(size, size, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom)).crop(
        crop.left,
        crop.top,
        crop.width,
        crop.height,
    );
    Resizer::new().resize(&view, &mut target, &options).map_err(|error| error.to_string())?;
    Ok(target.into_vec())
}

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
    let n_pixels = pixels.len() / 3;
    let mut channels = vec![0.0; pixels.len()];
    for (c, plane) in channels.chunks_exact_mut(n_pixels).enumerate() {
        let (scale, shift) = (1.0 / (255.0 * IMAGE_STD[c]), IMAGE_MEAN[c] / IMAGE_STD[c]);
        for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(3)) {
            *value = f32::from(pixel[c]) * scale - shift;
        }
    }
    channels
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn normalisation_is_clips() {
        let channels = normalize(&[255, 0, 128, 0, 255, 128]);
        for (value, expected) in channels.iter().zip([1.9303, -1.7923, -1.7521, 2.0749, 0.3400, 0.3400]) {
            assert!((value - expected).abs() < 1e-3, "{value} {expected}");
        }
    }

    #[test]
    fn resizing_keeps_flat_colours_and_crops_where_told() {
        let image = RgbImage::from_fn(40, 20, |x, _| if x < 20 { Rgb([10, 20, 30]) } else { Rgb([200, 100, 50]) });
        let left = CropBox { left: 0.0, top: 0.0, width: 16.0, height: 20.0 };
        assert!(resize(&image, left, 8).unwrap().chunks(3).all(|pixel| pixel == [10, 20, 30]));
        let mut whole = resize(&image, CropBox { width: 40.0, ..left }, 8).unwrap();
        assert_eq!((whole[0], whole[21]), (10, 200));
        flip_horizontally(&mut whole, 8);
        assert_eq!((whole[0], whole[21]), (200, 10));
        assert!(resize(&image, CropBox { left: 30.0, top: 0.0, width: 16.0, height: 20.0 }, 8).is_err());
    }
}
