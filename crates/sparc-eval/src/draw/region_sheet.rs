//! The picture of `sparc inspect` for regions: boxes on the image, with a list of what they are.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::text::{LINE_HEIGHT, draw_text, ellipsise, fill, text_width};

/// What a region sheet shows.
#[derive(Debug, Clone)]
pub struct RegionSheet {
    /// The image as the network saw it.
    pub image: RgbImage,
    /// The heading, for example the method and the sample's key.
    pub title: String,
    /// The image once for each, side by side.
    pub panels: Vec<RegionPanel>,
}

/// One copy of the image with boxes on it.
#[derive(Debug, Clone)]
pub struct RegionPanel {
    /// What the boxes are.
    pub heading: String,
    /// The boxes; a number ties each to its line below the image.
    pub boxes: Vec<LabelledBox>,
}

/// A box with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledBox {
    /// `x0, y0, x1, y1` in `[0, 1]` of the image; without area it is listed and not drawn.
    pub corners: [f32; 4],
    /// The label.
    pub label: String,
}

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([28, 28, 32]);
const FAINT: Rgb<u8> = Rgb([112, 112, 120]);
/// The categorical colours of Okabe and Ito (2008) that stand out on a photograph; told apart without colour vision.
const COLOURS: [Rgb<u8>; 6] = [
    Rgb([230, 159, 0]),
    Rgb([86, 180, 233]),
    Rgb([0, 158, 115]),
    Rgb([240, 228, 66]),
    Rgb([213, 94, 0]),
    Rgb([204, 121, 167]),
];

const MARGIN: u32 = 24;
const GAP: u32 = 24;
/// The longer side of every picture on the sheet.
const TILE: u32 = 384;
/// Width of a box's line.
const LINE: u32 = 3;

/// Draws the sheet.
pub fn region_sheet(sheet: &RegionSheet) -> RgbImage {
    let (width, height) = sheet.image.dimensions();
    let longer = width.max(height).max(1);
    let scaled = |side: u32| (u64::from(side) * u64::from(TILE) / u64::from(longer)).max(1) as u32;
    let tile = (scaled(width), scaled(height));
    let lines = sheet.panels.iter().map(|panel| panel.boxes.len()).max().unwrap_or(0) as u32;
    let n = (sheet.panels.len() as u32).max(1);
    let top = MARGIN + 2 * LINE_HEIGHT + 8;
    let size = (2 * MARGIN + n * TILE + (n - 1) * GAP, top + tile.1 + 10 + lines * LINE_HEIGHT + MARGIN);
    let mut canvas = RgbImage::from_pixel(size.0, size.1, PAPER);
    draw_text(&mut canvas, &ellipsise(&sheet.title, size.0 - 2 * MARGIN), (MARGIN, MARGIN), INK);
    let image = if width == 0 || height == 0 {
        RgbImage::from_pixel(tile.0, tile.1, FAINT)
    } else {
        imageops::resize(&sheet.image, tile.0, tile.1, FilterType::CatmullRom)
    };
    for (index, panel) in (0..).zip(&sheet.panels) {
        let left = MARGIN + index * (TILE + GAP);
        draw_text(&mut canvas, &ellipsise(&panel.heading, TILE), (left, MARGIN + LINE_HEIGHT + 4), FAINT);
        imageops::replace(&mut canvas, &image, i64::from(left), i64::from(top));
        for (number, labelled) in panel.boxes.iter().enumerate() {
            draw_box(&mut canvas, labelled, number, (left, top), tile);
        }
        for (number, labelled) in panel.boxes.iter().enumerate() {
            let at = (left, top + tile.1 + 10 + number as u32 * LINE_HEIGHT);
            fill(&mut canvas, (at.0, at.1 + 2), (12, 12), colour(number));
            let text = format!("{} {}", number + 1, labelled.label);
            draw_text(&mut canvas, &ellipsise(&text, TILE - 20), (at.0 + 20, at.1), INK);
        }
    }
    canvas
}

fn colour(number: usize) -> Rgb<u8> {
    COLOURS[number % COLOURS.len()]
}

fn draw_box(canvas: &mut RgbImage, labelled: &LabelledBox, number: usize, at: (u32, u32), tile: (u32, u32)) {
    let [x0, y0, x1, y1] = labelled.corners;
    // `NaN as u32` is 0, so that nothing is drawn.
    let pixel = |share: f32, side: u32| (share.clamp(0.0, 1.0) * side as f32).round() as u32;
    let (left, right) = (pixel(x0, tile.0), pixel(x1, tile.0));
    let (top, bottom) = (pixel(y0, tile.1), pixel(y1, tile.1));
    if left >= right || top >= bottom {
        return;
    }
    let (width, height) = (right - left, bottom - top);
    let line = LINE.min(width).min(height);
    let (left, top, colour) = (at.0 + left, at.1 + top, colour(number));
    fill(canvas, (left, top), (width, line), colour);
    fill(canvas, (left, top + height - line), (width, line), colour);
    fill(canvas, (left, top), (line, height), colour);
    fill(canvas, (left + width - line, top), (line, height), colour);
    let text = (number + 1).to_string();
    fill(canvas, (left, top), (text_width(&text) + 6, LINE_HEIGHT - 2), colour);
    draw_text(canvas, &text, (left + 3, top + 1), INK);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(size: (u32, u32), boxes: &[[f32; 4]]) -> RegionSheet {
        let boxes: Vec<LabelledBox> =
            boxes.iter().map(|&corners| LabelledBox { corners, label: "a thing".to_owned() }).collect();
        let panel = RegionPanel { heading: "boxes".to_owned(), boxes };
        let image = RgbImage::from_pixel(size.0, size.1, Rgb([9, 9, 9]));
        RegionSheet { image, title: "cloc".to_owned(), panels: vec![panel.clone(), panel] }
    }

    #[test]
    fn a_box_is_drawn_where_it_is() {
        let picture = region_sheet(&sheet((64, 64), &[[0.25, 0.5, 0.75, 1.0]]));
        let top = MARGIN + 2 * LINE_HEIGHT + 8;
        for left in [MARGIN, MARGIN + TILE + GAP] {
            let at = |x: u32, y: u32| *picture.get_pixel(left + x, top + y);
            assert_eq!(at(TILE / 4, TILE - 1), COLOURS[0]);
            assert_eq!(at(3 * TILE / 4 - 1, 3 * TILE / 4), COLOURS[0]);
            assert_eq!(at(TILE / 4 - 1, TILE - 1), Rgb([9, 9, 9]));
            assert_eq!(at(TILE / 2, 3 * TILE / 4), Rgb([9, 9, 9]));
        }
    }

    #[test]
    fn odd_boxes_and_images_are_listed_and_harm_nothing() {
        let nan = f32::NAN;
        let odd = [[0.5, 0.5, 0.2, 0.2], [nan, 0.0, 1.0, 1.0], [-3.0, -3.0, 9.0, 9.0], [0.999, 0.999, 1.0, 1.0]];
        let few = region_sheet(&sheet((64, 40), &odd[..1]));
        let all = region_sheet(&sheet((64, 40), &odd));
        assert_eq!(all.height() - few.height(), 3 * LINE_HEIGHT);
        region_sheet(&sheet((0, 0), &odd));
        region_sheet(&RegionSheet { panels: Vec::new(), ..sheet((5, 5), &[]) });
    }
}
