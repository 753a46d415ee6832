//! The picture of `sparc shards peek`: many images, with their captions and boxes.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::text::{LINE_HEIGHT, draw_text, ellipsise, fill, text_width, wrap_text};

/// One image of a contact sheet.
#[derive(Debug, Clone)]
pub struct Contact {
    /// What stands above the image, for example its key.
    pub title: String,
    /// The image, of any size.
    pub image: RgbImage,
    /// Its captions; the first few are shown.
    pub captions: Vec<String>,
    /// Boxes `x0, y0, x1, y1` in [0, 1] of the image, and what they hold; `None` if none were annotated.
    pub regions: Option<Vec<([f32; 4], String)>>,
}

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([28, 28, 32]);
const FAINT: Rgb<u8> = Rgb([112, 112, 120]);
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);

const MARGIN: u32 = 24;
const GAP: u32 = 24;
/// Longer side of an image on the sheet.
const TILE: u32 = 320;
const COLUMNS: u32 = 4;
const CAPTIONS: usize = 3;
const LINES_OF_A_CAPTION: usize = 2;
const LINES_OF_A_LEGEND: usize = 4;
/// Boxes on one image: with more, none could be made out.
const BOXES: usize = 24;
const STROKE: u32 = 2;

/// Colours that can be told from each other and from photographs (Okabe and Ito 2008, without yellow and
/// black, darkened where white text stands on them).
const COLOURS: [Rgb<u8>; 6] = [
    Rgb([213, 94, 0]),
    Rgb([0, 114, 178]),
    Rgb([0, 138, 100]),
    Rgb([180, 80, 145]),
    Rgb([190, 130, 0]),
    Rgb([40, 140, 190]),
];

/// Draws images in rows of four. Each has its title above it and its captions beneath; boxes carry
/// numbers, and the legend beneath says what they hold.
pub fn contact_sheet(contacts: &[Contact]) -> RgbImage {
    let columns = (contacts.len() as u32).clamp(1, COLUMNS);
    let cells: Vec<Cell> = contacts.iter().map(Cell::of).collect();
    let heights: Vec<u32> =
        cells.chunks(columns as usize).map(|row| row.iter().map(Cell::height).max().unwrap_or(0)).collect();
    let width = 2 * MARGIN + columns * TILE + (columns - 1) * GAP;
    let height = 2 * MARGIN + heights.iter().map(|height| height + GAP).sum::<u32>().saturating_sub(GAP);
    let mut canvas = RgbImage::from_pixel(width, height, PAPER);
    let mut top = MARGIN;
    for (row, height) in cells.chunks(columns as usize).zip(heights) {
        for (cell, column) in row.iter().zip(0..) {
            cell.draw(&mut canvas, (MARGIN + column * (TILE + GAP), top));
        }
        top += height + GAP;
    }
    canvas
}

/// An image with its lines of text.
struct Cell {
    title: String,
    picture: RgbImage,
    /// With the colour of the number that stands before the text, if one does.
    lines: Vec<Line>,
}

enum Line {
    Caption(String),
    Note(String),
    /// Numbers with their colours, each followed by a text.
    Legend(Vec<(usize, String)>),
}

impl Cell {
    fn of(contact: &Contact) -> Cell {
        let mut picture = scaled(&contact.image);
        let mut lines = Vec::new();
        for caption in contact.captions.iter().take(CAPTIONS) {
            // A caption stands out from the next by its first line.
            let wrapped = wrap_text(caption, TILE - text_width("- "), LINES_OF_A_CAPTION);
            for (index, line) in wrapped.into_iter().enumerate() {
                lines.push(Line::Caption(format!("{} {line}", if index == 0 { "-" } else { " " })));
            }
        }
        match contact.captions.len() {
            0 => lines.push(Line::Note("no caption".into())),
            n if n > CAPTIONS => lines.push(Line::Note(format!("  and {} more", n - CAPTIONS))),
            _ => {}
        }
        if let Some(regions) = &contact.regions {
            let shown = &regions[..regions.len().min(BOXES)];
            // Frames first, so that no number is struck through.
            shown.iter().enumerate().for_each(|(index, (place, _))| draw_frame(&mut picture, *place, index));
            let mut taken = Vec::new();
            shown
                .iter()
                .enumerate()
                .for_each(|(index, (place, _))| draw_number(&mut picture, *place, index, &mut taken));
            lines.extend(legend(shown, regions.len()));
        }
        Cell { title: ellipsise(&contact.title, TILE), picture, lines }
    }

