//! Text in pixels: one size of one monospaced font, so that widths are plain arithmetic.

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const WEIGHT: FontWeight = FontWeight::Regular;
const SIZE: RasterHeight = RasterHeight::Size16;
const GLYPH_WIDTH: u32 = get_raster_width(WEIGHT, SIZE) as u32;
const GLYPH_HEIGHT: u32 = 16;

/// Pixels from the top of one line to the top of the next.
pub const LINE_HEIGHT: u32 = 20;

/// The width of `text` on one line, in pixels.
pub fn text_width(text: &str) -> u32 {
    GLYPH_WIDTH * text.chars().count() as u32
}

/// Draws `text` on one line with its top left corner at `(left, top)`; what lies outside is cut off.
pub fn draw_text(canvas: &mut RgbImage, text: &str, (left, top): (u32, u32), colour: Rgb<u8>) {
    if top >= canvas.height() {
        return;
    }
    for (index, character) in text.chars().enumerate() {
        let x = left.saturating_add(GLYPH_WIDTH * index as u32);
        if x >= canvas.width() {
            break;
        }
        draw_character(canvas, character, (x, top), colour);
    }
}

fn draw_character(canvas: &mut RgbImage, character: char, (left, top): (u32, u32), colour: Rgb<u8>) {
    match character {
        '…' => {
            for dot in 0..3 {
                fill(canvas, (left + 3 * dot, top + GLYPH_HEIGHT - 5), (2, 2), colour);
            }
            return;
        }
        '␣' => {
            let (width, bottom) = (GLYPH_WIDTH - 1, top + GLYPH_HEIGHT - 3);
            fill(canvas, (left, bottom), (width, 1), colour);
            fill(canvas, (left, bottom - 3), (1, 3), colour);
            fill(canvas, (left + width - 1, bottom - 3), (1, 3), colour);
            return;
        }
        _ => {}
    }
    let Some(glyph) = get_raster(latin_stand_in(character), WEIGHT, SIZE) else {
        return draw_box(canvas, (left, top), colour);
    };
    for (y, row) in (top..).zip(glyph.raster()) {
        for (x, &coverage) in (left..).zip(*row) {
            blend(canvas, (x, y), colour, coverage);
        }
    }
}

/// Typographic characters that captions are full of and the font's Latin range lacks.
fn latin_stand_in(character: char) -> char {
    match character {
        '‘' | '’' | '‚' | '´' => '\'',
        '“' | '”' | '„' => '"',
        '‐' | '‑' | '‒' | '–' | '—' | '−' => '-',
        '×' => 'x',
        '·' | '•' => '.',
        '\t' | '\n' | '\r' | '\u{a0}' => ' ',
        other => other,
    }
}

fn draw_box(canvas: &mut RgbImage, (left, top): (u32, u32), colour: Rgb<u8>) {
    let (width, height) = (GLYPH_WIDTH - 1, GLYPH_HEIGHT - 5);
    let top = top + 2;
    fill(canvas, (left, top), (width, 1), colour);
    fill(canvas, (left, top + height - 1), (width, 1), colour);
    fill(canvas, (left, top), (1, height), colour);
    fill(canvas, (left + width - 1, top), (1, height), colour);
}

/// Fills a rectangle; what lies outside the canvas is cut off.
pub(super) fn fill(canvas: &mut RgbImage, (left, top): (u32, u32), (width, height): (u32, u32), colour: Rgb<u8>) {
    for y in top..top.saturating_add(height).min(canvas.height()) {
        for x in left..left.saturating_add(width).min(canvas.width()) {
            canvas.put_pixel(x, y, colour);
        }
    }
}

fn blend(canvas: &mut RgbImage, (x, y): (u32, u32), colour: Rgb<u8>, coverage: u8) {
    let Some(pixel) = canvas.get_pixel_mut_checked(x, y) else {
        return;
    };
    let coverage = u32::from(coverage);
    for (old, new) in pixel.0.iter_mut().zip(colour.0) {
        *old = ((u32::from(*old) * (255 - coverage) + u32::from(new) * coverage + 127) / 255) as u8;
    }
}

/// `text` cut to `width` pixels, with an ellipsis in its last place if something was cut.
pub fn ellipsise(text: &str, width: u32) -> String {
    let room = (width / GLYPH_WIDTH) as usize;
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let Some(kept) = room.checked_sub(1) else {
        return String::new();
    };
    text.chars().take(kept).chain(['…']).collect()
}

/// `text` broken at spaces into lines of at most `width` pixels, and at most `max_lines` of them.
///
/// A word longer than a line is broken where the line ends; the last line ends in an ellipsis when
/// something was left out.
pub fn wrap_text(text: &str, width: u32, max_lines: usize) -> Vec<String> {
    let room = ((width / GLYPH_WIDTH) as usize).max(1);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let characters: Vec<char> = word.chars().collect();
        for (index, part) in characters.chunks(room).enumerate() {
            match lines.last_mut() {
                Some(line) if index == 0 && line.chars().count() + 1 + part.len() <= room => {
                    line.push(' ');
                    line.extend(part);
                }
                _ => lines.push(part.iter().collect()),
            }
        }
    }
    if lines.len() > max_lines {
        lines.truncate(max_lines);
        if let Some(last) = lines.last_mut() {
            last.push('…');
            *last = ellipsise(last, width);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const INK: Rgb<u8> = Rgb([0; 3]);

    fn drawn(text: &str) -> usize {
        let mut canvas = RgbImage::from_pixel(64, 20, Rgb([255; 3]));
        draw_text(&mut canvas, text, (0, 0), INK);
        canvas.pixels().filter(|pixel| pixel.0[0] < 200).count()
    }

    #[test]
    fn letters_and_unknown_glyphs_leave_ink_and_spaces_none() {
        for text in ["a", "…", "␣", "犬", "😀", "\u{0}", "’"] {
            assert!(drawn(text) > 0, "{text:?} left no ink");
        }
        assert_eq!(drawn(" \t\u{a0}"), 0);
    }

    #[test]
    fn text_beyond_the_canvas_is_cut_off() {
        let mut canvas = RgbImage::new(5, 5);
        draw_text(&mut canvas, &"wide 犬…␣".repeat(50), (0, 0), INK);
        draw_text(&mut canvas, "far", (u32::MAX, 0), INK);
        draw_text(&mut canvas, "below …␣犬", (0, u32::MAX), INK);
        draw_text(&mut canvas, "犬…␣", (3, 3), INK);
    }

    #[test]
    fn ellipsis_takes_the_last_place() {
        let width = text_width("abcd");
        assert_eq!(ellipsise("abcd", width), "abcd");
        assert_eq!(ellipsise("abcde", width), "abc…");
        assert_eq!(ellipsise("abcde", 0), "");
    }

    #[test]
    fn wrapping_breaks_at_spaces_and_inside_words_that_are_too_long() {
        let width = text_width("12345");
        assert_eq!(wrap_text("a bc def  gh", width, 9), ["a bc", "def", "gh"]);
        assert_eq!(wrap_text("abcdefgh i", width, 9), ["abcde", "fgh i"]);
        assert_eq!(wrap_text("aa bb cc dd", width, 1), ["aa b…"]);
        assert!(wrap_text("  ", width, 9).is_empty());
    }
}
