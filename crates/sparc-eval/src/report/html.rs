//! What keeps text, JSON and pictures safe inside an HTML file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage};

use super::ReportError;

/// `text` for use between tags and inside double-quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // HTML allows no other control characters, not even as references.
            '\t' | '\n' | '\r' => out.push(character),
            character if character.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

/// JSON for a `<script>` element: no `<`, so that neither `</script>` nor `<!--` can stand in it.
pub(super) fn script_json(value: &serde_json::Value) -> String {
    let text = value.to_string();
    text.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// The longer side beyond which a picture is made smaller for the page.
const MAX_SIDE: u32 = 960;
const JPEG_QUALITY: u8 = 88;
/// Drawn pictures are kept exactly up to this many bytes.
const MAX_PNG_BYTES: usize = 400_000;

/// A photograph as a `data:` URI, by JPEG.
pub(super) fn photo_uri(name: &str, image: &RgbImage, max_side: u32) -> Result<String, ReportError> {
    let jpeg = jpeg(&fitted(image, max_side)).map_err(|source| picture_error(name, source))?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}

/// A drawn picture as a `data:` URI: PNG, which keeps flat colours and text, or JPEG if that is too large.
pub(super) fn drawing_uri(name: &str, image: &RgbImage) -> Result<String, ReportError> {
    let image = fitted(image, MAX_SIDE);
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).map_err(|source| picture_error(name, source))?;
    let png = png.into_inner();
    if png.len() > MAX_PNG_BYTES {
        return photo_uri(name, &image, MAX_SIDE);
    }
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png)))
}

fn jpeg(image: &RgbImage) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(image)?;
    Ok(bytes)
}

fn fitted(image: &RgbImage, max_side: u32) -> RgbImage {
    let longer = image.width().max(image.height());
    if longer <= max_side {
        return image.clone();
    }
    let scaled = |side: u32| ((u64::from(side) * u64::from(max_side) / u64::from(longer)) as u32).max(1);
    imageops::resize(image, scaled(image.width()), scaled(image.height()), FilterType::CatmullRom)
}

fn picture_error(name: &str, source: image::ImageError) -> ReportError {
    ReportError::Picture { name: name.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_quotes_are_escaped() {
        assert_eq!(escape(r#"<a href="x">&'é犬"#), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;é犬");
        assert_eq!(escape("a\u{0}\u{7}b\n"), "a\u{fffd}\u{fffd}b\n");
    }

    #[test]
    fn json_cannot_leave_its_script() {
        let value = serde_json::json!({"</script><!--": "<b>\u{2028}&'"});
        let text = script_json(&value);
        assert!(!text.contains('<') && !text.contains('\u{2028}'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn large_pictures_are_made_smaller() {
        assert_eq!(fitted(&RgbImage::new(2000, 500), 1000).dimensions(), (1000, 250));
        assert_eq!(fitted(&RgbImage::new(2000, 1), 100).dimensions(), (100, 1));
        assert_eq!(fitted(&RgbImage::new(10, 20), 100).dimensions(), (10, 20));
    }

    #[test]
    fn pictures_become_data_uris_and_empty_ones_an_error() {
        let image = RgbImage::new(4, 4);
        assert!(photo_uri("x", &image, 8).unwrap().starts_with("data:image/jpeg;base64,/9j/"));
        assert!(drawing_uri("x", &image).unwrap().starts_with("data:image/png;base64,iVBOR"));
        let error = photo_uri("key-7", &RgbImage::new(0, 0), 8).unwrap_err();
        assert_eq!(error.to_string(), "cannot encode the picture `key-7`");
    }
}
