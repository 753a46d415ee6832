//! Decoding against Pillow 12.3, bit for bit (13.0 gives the same), and what is refused.

use image::{ImageFormat, Luma, Rgb};
use proptest::prelude::*;

use super::*;

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// FNV-1a, as `digest` of golden/make.py.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

struct Golden {
    name: &'static str,
    bytes: &'static [u8],
    size: (u32, u32),
    digest: u64,
}

macro_rules! golden {
    ($name:literal, $width:literal, $height:literal, $digest:literal) => {
        Golden {
            name: $name,
            bytes: include_bytes!(concat!("golden/", $name, ".jpg")),
            size: ($width, $height),
            digest: $digest,
        }
    };
}

/// Printed by golden/make.py; the exif files are turned upright with `ImageOps.exif_transpose`.
const GOLDEN: [Golden; 15] = [
    golden!("420", 37, 29, 0x67448e34e4ac5141),
    golden!("422", 37, 29, 0x2e29db0e5004924a),
    golden!("444", 37, 29, 0xf5c7a9908e00e545),
    golden!("cmyk", 37, 29, 0x3a78546bf3db4794),
    golden!("exif2", 19, 13, 0x7735d2cccd7d1d62),
    golden!("exif3", 19, 13, 0x4ef36616680291a6),
    golden!("exif4", 19, 13, 0x624086213d3d69a6),
    golden!("exif5", 13, 19, 0x5b789a92e7dd9cae),
    golden!("exif6", 13, 19, 0xeb5aca8bb420dcb2),
    golden!("exif7", 13, 19, 0xf623d82e2ffdfc62),
    golden!("exif8", 13, 19, 0x2c83f6e50d92ce9e),
    golden!("grey", 37, 29, 0xc2ff7700dabdc712),
    golden!("progressive", 37, 29, 0x67448e34e4ac5141),
    golden!("restart", 37, 29, 0x67448e34e4ac5141),
    golden!("rgb", 37, 29, 0xc2000eb7f9b415eb),
];

fn golden(name: &str) -> &'static [u8] {
    GOLDEN.iter().find(|golden| golden.name == name).unwrap().bytes
}

#[test]
fn jpegs_have_the_bytes_that_pillow_gives() {
    for Golden { name, bytes, size, digest: expected } in GOLDEN {
        let image = EncodedImage::open(bytes).unwrap();
        assert_eq!(image.size(), size, "{name}");
        let decoded = image.decode(Reduction::None).unwrap();
        assert_eq!((decoded.pixels.dimensions(), digest(decoded.pixels.as_raw())), (size, expected), "{name}");
        assert_eq!((decoded.reduction, decoded.shift), (1, (0.0, 0.0)), "{name}");
    }
}

/// What `Image.draft` of Pillow gives.
#[test]
fn reduced_jpegs_have_the_bytes_that_pillow_gives() {
    for (reduction, size, expected) in [
        (Reduction::Half, (19, 15), 0x4a9755f17310a201),
        (Reduction::Quarter, (10, 8), 0xa6e0787d97a37bd7),
        (Reduction::Eighth, (5, 4), 0x6d81e65829d2dedf),
    ] {
        let decoded = EncodedImage::open(golden("420")).unwrap().decode(reduction).unwrap();
        assert_eq!((decoded.pixels.dimensions(), digest(decoded.pixels.as_raw())), (size, expected));
        assert_eq!(decoded.reduction, reduction.factor());
    }
}

/// 19×13 at half size is 10×7, of which half a pixel is empty at the stored right and lower edge.
#[test]
fn the_empty_part_of_a_reduced_image_moves_with_its_edge() {
    let shift = |name: &str| EncodedImage::open(golden(name)).unwrap().decode(Reduction::Half).unwrap().shift;
    let expected = [(0.5, 0.0), (0.5, 0.5), (0.0, 0.5), (0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5)];
    for (name, expected) in ["exif2", "exif3", "exif4", "exif5", "exif6", "exif7", "exif8"].iter().zip(expected) {
        assert_eq!(shift(name), expected, "{name}");
    }
}

#[test]
fn other_formats_become_rgb_as_pillow_converts_them() {
    let rgb = RgbImage::from_fn(9, 7, |x, y| Rgb([x as u8 * 20, y as u8 * 30, 90]));
    let image = DynamicImage::ImageRgb8(rgb.clone());
    assert_eq!(decode_rgb(&encoded(&image, ImageFormat::Png)).unwrap(), rgb);
    assert_eq!(decode_rgb(&encoded(&image, ImageFormat::WebP)).unwrap(), rgb);
    // Alpha is left out, not blended with anything.
    let mut transparent = image.to_rgba8();
    transparent.pixels_mut().for_each(|pixel| pixel.0[3] = 3);
    assert_eq!(decode_rgb(&encoded(&transparent.into(), ImageFormat::Png)).unwrap(), rgb);
    let grey = GrayImage::from_fn(5, 4, |x, y| Luma([(x * 50 + y) as u8]));
    let repeated = RgbImage::from_fn(5, 4, |x, y| Rgb([grey.get_pixel(x, y).0[0]; 3]));
    assert_eq!(decode_rgb(&encoded(&grey.into(), ImageFormat::Png)).unwrap(), repeated);
}