    fn height(&self) -> u32 {
        LINE_HEIGHT + self.picture.height() + 8 + LINE_HEIGHT * self.lines.len() as u32
    }

    fn draw(&self, canvas: &mut RgbImage, (left, top): (u32, u32)) {
        draw_text(canvas, &self.title, (left, top), FAINT);
        let mut y = top + LINE_HEIGHT;
        imageops::replace(canvas, &self.picture, left.into(), y.into());
        y += self.picture.height() + 8;
        for line in &self.lines {
            match line {
                Line::Caption(text) => draw_text(canvas, text, (left, y), INK),
                Line::Note(text) => draw_text(canvas, text, (left, y), FAINT),
                Line::Legend(entries) => {
                    let mut x = left;
                    for (index, text) in entries {
                        x = draw_chip(canvas, *index, (x, y)) + 4;
                        draw_text(canvas, text, (x, y), INK);
                        x += text_width(text) + 10;
                    }
                }
            }
            y += LINE_HEIGHT;
        }
    }
}

/// The image with a longer side of [`TILE`] pixels.
fn scaled(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return RgbImage::from_pixel(TILE, TILE, FAINT);
    }
    let side = |length: u32| {
        let longer = u64::from(width.max(height));
        ((u64::from(length) * u64::from(TILE) + longer / 2) / longer).max(1) as u32
    };
    let (new_width, new_height) = (side(width), side(height));
    imageops::resize(image, new_width, new_height, FilterType::CatmullRom)
}

/// The frame's corners in pixels of the picture.
fn corners(picture: &RgbImage, [x0, y0, x1, y1]: [f32; 4]) -> [u32; 4] {
    let place = |share: f32, length: u32| (share.clamp(0.0, 1.0) * length as f32).round() as u32;
    let (width, height) = picture.dimensions();
    [place(x0, width), place(y0, height), place(x1, width), place(y1, height)]
}

/// A coloured line inside the box's edge, with a thin light one inside that.
fn draw_frame(picture: &mut RgbImage, place: [f32; 4], index: usize) {
    let [left, top, right, bottom] = corners(picture, place);
    let mut ring = |inset: u32, stroke: u32, colour: Rgb<u8>| {
        let (left, top) = (left + inset, top + inset);
        let (width, height) =
            ((right.saturating_sub(inset)).saturating_sub(left), (bottom.saturating_sub(inset)).saturating_sub(top));
        let stroke_x = stroke.min(width);
        let stroke_y = stroke.min(height);
        fill(picture, (left, top), (width, stroke_y), colour);
        fill(picture, (left, top + height - stroke_y), (width, stroke_y), colour);
        fill(picture, (left, top), (stroke_x, height), colour);
        fill(picture, (left + width - stroke_x, top), (stroke_x, height), colour);
    };
    ring(STROKE, 1, WHITE);
    ring(0, STROKE, colour_of(index));
}

/// The number of a box in its upper left corner, above it where it would hide the box, and below the numbers
/// that are there already.
fn draw_number(picture: &mut RgbImage, place: [f32; 4], index: usize, taken: &mut Vec<[u32; 4]>) {
    let [left, top, right, bottom] = corners(picture, place);
    let (width, height) = (chip_width(index), CHIP_HEIGHT);
    let hides = right < left + 2 * width || bottom < top + 2 * height;
    let top = if hides { top.saturating_sub(height) } else { top };
    let left = left.min(picture.width().saturating_sub(width));
    let mut top = top.min(picture.height().saturating_sub(height));
    let overlaps = |top: u32, other: &[u32; 4]| {
        left < other[2] && other[0] < left + width && top < other[3] && other[1] < top + height
    };
    while let Some(other) = taken.iter().find(|other| overlaps(top, other)) {
        top = other[3];
        if top + height > picture.height() {
            break;
        }
    }
    taken.push([left, top, left + width, top + height]);
    draw_chip(picture, index, (left, top));
}

const CHIP_HEIGHT: u32 = 17;

fn chip_width(index: usize) -> u32 {
    text_width(&(index + 1).to_string()) + 4
}

