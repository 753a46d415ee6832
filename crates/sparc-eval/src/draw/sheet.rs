//! The picture of `sparc inspect`: one image, its caption, and where each token looks.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::colour_map::inferno;
use super::heatmap::{OPACITY, Upsampling, WEAKEST_LEVEL, kept_patches, overlay_heatmap};
use super::pieces::{Token, TokenKind, read_pieces};
use super::text::{LINE_HEIGHT, draw_text, ellipsise, fill, text_width, wrap_text};

/// What an alignment sheet shows.
#[derive(Debug, Clone)]
pub struct AlignmentSheet {
    /// The image as the network saw it.
    pub image: RgbImage,
    /// The caption, before tokenization.
    pub caption: String,
    /// Height and width of the patch grid.
    pub grid: (usize, usize),
    /// The caption's tokens in order.
    pub tokens: Vec<TokenHeatmap>,
    /// The heading, for example the method and the sample's key.
    pub title: String,
}

/// One token and its weights over the patches.
#[derive(Debug, Clone)]
pub struct TokenHeatmap {
    /// The piece as the tokenizer writes it.
    pub piece: String,
    /// One weight a patch, row by row from the top left; 0 is a patch left out.
    pub weights: Vec<f32>,
}

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([28, 28, 32]);
const FAINT: Rgb<u8> = Rgb([112, 112, 120]);
const RULE: Rgb<u8> = Rgb([222, 222, 218]);

const MARGIN: u32 = 24;
const GAP: u32 = 16;
/// The longer side of every picture on the sheet.
const TILE: u32 = 192;
const MAX_COLUMNS: u32 = 6;
/// Fewer tokens than this leave room beside them, because the heading needs it.
const MIN_COLUMNS: u32 = 4;
const CAPTION_LINES: usize = 6;

/// Where things go, in pixels.
struct Layout {
    tile: (u32, u32),
    columns: u32,
    rows: u32,
    width: u32,
    tiles_top: u32,
    cell_height: u32,
}

impl Layout {
    fn of(sheet: &AlignmentSheet) -> Self {
        let (width, height) = sheet.image.dimensions();
        let longer = width.max(height).max(1);
        let scaled =
            |side: u32| ((u64::from(side) * u64::from(TILE) + u64::from(longer) / 2) / u64::from(longer)).max(1) as u32;
        let tile = (scaled(width), scaled(height));
        let count = sheet.tokens.len() as u32;
        let columns = balanced_columns(count);
        Self {
            tile,
            columns,
            rows: count.div_ceil(columns),
            width: 2 * MARGIN + columns * TILE + (columns - 1) * GAP,
            // The heading needs the original's height, or a title, a caption and the legend.
            tiles_top: MARGIN + tile.1.max(TILE) + GAP + 12,
            cell_height: tile.1 + 2 * LINE_HEIGHT + GAP + 8,
        }
    }

    fn height(&self) -> u32 {
        let tiles = if self.rows == 0 { 0 } else { self.rows * self.cell_height };
        self.tiles_top + tiles + MARGIN - GAP.min(MARGIN) + 4
    }

    /// The top left corner of a token's picture, centred in its cell.
    fn place(&self, index: u32) -> (u32, u32) {
        let (row, column) = (index / self.columns, index % self.columns);
        (MARGIN + column * (TILE + GAP), self.tiles_top + row * self.cell_height)
    }
}

/// As many columns as fill the last row best, between the two limits.
fn balanced_columns(count: u32) -> u32 {
    let rows = count.div_ceil(MAX_COLUMNS).max(1);
    count.div_ceil(rows).clamp(MIN_COLUMNS, MAX_COLUMNS)
}

/// Draws the sheet: the image with title and caption, then one tile for each token, wrapped into rows.
///
/// Each tile shows the token's kept patches with hard borders, coloured by weight relative to the
/// token's strongest patch, and the others darkened; beneath it stand the token and how many patches
/// it kept.
///
/// # Panics
/// When a token's number of weights is not that of the grid.
pub fn alignment_sheet(sheet: &AlignmentSheet) -> RgbImage {
    let layout = Layout::of(sheet);
    let mut canvas = RgbImage::from_pixel(layout.width, layout.height(), PAPER);
    let (tile_width, tile_height) = layout.tile;
    let image = if sheet.image.width() == 0 || sheet.image.height() == 0 {
        RgbImage::from_pixel(tile_width, tile_height, RULE)
    } else {
        imageops::resize(&sheet.image, tile_width, tile_height, FilterType::CatmullRom)
    };
    draw_heading(&mut canvas, sheet, &image, &layout);
    let pieces: Vec<&str> = sheet.tokens.iter().map(|token| token.piece.as_str()).collect();
    for (index, (heatmap, token)) in (0..).zip(sheet.tokens.iter().zip(read_pieces(&pieces))) {
        let picture = overlay_heatmap(&image, &heatmap.weights, sheet.grid, OPACITY, Upsampling::Patches);
        let at = layout.place(index);
        paste(&mut canvas, &picture, at);
        draw_label(&mut canvas, &token, &heatmap.weights, (at.0, at.1 + tile_height + 6));
    }
    canvas
}