#[test]
fn of_sixteen_bits_the_upper_eight_remain() {
    let deep = image::ImageBuffer::<Rgb<u16>, _>::from_fn(3, 1, |x, _| Rgb([0x12ff, 0xff00, x as u16]));
    let decoded = decode_rgb(&encoded(&deep.into(), ImageFormat::Png)).unwrap();
    assert!(decoded.pixels().all(|pixel| pixel.0 == [0x12, 0xff, 0]));
    let grey = image::ImageBuffer::<Luma<u16>, _>::from_pixel(2, 2, Luma([0x80ff]));
    assert!(decode_rgb(&encoded(&grey.into(), ImageFormat::Png)).unwrap().pixels().all(|p| p.0 == [0x80; 3]));
}

#[test]
fn labels_of_one_bit_are_refused() {
    // Eight grey pixels in one byte: decoded, they would be 0 and 255, and not 0 and 1.
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.extend(b"\x00\x00\x00\x0dIHDR\x00\x00\x00\x08\x00\x00\x00\x01\x01\x00\x00\x00\x00\xcb\x7b\xd2\xee");
    png.extend(b"\x00\x00\x00\x0aIDAT\x78\x9c\x63\x58\x0a\x00\x00\xa7\x00\xa6\xe5\xb9\xc5\xe2");
    png.extend(b"\x00\x00\x00\x00IEND\xae\x42\x60\x82");
    assert_eq!(decode_rgb(&png).unwrap().dimensions(), (8, 1));
    assert_eq!(
        decode_labels(&png).unwrap_err().to_string(),
        "labels must be an 8-bit grey image, this one is a grey PNG of 1 bits"
    );
}

#[test]
fn broken_images_are_errors() {
    let png = encoded(&RgbImage::new(20, 20).into(), ImageFormat::Png);
    for broken in [&b""[..], b"not an image", &png[..40], &png[..png.len() / 2], b"\xFF\xD8\xFF", b"\xFF\xD8\xFF\xD9"] {
        assert!(decode_rgb(broken).is_err());
    }
    assert_eq!(decode_rgb(b"").unwrap_err(), ImageError::Empty);
    assert!(decode_labels(&png).unwrap_err().to_string().contains("grey"));
    assert!(decode_labels(golden("grey")).unwrap_err().to_string().contains("a JPEG"));
}

#[test]
fn a_jpeg_cut_off_anywhere_is_an_error() {
    for name in ["420", "progressive", "cmyk"] {
        let bytes = golden(name);
        for length in 0..bytes.len() {
            assert!(decode_rgb(&bytes[..length]).is_err(), "{name} cut to {length} of {} bytes", bytes.len());
        }
        // What follows the end marker is no matter.
        assert!(decode_rgb(&[bytes, b"a film"].concat()).is_ok());
    }
}

#[test]
fn a_bomb_is_refused_from_its_header() {
    let mut jpeg = golden("444").to_vec();
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xF0, 0x00, 0xF0, 0x00]);
    assert_eq!(decode_rgb(&jpeg).unwrap_err(), ImageError::Size { width: 61_440, height: 61_440 });
    jpeg[frame + 5..frame + 9].fill(0);
    assert!(decode_rgb(&jpeg).is_err());
    // 5,000 x 5,001 pixels of grey, which take a few kilobytes.
    let png = encoded(&GrayImage::new(5_000, 5_001).into(), ImageFormat::Png);
    assert_eq!(decode_rgb(&png).unwrap_err(), ImageError::Size { width: 5_000, height: 5_001 });
    let long = encoded(&GrayImage::new(65_536, 1).into(), ImageFormat::Png);
    assert_eq!(decode_rgb(&long).unwrap_err(), ImageError::Size { width: 65_536, height: 1 });
}

#[test]
fn thousands_of_scans_are_refused() {
    let bytes = golden("progressive");
    let last = bytes.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).unwrap();
    let scan = bytes[last..bytes.len() - 2].repeat(5_000);
    let bomb = [&bytes[..bytes.len() - 2], &scan, &[0xFF, 0xD9]].concat();
    assert!(decode_rgb(&bomb).unwrap_err().to_string().contains("scans"));
    // Nor do they hide behind a marker that means nothing to the library, as if it had a length.
    let hidden = &scan[..55_000 - 55_000 % (bytes.len() - 2 - last)];
    let length = (hidden.len() as u16 + 2).to_be_bytes();
    let bomb = [&bytes[..last], &[0xFF, 0x02], &length, hidden, &bytes[last..]].concat();
    assert!(decode_rgb(&bomb).unwrap_err().to_string().contains("scans"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Changed bytes give other pixels or an error, never a panic.
    #[test]
    fn damaged_jpegs_end_in_a_result(
        which in 0..GOLDEN.len(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = GOLDEN[which].bytes.to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = decode_rgb(&bytes);
    }
}
