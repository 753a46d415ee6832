//! NAS's pictures: the codes of a visual dictionary as patches, and which codes an edit puts in the place of which.

use image::imageops::{self, FilterType, replace};
use image::{Rgb, RgbImage};

use super::heatmap::{OPACITY, Upsampling, overlay_heatmap};
use super::masking::{above_lowest, hide, range};
use super::text::{LINE_HEIGHT, draw_text, ellipsise, wrap_text};

/// What a sheet of codes shows.
#[derive(Debug, Clone)]
pub struct CodeSheet {
    /// The heading.
    pub title: String,
    /// The pair that was edited; none for a sheet of the dictionary alone.
    pub pair: Option<EditedPair>,
    /// One line each.
    pub rows: Vec<CodeRow>,
}

/// A pair with its edit.
#[derive(Debug, Clone)]
pub struct EditedPair {
    /// The image as the network saw it.
    pub image: RgbImage,
    /// The caption.
    pub caption: String,
    /// Height and width of the patch grid.
    pub grid: (usize, usize),
    /// One score a patch, row by row.
    pub scores: Vec<f32>,
    /// Patches that have another code.
    pub replaced: Vec<usize>,
}

/// A line of patches.
#[derive(Debug, Clone)]
pub struct CodeRow {
    /// What they have in common.
    pub label: String,
    /// The patches.
    pub patches: Vec<RgbImage>,
    /// Further ones, behind an arrow: what takes their place.
    pub becomes: Vec<RgbImage>,
}

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([28, 28, 32]);
const FAINT: Rgb<u8> = Rgb([112, 112, 120]);

const MARGIN: u32 = 24;
const GAP: u32 = 16;
/// The longer side of a picture of the pair.
const TILE: u32 = 224;
/// Side of a patch.
const PATCH: u32 = 40;
const BETWEEN_PATCHES: u32 = 4;
const LABEL: u32 = 232;
const ARROW: u32 = 40;
/// Patches before and behind the arrow.
const PATCHES: usize = 8;
const CAPTION_LINES: usize = 3;

/// Draws the sheet.
///
/// # Panics
///
/// When the pair's scores or patches are not those of its grid.
pub fn code_sheet(sheet: &CodeSheet) -> RgbImage {
    let half = PATCHES as u32 * (PATCH + BETWEEN_PATCHES);
    let has_arrow = sheet.rows.iter().any(|row| !row.becomes.is_empty());
    let of_rows = LABEL + half + if has_arrow { ARROW + half } else { 0 };
    let inner = of_rows.max(if sheet.pair.is_some() { 3 * TILE + 2 * GAP } else { 0 });
    let caption = sheet.pair.as_ref().map_or(Vec::new(), |pair| wrap_text(&pair.caption, inner, CAPTION_LINES));
    let tiles_top = MARGIN + LINE_HEIGHT * (1 + caption.len() as u32) + GAP;
    let rows_top = tiles_top + if sheet.pair.is_some() { TILE + 2 * LINE_HEIGHT + 6 + GAP } else { 0 };
    let height = rows_top + sheet.rows.len() as u32 * (PATCH + BETWEEN_PATCHES) + MARGIN;
    let mut canvas = RgbImage::from_pixel(inner + 2 * MARGIN, height, PAPER);
    draw_text(&mut canvas, &ellipsise(&sheet.title, inner), (MARGIN, MARGIN), FAINT);
    for (line, text) in (1..).zip(&caption) {
        draw_text(&mut canvas, text, (MARGIN, MARGIN + line * LINE_HEIGHT), INK);
    }
    for (column, (picture, name, note)) in (0..).zip(sheet.pair.iter().flat_map(tiles)) {
        let left = MARGIN + column * (TILE + GAP);
        replace(&mut canvas, &picture, i64::from(left), i64::from(tiles_top));
        draw_text(&mut canvas, &ellipsise(&name, TILE), (left, tiles_top + TILE + 6), INK);
        draw_text(&mut canvas, &ellipsise(&note, TILE), (left, tiles_top + TILE + 6 + LINE_HEIGHT), FAINT);
    }
    for (index, row) in (0..).zip(&sheet.rows) {
        let top = rows_top + index * (PATCH + BETWEEN_PATCHES);
        let beside = top + PATCH.saturating_sub(LINE_HEIGHT) / 2;
        draw_text(&mut canvas, &ellipsise(&row.label, LABEL - GAP), (MARGIN, beside), INK);
        draw_patches(&mut canvas, &row.patches, (MARGIN + LABEL, top));
        if !row.becomes.is_empty() {
            let behind = MARGIN + LABEL + half;
            draw_text(&mut canvas, "->", (behind + GAP / 2, beside), FAINT);
            draw_patches(&mut canvas, &row.becomes, (behind + ARROW, top));
        }
    }
    canvas
}