fn draw_heading(canvas: &mut RgbImage, sheet: &AlignmentSheet, image: &RgbImage, layout: &Layout) {
    paste(canvas, image, (MARGIN, MARGIN));
    let left = MARGIN + TILE + GAP;
    let width = layout.width - MARGIN - left;
    draw_bold(canvas, &ellipsise(&sheet.title, width), (left, MARGIN), INK);
    let mut top = MARGIN + LINE_HEIGHT + 6;
    for line in wrap_text(&sheet.caption, width, CAPTION_LINES) {
        draw_text(canvas, &line, (left, top), INK);
        top += LINE_HEIGHT;
    }
    let (grid_height, grid_width) = sheet.grid;
    let tokens = if sheet.tokens.len() == 1 { "token" } else { "tokens" };
    let facts = format!("{} {tokens}, grid {grid_height} × {grid_width}", sheet.tokens.len());
    let legend_top = MARGIN + TILE - LINE_HEIGHT;
    draw_text(canvas, &ellipsise(&facts, width), (left, legend_top - LINE_HEIGHT - 4), FAINT);
    draw_legend(canvas, (left, legend_top));
    fill(canvas, (MARGIN, layout.tiles_top - GAP / 2 - 6), (layout.width - 2 * MARGIN, 1), RULE);
}

fn draw_legend(canvas: &mut RgbImage, (left, top): (u32, u32)) {
    const BAR: u32 = 120;
    let words = ["left out", "weak", "strongest"];
    let mut x = left;
    fill(canvas, (x, top + 3), (12, 12), inferno(0.08));
    x += 18;
    draw_text(canvas, words[0], (x, top), FAINT);
    x += text_width(words[0]) + 2 * GAP;
    draw_text(canvas, words[1], (x, top), FAINT);
    x += text_width(words[1]) + 8;
    for step in 0..BAR {
        let value = WEAKEST_LEVEL + (1.0 - WEAKEST_LEVEL) * step as f32 / (BAR - 1) as f32;
        fill(canvas, (x + step, top + 3), (1, 12), inferno(value));
    }
    draw_text(canvas, words[2], (x + BAR + 8, top), FAINT);
}

fn draw_label(canvas: &mut RgbImage, token: &Token, weights: &[f32], (left, top): (u32, u32)) {
    // A hyphen tells that a piece continues a word; punctuation tells it by itself.
    let continues = !token.starts_word && token.text.starts_with(char::is_alphanumeric);
    let joined = if continues { format!("-{}", token.text) } else { token.text.clone() };
    let text = ellipsise(&joined, TILE);
    match token.kind {
        TokenKind::Text => draw_bold(canvas, &text, (left, top), INK),
        TokenKind::Special => draw_text(canvas, &text, (left, top), FAINT),
    }
    let kept = kept_patches(weights);
    let count = format!("{kept} of {} patches", weights.len());
    draw_text(canvas, &ellipsise(&count, TILE), (left, top + LINE_HEIGHT), FAINT);
}

/// Twice, one pixel apart: the font is compiled in one weight only.
fn draw_bold(canvas: &mut RgbImage, text: &str, (left, top): (u32, u32), colour: Rgb<u8>) {
    draw_text(canvas, text, (left, top), colour);
    draw_text(canvas, text, (left + 1, top), colour);
}

fn paste(canvas: &mut RgbImage, picture: &RgbImage, (left, top): (u32, u32)) {
    imageops::replace(canvas, picture, i64::from(left), i64::from(top));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(n_tokens: usize, size: (u32, u32)) -> AlignmentSheet {
        let token = |index: usize| TokenHeatmap {
            piece: format!("▁word{index}"),
            weights: (0..12).map(|patch| if patch % 5 == index % 5 { 0.5 } else { 0.0 }).collect(),
        };
        AlignmentSheet {
            image: RgbImage::from_pixel(size.0, size.1, Rgb([90, 140, 200])),
            caption: "a caption of some words".to_owned(),
            grid: (3, 4),
            tokens: (0..n_tokens).map(token).collect(),
            title: "sparc".to_owned(),
        }
    }

    #[test]
    fn one_token_has_room_for_the_heading() {
        let picture = alignment_sheet(&sheet(1, (64, 64)));
        assert_eq!(picture.width(), 2 * MARGIN + MIN_COLUMNS * TILE + (MIN_COLUMNS - 1) * GAP);
    }

    #[test]
    fn forty_tokens_wrap_into_rows() {
        let (one, forty) = (alignment_sheet(&sheet(1, (64, 64))), alignment_sheet(&sheet(40, (64, 64))));
        let row = TILE + 2 * LINE_HEIGHT + GAP + 8;
        assert_eq!(forty.height() - one.height(), 6 * row, "40 tokens in 6 columns are 7 rows");
        assert!(forty.width() > one.width());
    }

    #[test]
    fn tiles_of_the_last_row_are_on_the_sheet() {
        let all = sheet(40, (64, 64));
        let picture = alignment_sheet(&all);
        let layout = Layout::of(&all);
        let (x, y) = layout.place(39);
        assert_ne!(*picture.get_pixel(x + 3, y + 3), PAPER);
        assert!(y + layout.tile.1 + 2 * LINE_HEIGHT < picture.height());
    }

    #[test]
    fn empty_and_odd_inputs_are_drawn() {
        let mut empty = sheet(0, (64, 64));
        empty.caption.clear();
        empty.title.clear();
        alignment_sheet(&empty);
        alignment_sheet(&sheet(2, (0, 0)));
        alignment_sheet(&sheet(2, (1000, 3)));
        let mut odd = sheet(3, (20, 30));
        odd.tokens[0].piece = "▁犬".to_owned();
        odd.tokens[1].piece = "x".repeat(500);
        odd.tokens[2].piece = String::new();
        odd.caption = "寿司 ".repeat(400);
        alignment_sheet(&odd);
    }

    #[test]
    fn rows_are_filled_evenly() {
        assert_eq!([1, 4, 6, 7, 10, 12, 13, 40].map(balanced_columns), [4, 4, 6, 4, 5, 6, 5, 6]);
    }
}
