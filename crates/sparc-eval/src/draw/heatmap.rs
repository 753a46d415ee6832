//! Weights of a patch grid over the image they belong to.

use image::{Rgb, RgbImage};

use super::colour_map::inferno;

/// How the coarse grid is brought to the size of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upsampling {
    /// Bilinear between patch centres, constant beyond the outermost centres.
    Bilinear,
    /// Every patch one flat rectangle, so that its borders stay visible.
    Patches,
}

/// Weights divided by their largest, so that the strongest patch is 1.
///
/// Negative and non-finite weights count as 0, and so do all when none is positive.
pub fn relative_weights(weights: &[f32]) -> Vec<f32> {
    let positive = |weight: f32| {
        if weight.is_finite() { weight.max(0.0) } else { 0.0 }
    };
    let largest = weights.iter().copied().map(positive).fold(0.0, f32::max);
    if largest == 0.0 {
        return vec![0.0; weights.len()];
    }
    weights.iter().map(|&weight| positive(weight) / largest).collect()
}

/// The number of patches with a positive weight.
pub fn kept_patches(weights: &[f32]) -> usize {
    weights.iter().filter(|weight| weight.is_finite() && **weight > 0.0).count()
}

/// The image with its patch weights tinted over it.
///
/// Weights are shown relative to the largest. A patch of weight 0 is darkened; any other is tinted by
/// [`inferno`], more lightly the larger its weight, so that what is attended to stays recognisable.
/// `alpha` in `[0, 1]` is the opacity over a patch of weight 0.
///
/// # Shapes
/// `weights` is `[grid_height * grid_width]`, row by row from the top left.
///
/// # Panics
/// When the number of weights is not that of the grid.
pub fn overlay_heatmap(
    image: &RgbImage,
    weights: &[f32],
    (grid_height, grid_width): (usize, usize),
    alpha: f32,
    upsampling: Upsampling,
) -> RgbImage {
    assert_eq!(
        weights.len(),
        grid_height * grid_width,
        "{} weights for a grid of {grid_height} x {grid_width}",
        weights.len()
    );
    let levels: Vec<f32> = relative_weights(weights).into_iter().map(level).collect();
    let (width, height) = image.dimensions();
    let columns = axis(width, grid_width, upsampling);
    let rows = axis(height, grid_height, upsampling);
    RgbImage::from_fn(width, height, |x, y| {
        let (left, right, across) = columns[x as usize];
        let (top, bottom, down) = rows[y as usize];
        let at = |row: usize, column: usize| levels[row * grid_width + column];
        let upper = mix(at(top, left), at(top, right), across);
        let lower = mix(at(bottom, left), at(bottom, right), across);
        tint(*image.get_pixel(x, y), mix(upper, lower, down), alpha.clamp(0.0, 1.0))
    })
}

/// The opacity over a patch of weight 0 on the sheet and on the page.
pub(crate) const OPACITY: f32 = 0.75;
/// Where a kept patch starts on the colour map: even the weakest differs from one left out.
pub(crate) const WEAKEST_LEVEL: f32 = 0.2;
/// The share of the opacity that is given up at full weight.
pub(crate) const CLEARING: f32 = 0.45;

fn level(relative: f32) -> f32 {
    if relative > 0.0 { WEAKEST_LEVEL + (1.0 - WEAKEST_LEVEL) * relative } else { 0.0 }
}

fn tint(pixel: Rgb<u8>, level: f32, alpha: f32) -> Rgb<u8> {
    let opacity = alpha * (1.0 - CLEARING * level);
    let colour = inferno(level);
    Rgb([0, 1, 2].map(|c| mix(f32::from(pixel[c]), f32::from(colour[c]), opacity).round() as u8))
}

/// For each pixel along one axis: the two cells it lies between and how far it is towards the second.
fn axis(pixels: u32, cells: usize, upsampling: Upsampling) -> Vec<(usize, usize, f32)> {
    let scale = cells as f32 / pixels as f32;
    let last = cells.saturating_sub(1);
    (0..pixels)
        .map(|pixel| {
            let position = (pixel as f32 + 0.5) * scale;
            match upsampling {
                Upsampling::Patches => {
                    let cell = (position as usize).min(last);
                    (cell, cell, 0.0)
                }
                Upsampling::Bilinear => {
                    let centred = (position - 0.5).clamp(0.0, last as f32);
                    let cell = centred as usize;
                    (cell, (cell + 1).min(last), centred - cell as f32)
                }
            }
        })
        .collect()
}

fn mix(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([128; 3]))
    }

    fn brightness(pixel: &Rgb<u8>) -> u32 {
        pixel.0.iter().map(|&c| u32::from(c)).sum()
    }

    #[test]
    fn overlay_keeps_the_size_even_when_patches_do_not_divide_it() {
        for upsampling in [Upsampling::Bilinear, Upsampling::Patches] {
            let out = overlay_heatmap(&grey(31, 17), &[0.5; 15], (3, 5), 0.7, upsampling);
            assert_eq!(out.dimensions(), (31, 17));
        }
    }

    #[test]
    fn image_smaller_than_the_grid_is_drawn() {
        assert_eq!(overlay_heatmap(&grey(2, 3), &[1.0; 64], (8, 8), 0.7, Upsampling::Bilinear).dimensions(), (2, 3));
        assert_eq!(overlay_heatmap(&grey(0, 0), &[1.0; 4], (2, 2), 0.7, Upsampling::Patches).dimensions(), (0, 0));
    }

    #[test]
    fn zero_weight_darkens_and_full_weight_lights_the_right_corner() {
        for upsampling in [Upsampling::Bilinear, Upsampling::Patches] {
            let out = overlay_heatmap(&grey(40, 40), &[0.0, 0.3, 0.0, 0.0], (2, 2), 0.7, upsampling);
            let plain = 3 * 128;
            assert!(brightness(out.get_pixel(0, 39)) < plain / 2, "bottom left has no weight");
            assert!(brightness(out.get_pixel(39, 0)) > plain, "top right has all of it");
        }
    }

    #[test]
    fn patches_have_hard_borders_and_bilinear_has_none() {
        let weights = [0.0, 1.0];
        let step = |upsampling| {
            let out = overlay_heatmap(&grey(64, 2), &weights, (1, 2), 0.7, upsampling);
            (0..63).map(|x| brightness(out.get_pixel(x, 0)).abs_diff(brightness(out.get_pixel(x + 1, 0)))).max()
        };
        assert!(step(Upsampling::Patches).unwrap() > 200);
        assert!(step(Upsampling::Bilinear).unwrap() < 60);
    }

    #[test]
    fn no_opacity_leaves_the_image() {
        let image = grey(9, 9);
        assert_eq!(overlay_heatmap(&image, &[1.0, 0.0, 0.5, 0.1], (2, 2), 0.0, Upsampling::Bilinear), image);
    }

    #[test]
    fn weights_that_are_no_weights_count_as_zero() {
        assert_eq!(relative_weights(&[f32::NAN, -1.0, 2.0, 1.0, f32::INFINITY]), [0.0, 0.0, 1.0, 0.5, 0.0]);
        assert_eq!(relative_weights(&[-1.0, 0.0]), [0.0, 0.0]);
        assert_eq!(kept_patches(&[f32::NAN, -1.0, 0.0, 1e-9, 1.0]), 2);
    }

    #[test]
    #[should_panic(expected = "3 weights for a grid of 2 x 2")]
    fn wrong_number_of_weights_panics_with_numbers() {
        overlay_heatmap(&grey(4, 4), &[0.0; 3], (2, 2), 0.5, Upsampling::Patches);
    }
}