/// A number on its colour; gives the place to the right of it.
fn draw_chip(canvas: &mut RgbImage, index: usize, (left, top): (u32, u32)) -> u32 {
    let width = chip_width(index);
    fill(canvas, (left, top), (width, CHIP_HEIGHT), colour_of(index));
    draw_text(canvas, &(index + 1).to_string(), (left + 2, top), WHITE);
    left + width
}

fn colour_of(index: usize) -> Rgb<u8> {
    COLOURS[index % COLOURS.len()]
}

/// Numbers and phrases in lines; what does not fit is counted.
fn legend(shown: &[([f32; 4], String)], total: usize) -> Vec<Line> {
    if total == 0 {
        return vec![Line::Note("annotated: no region".into())];
    }
    let mut lines: Vec<Vec<(usize, String)>> = Vec::new();
    let (mut used, mut listed) = (TILE, 0);
    for (index, (_, phrase)) in shown.iter().enumerate() {
        let room = TILE - chip_width(index) - 4;
        let phrase = ellipsise(phrase, room);
        let width = chip_width(index) + 4 + text_width(&phrase);
        if used + 10 + width > TILE {
            if lines.len() == LINES_OF_A_LEGEND {
                break;
            }
            lines.push(Vec::new());
            used = 0;
        } else {
            used += 10;
        }
        used += width;
        listed += 1;
        lines.last_mut().expect("a line was begun").push((index, phrase));
    }
    let mut lines: Vec<Line> = lines.into_iter().map(Line::Legend).collect();
    if total > listed {
        lines.push(Line::Note(format!("and {} more", total - listed)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(n_regions: usize, n_captions: usize, size: (u32, u32)) -> Contact {
        let region = |index: usize| ([0.1, 0.1, 0.5 + index as f32 / 100.0, 0.9], format!("thing {index}"));
        Contact {
            title: "key".into(),
            image: RgbImage::from_pixel(size.0, size.1, Rgb([90, 140, 200])),
            captions: vec!["a caption of some words".into(); n_captions],
            regions: (n_regions > 0).then(|| (0..n_regions).map(region).collect()),
        }
    }

    #[test]
    fn rows_have_four_images_and_few_images_make_a_small_sheet() {
        let width = |count: usize| contact_sheet(&vec![contact(1, 1, (40, 30)); count]).width();
        assert_eq!([1, 2, 4, 9].map(width), [368, 712, 1400, 1400]);
        let height = |count: usize| contact_sheet(&vec![contact(1, 1, (40, 30)); count]).height();
        assert_eq!(height(5) - height(4), LINE_HEIGHT + 240 + 8 + 2 * LINE_HEIGHT + GAP);
    }

    #[test]
    fn boxes_are_where_they_belong() {
        let mut picture = RgbImage::from_pixel(100, 50, WHITE);
        draw_frame(&mut picture, [0.1, 0.2, 0.6, 0.8], 0);
        let coloured: Vec<(u32, u32)> =
            picture.enumerate_pixels().filter(|(_, _, pixel)| **pixel == COLOURS[0]).map(|(x, y, _)| (x, y)).collect();
        let range = |values: Vec<u32>| (*values.iter().min().unwrap(), *values.iter().max().unwrap());
        assert_eq!(range(coloured.iter().map(|place| place.0).collect()), (10, 59));
        assert_eq!(range(coloured.iter().map(|place| place.1).collect()), (10, 39));
        assert_eq!(coloured.len(), 2 * 2 * 50 + 2 * 2 * 26);
    }

    #[test]
    fn many_boxes_and_long_texts_are_counted() {
        let many = contact(60, 9, (40, 30));
        let cell = Cell::of(&many);
        let notes: Vec<&str> = cell
            .lines
            .iter()
            .filter_map(|line| match line {
                Line::Note(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(notes[0], "  and 6 more");
        let listed: usize =
            cell.lines.iter().map(|line| if let Line::Legend(entries) = line { entries.len() } else { 0 }).sum();
        assert_eq!(notes[1], format!("and {} more", 60 - listed));
    }

    #[test]
    fn odd_inputs_are_drawn() {
        let mut odd = contact(3, 0, (1, 900));
        odd.regions = Some(vec![([f32::NAN, -1.0, 2.0, 0.0], "犬".repeat(90)), ([1.0, 1.0, 1.0, 1.0], String::new())]);
        contact_sheet(&[odd, contact(0, 0, (0, 0)), contact(30, 1, (2000, 1))]);
        contact_sheet(&[]);
    }
}
