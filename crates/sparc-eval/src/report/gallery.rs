//! The gallery: images whose captions show where each token looks.
//!
//! The markup holds images and captions; the weights travel as JSON and `page.js` paints them.

use serde_json::{Value, json};

use super::ReportError;
use super::data::GalleryItem;
use super::html::{escape, photo_uri};
use crate::draw::{
    CLEARING, INFERNO, OPACITY, Token, TokenKind, WEAKEST_LEVEL, kept_patches, read_pieces, relative_weights,
};

/// The longer side of a gallery image: a panel is never much wider than half of this.
const MAX_SIDE: u32 = 512;

/// The cards, and the JSON that `page.js` reads.
pub(super) struct Gallery {
    pub(super) cards: String,
    pub(super) data: Value,
}

/// Renders all items; `colour_of` gives a method's place in the palette.
pub(super) fn gallery(items: &[GalleryItem], colour_of: impl Fn(&str) -> usize) -> Result<Gallery, ReportError> {
    let mut cards = String::new();
    let mut data = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        check(item)?;
        let tokens = read_pieces(&item.token_pieces);
        cards.push_str(&card(item, index, &tokens, &colour_of)?);
        data.push(item_json(item, &tokens));
    }
    let colours: String = INFERNO.iter().map(|colour| format!("{colour:06x}")).collect();
    let tint = json!({ "opacity": OPACITY, "clearing": CLEARING, "weakest": WEAKEST_LEVEL });
    Ok(Gallery { cards, data: json!({ "tint": tint, "colours": colours, "items": data }) })
}

fn check(item: &GalleryItem) -> Result<(), ReportError> {
    let (height, width) = item.grid;
    for heatmaps in &item.heatmaps {
        let (method, key) = (&heatmaps.method, &item.key);
        if heatmaps.weights.len() != item.token_pieces.len() {
            return Err(ReportError::Mismatch(format!(
                "gallery item `{key}`: {method} has weights for {} tokens, the caption has {}",
                heatmaps.weights.len(),
                item.token_pieces.len()
            )));
        }
        if let Some(weights) = heatmaps.weights.iter().find(|weights| weights.len() != height * width) {
            return Err(ReportError::Mismatch(format!(
                "gallery item `{key}`: {method} has {} weights for a grid of {height} x {width}",
                weights.len()
            )));
        }
    }
    Ok(())
}

fn card(
    item: &GalleryItem,
    index: usize,
    tokens: &[Token],
    colour_of: impl Fn(&str) -> usize,
) -> Result<String, ReportError> {
    let uri = photo_uri(&item.key, &item.image, MAX_SIDE)?;
    let caption = caption_text(tokens);
    let ratio = format!("{} / {}", item.image.width(), item.image.height());
    let mut panels = String::new();
    for (place, heatmaps) in item.heatmaps.iter().enumerate() {
        // One copy of the picture in the file: the script hands it to the other panels.
        let source = if place == 0 { format!(" src=\"{uri}\"") } else { String::new() };
        let alt = if place == 0 { escape(&caption) } else { String::new() };
        panels.push_str(&format!(
            "<figure class=\"panel m{}\"><div class=\"frame\" style=\"aspect-ratio:{ratio}\"><img{source} alt=\"{alt}\">\
             <canvas aria-hidden=\"true\"></canvas></div>\
             <figcaption><b>{}</b> <span class=\"kept\"></span></figcaption></figure>\n",
            colour_of(&heatmaps.method),
            escape(&heatmaps.method),
        ));
    }
    if item.heatmaps.is_empty() {
        panels = format!(
            "<figure class=\"panel\"><div class=\"frame\" style=\"aspect-ratio:{ratio}\">\
             <img src=\"{uri}\" alt=\"{}\"></div></figure>\n",
            escape(&caption)
        );
    }
    let note =
        if item.note.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>\n", escape(&item.note)) };
    Ok(format!(
        "<article class=\"card\" data-item=\"{index}\" aria-label=\"{key}\">\n<div class=\"panels\">\n{panels}</div>\n\
         <p class=\"caption\" role=\"toolbar\" aria-label=\"tokens of the caption\">{}</p>\n{note}\
         <p class=\"key\">{key}</p>\n</article>\n",
        caption_html(tokens, !item.heatmaps.is_empty()),
        key = escape(&item.key),
    ))
}

/// The caption as words of tokens; tokens of one word are joined.
fn caption_html(tokens: &[Token], active: bool) -> String {
    let mut html = String::new();
    for (index, token) in tokens.iter().enumerate() {
        if token.starts_word {
            html.push_str(if index == 0 { "<span class=\"word\">" } else { "</span> <span class=\"word\">" });
        }
        let class = match token.kind {
            TokenKind::Text => "token",
            TokenKind::Special => "token special",
        };
        let text = escape(&token.text);
        if active {
            html.push_str(&format!(
                "<span class=\"{class}\" role=\"button\" tabindex=\"0\" aria-pressed=\"false\" data-token=\"{index}\">{text}</span>"
            ));
        } else {
            html.push_str(&format!("<span class=\"{class}\">{text}</span>"));
        }
    }
    if tokens.is_empty() { html } else { html + "</span>" }
}

