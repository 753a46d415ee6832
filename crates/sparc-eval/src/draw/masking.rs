//! SyCoCa's picture: how much each patch has to do with the caption, what each decoder was shown, what was rebuilt.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::heatmap::{OPACITY, Upsampling, overlay_heatmap};
use super::text::{LINE_HEIGHT, draw_text, ellipsise, wrap_text};

/// What a masking sheet shows.
#[derive(Debug, Clone)]
pub struct MaskingSheet {
    /// The image as the network saw it.
    pub image: RgbImage,
    /// The caption.
    pub caption: String,
    /// Height and width of the patch grid.
    pub grid: (usize, usize),
    /// One score a patch, row by row.
    pub scores: Vec<f32>,
    /// Patches that the captioner does not see.
    pub hidden_from_captioner: Vec<usize>,
    /// Patches that the image decoder does not see.
    pub hidden_from_decoder: Vec<usize>,
    /// The image with these rebuilt; none without an image decoder.
    pub rebuilt: Option<RgbImage>,
    /// The heading.
    pub title: String,
}

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([28, 28, 32]);
const FAINT: Rgb<u8> = Rgb([112, 112, 120]);
const HIDDEN: Rgb<u8> = Rgb([196, 196, 192]);

const MARGIN: u32 = 24;
const GAP: u32 = 16;
/// The longer side of every picture.
const TILE: u32 = 224;
const CAPTION_LINES: usize = 3;

/// Draws the sheet: one row of pictures, each named beneath.
///
/// # Panics
///
/// When the number of scores is not that of the grid, or a hidden patch is not on it.
pub fn masking_sheet(sheet: &MaskingSheet) -> RgbImage {
    let (width, height) = sheet.image.dimensions();
    let longer = width.max(height).max(1);
    let tile = ((width * TILE / longer).max(1), (height * TILE / longer).max(1));
    let enlarge = |image: &RgbImage, filter| imageops::resize(image, tile.0, tile.1, filter);
    let image = enlarge(&sheet.image, FilterType::CatmullRom);
    let hidden = |patches: &[usize]| hide(&image, patches, sheet.grid);
    let n_patches = sheet.grid.0 * sheet.grid.1;
    let share = |patches: &[usize]| format!("{} of {n_patches} patches hidden", patches.len());
    let mut tiles = vec![
        (image.clone(), "the image".to_owned(), String::new()),
        (
            overlay_heatmap(&image, &above_lowest(&sheet.scores), sheet.grid, OPACITY, Upsampling::Patches),
            "patch scores".to_owned(),
            format!("cosines {}", range(&sheet.scores)),
        ),
        (
            hidden(&sheet.hidden_from_captioner),
            "shown to the captioner".to_owned(),
            share(&sheet.hidden_from_captioner),
        ),
    ];
    if let Some(rebuilt) = &sheet.rebuilt {
        let shown = hidden(&sheet.hidden_from_decoder);
        tiles.push((shown, "shown to the image decoder".to_owned(), share(&sheet.hidden_from_decoder)));
        // Not smoothed: patches are what is rebuilt.
        tiles.push((enlarge(rebuilt, FilterType::Nearest), "rebuilt from the caption".to_owned(), String::new()));
    }
    let columns = tiles.len() as u32;
    let inner = columns * TILE + (columns - 1) * GAP;
    let caption = wrap_text(&sheet.caption, inner, CAPTION_LINES);
    let tiles_top = MARGIN + LINE_HEIGHT * (1 + caption.len() as u32) + GAP;
    let canvas_height = tiles_top + TILE + 2 * LINE_HEIGHT + 6 + MARGIN;
    let mut canvas = RgbImage::from_pixel(inner + 2 * MARGIN, canvas_height, PAPER);
    draw_text(&mut canvas, &ellipsise(&sheet.title, inner), (MARGIN, MARGIN), FAINT);
    for (line, text) in (1..).zip(&caption) {
        draw_text(&mut canvas, text, (MARGIN, MARGIN + line * LINE_HEIGHT), INK);
    }
    for (column, (picture, name, note)) in (0..).zip(tiles) {
        let left = MARGIN + column * (TILE + GAP);
        imageops::replace(&mut canvas, &picture, i64::from(left), i64::from(tiles_top));
        draw_text(&mut canvas, &ellipsise(&name, TILE), (left, tiles_top + TILE + 6), INK);
        draw_text(&mut canvas, &ellipsise(&note, TILE), (left, tiles_top + TILE + 6 + LINE_HEIGHT), FAINT);
    }
    canvas
}

/// Scores less the lowest: what a heatmap, which starts at 0, can show.
pub(super) fn above_lowest(scores: &[f32]) -> Vec<f32> {
    let lowest = scores.iter().copied().fold(f32::INFINITY, f32::min);
    scores.iter().map(|score| score - lowest).collect()
}

pub(super) fn range(scores: &[f32]) -> String {
    let lowest = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    format!("{lowest:.2} to {highest:.2}")
}

/// The image with these patches covered.
pub(super) fn hide(image: &RgbImage, patches: &[usize], (rows, columns): (usize, usize)) -> RgbImage {
    assert!(patches.iter().all(|&patch| patch < rows * columns), "a hidden patch is not on the grid");
    let (width, height) = image.dimensions();
    let mut covered = vec![false; rows * columns];
    patches.iter().for_each(|&patch| covered[patch] = true);
    let mut picture = image.clone();
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let (row, column) = (y as usize * rows / height as usize, x as usize * columns / width as usize);
        if covered[row * columns + column] {
            *pixel = HIDDEN;
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> MaskingSheet {
        MaskingSheet {
            image: RgbImage::from_pixel(32, 32, Rgb([200, 30, 30])),
            caption: "a red square".to_owned(),
            grid: (2, 2),
            scores: vec![0.1, -0.3, 0.5, 0.2],
            hidden_from_captioner: vec![1, 0],
            hidden_from_decoder: vec![2, 3],
            rebuilt: Some(RgbImage::from_pixel(32, 32, Rgb([30, 200, 30]))),
            title: "sycoca step 1".to_owned(),
        }
    }

    #[test]
    fn what_is_hidden_is_covered_and_nothing_else() {
        let picture = hide(&sheet().image, &[1, 2], (2, 2));
        let at = |x, y| *picture.get_pixel(x, y);
        assert_eq!((at(0, 0), at(31, 31)), (Rgb([200, 30, 30]), Rgb([200, 30, 30])));
        assert_eq!((at(31, 0), at(0, 31), at(16, 15)), (HIDDEN, HIDDEN, HIDDEN));
    }

    #[test]
    fn tiles_stand_side_by_side() {
        let with = masking_sheet(&sheet());
        let without = masking_sheet(&MaskingSheet { rebuilt: None, ..sheet() });
        assert_eq!((with.width(), without.width()), (2 * MARGIN + 5 * TILE + 4 * GAP, 2 * MARGIN + 3 * TILE + 2 * GAP));
        let last = MARGIN + 4 * (TILE + GAP) + TILE / 2;
        assert_eq!(*with.get_pixel(last, with.height() - MARGIN - 2 * LINE_HEIGHT - TILE / 2), Rgb([30, 200, 30]));
    }

    #[test]
    fn odd_inputs_are_drawn() {
        masking_sheet(&MaskingSheet { scores: vec![0.0; 4], caption: String::new(), ..sheet() });
        masking_sheet(&MaskingSheet { image: RgbImage::new(90, 5), caption: "寿司 ".repeat(300), ..sheet() });
    }
}