fn draw_patches(canvas: &mut RgbImage, patches: &[RgbImage], (left, top): (u32, u32)) {
    for (place, patch) in (0..).zip(patches.iter().take(PATCHES)) {
        // Not smoothed: these are the pixels.
        let enlarged = imageops::resize(patch, PATCH, PATCH, FilterType::Nearest);
        replace(canvas, &enlarged, i64::from(left + place * (PATCH + BETWEEN_PATCHES)), i64::from(top));
    }
}

/// The image, its scores and what is replaced, each with two lines of text.
fn tiles(pair: &EditedPair) -> [(RgbImage, String, String); 3] {
    let (width, height) = pair.image.dimensions();
    let longer = width.max(height).max(1);
    let tile = ((width * TILE / longer).max(1), (height * TILE / longer).max(1));
    let image = imageops::resize(&pair.image, tile.0, tile.1, FilterType::CatmullRom);
    let scores = above_lowest(&pair.scores);
    let n_patches = pair.grid.0 * pair.grid.1;
    let (heat, covered) = (
        overlay_heatmap(&image, &scores, pair.grid, OPACITY, Upsampling::Patches),
        hide(&image, &pair.replaced, pair.grid),
    );
    [
        (image, "the image".to_owned(), String::new()),
        (heat, "patch scores".to_owned(), range(&pair.scores)),
        (covered, "replaced".to_owned(), format!("{} of {n_patches} patches", pair.replaced.len())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(becomes: usize) -> CodeRow {
        CodeRow {
            label: "code 3, 12.0 %".to_owned(),
            patches: vec![RgbImage::from_pixel(8, 8, Rgb([200, 30, 30])); 9],
            becomes: vec![RgbImage::from_pixel(8, 8, Rgb([30, 200, 30])); becomes],
        }
    }

    #[test]
    fn patches_stand_behind_their_label_and_their_arrow() {
        let plain = code_sheet(&CodeSheet { title: "nas".to_owned(), pair: None, rows: vec![row(0), row(0)] });
        let half = PATCHES as u32 * (PATCH + BETWEEN_PATCHES);
        assert_eq!(plain.width(), 2 * MARGIN + LABEL + half);
        let middle = plain.height() - MARGIN - PATCH / 2 - BETWEEN_PATCHES;
        let at = |sheet: &RgbImage, x: u32| *sheet.get_pixel(MARGIN + LABEL + x, middle);
        assert_eq!(at(&plain, PATCH / 2), Rgb([200, 30, 30]));
        // A ninth patch has no place.
        assert_eq!(at(&plain, half + BETWEEN_PATCHES), PAPER);
        let edited = code_sheet(&CodeSheet { title: "nas".to_owned(), pair: None, rows: vec![row(0), row(2)] });
        assert_eq!(at(&edited, half + ARROW + PATCH / 2), Rgb([30, 200, 30]));
        assert_eq!(at(&edited, half + ARROW + 3 * PATCH), PAPER);
    }

    #[test]
    fn a_pair_stands_above_and_odd_inputs_are_drawn() {
        let pair = EditedPair {
            image: RgbImage::from_pixel(32, 32, Rgb([200, 30, 30])),
            caption: "寿司 ".repeat(300),
            grid: (2, 2),
            scores: vec![0.0, f32::MIN_POSITIVE, -1.0, 0.5],
            replaced: vec![3],
        };
        let sheet = CodeSheet { title: String::new(), pair: Some(pair), rows: Vec::new() };
        let drawn = code_sheet(&sheet);
        assert!(drawn.width() >= 2 * MARGIN + 3 * TILE + 2 * GAP && drawn.height() > TILE);
        code_sheet(&CodeSheet { pair: None, ..sheet });
    }
}