/// The caption's words, without control tokens.
fn caption_text(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens.iter().filter(|token| token.kind == TokenKind::Text) {
        if token.starts_word && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&token.text);
    }
    text
}

fn item_json(item: &GalleryItem, tokens: &[Token]) -> Value {
    let methods: Vec<Value> = item
        .heatmaps
        .iter()
        .map(|heatmaps| {
            let weights: Vec<String> = heatmaps.weights.iter().map(|weights| hexadecimal(weights)).collect();
            json!({ "name": heatmaps.method, "weights": weights })
        })
        .collect();
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    json!({
        "grid": [item.grid.0, item.grid.1],
        "tokens": texts,
        "start": starting_token(item, tokens),
        "methods": methods,
    })
}

/// Two hexadecimal digits a patch: the weight relative to the largest, at least 1 where it is positive.
fn hexadecimal(weights: &[f32]) -> String {
    let byte = |relative: f32| {
        if relative > 0.0 { (255.0 * relative).round().max(1.0) as u8 } else { 0 }
    };
    relative_weights(weights).into_iter().map(|relative| format!("{:02x}", byte(relative))).collect()
}

/// The token shown at first: of the longer words, the one to which the last method gives the fewest patches.
fn starting_token(item: &GalleryItem, tokens: &[Token]) -> Option<usize> {
    let weights = &item.heatmaps.last()?.weights;
    let candidate = |&index: &usize| {
        let token = &tokens[index];
        token.kind == TokenKind::Text && token.text.chars().count() > 3 && kept_patches(&weights[index]) > 0
    };
    (0..tokens.len()).filter(candidate).min_by_key(|&index| kept_patches(&weights[index]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::MethodHeatmaps;
    use image::RgbImage;

    fn item() -> GalleryItem {
        let pieces = ["▁two", "▁foot", "ball", "ers", "</s>"];
        let weights = |shift: usize| {
            (0..5)
                .map(|token| (0..4).map(|patch| if patch <= (token + shift) % 4 { 0.5 } else { 0.0 }).collect())
                .collect()
        };
        GalleryItem {
            image: RgbImage::new(40, 30),
            key: "00\"7".to_owned(),
            grid: (2, 2),
            token_pieces: pieces.map(str::to_owned).to_vec(),
            heatmaps: vec![
                MethodHeatmaps { method: "CLIP".to_owned(), weights: weights(1) },
                MethodHeatmaps { method: "SPARC".to_owned(), weights: weights(0) },
            ],
            note: String::new(),
        }
    }

    #[test]
    fn every_token_is_a_button_and_words_are_joined() {
        let cards = gallery(&[item()], |_| 0).unwrap().cards;
        assert_eq!(cards.matches("role=\"button\" tabindex=\"0\"").count(), 5);
        assert_eq!(cards.matches("class=\"word\"").count(), 3);
        assert_eq!(cards.matches("token special").count(), 1);
        assert!(cards.contains("alt=\"two footballers\"") && cards.contains("aria-label=\"00&quot;7\""));
    }

    #[test]
    fn picture_stands_in_the_page_once() {
        let cards = gallery(&[item()], |_| 0).unwrap().cards;
        assert_eq!(cards.matches("data:image/jpeg").count(), 1);
        assert_eq!(cards.matches("<canvas").count(), 2);
    }

    #[test]
    fn weights_are_two_digits_a_patch_and_kept_patches_stay_kept() {
        assert_eq!(hexadecimal(&[0.0, 1e-6, 0.5, 1.0, f32::NAN]), "000180ff00");
        let data = gallery(&[item()], |_| 0).unwrap().data;
        assert_eq!(data["items"][0]["methods"][0]["weights"][0], "ffff0000");
        assert_eq!(data["items"][0]["grid"], json!([2, 2]));
        assert_eq!(data["colours"].as_str().unwrap().len(), 6 * 256);
    }

    #[test]
    fn starts_with_the_most_selective_long_word() {
        let data = gallery(&[item()], |_| 0).unwrap().data;
        assert_eq!(data["items"][0]["start"], 1, "`foot` keeps 2 patches and `ball` 3");
    }

    #[test]
    fn weights_that_do_not_fit_are_named() {
        let mut wrong = item();
        wrong.heatmaps[1].weights[2].pop();
        let error = gallery(&[wrong], |_| 0).err().unwrap().to_string();
        assert_eq!(error, "gallery item `00\"7`: SPARC has 3 weights for a grid of 2 x 2");
        let mut wrong = item();
        wrong.heatmaps[0].weights.pop();
        assert!(gallery(&[wrong], |_| 0).err().unwrap().to_string().contains("4 tokens, the caption has 5"));
    }

    #[test]
    fn items_without_heatmaps_or_caption_are_shown() {
        let mut plain = item();
        plain.heatmaps.clear();
        let cards = gallery(&[plain], |_| 0).unwrap().cards;
        assert!(cards.contains("data:image/jpeg") && !cards.contains("role=\"button\""));
        let mut silent = item();
        silent.token_pieces.clear();
        silent.heatmaps.iter_mut().for_each(|heatmaps| heatmaps.weights.clear());
        assert!(gallery(&[silent], |_| 0).unwrap().data["items"][0]["start"].is_null());
    }
}
