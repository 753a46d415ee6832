//! Frames: against Pillow, and boxes, masks and points that move with their pixels.

use image::{GrayImage, Luma, Rgb};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sparc_core::LabelMap;

use super::*;
use crate::decode::EncodedImage;
use crate::decode::tests::digest;
use crate::resample::tests::formula;
use crate::stages::StageTimes;

const ALL_OPERATIONS: RandomAugment = RandomAugment { operations: 2, magnitude: 7.0, probability: 0.5 };

/// Printed by golden/make.py: torchvision's and open_clip's transforms, written out in Pillow calls.
#[test]
fn plain_frames_have_the_bytes_that_pillow_gives() {
    for (size, side, mode, expected) in [
        ((64, 48), 32, ResizeMode::CenterCrop, 0x2e8eedbcc255b38e),
        ((48, 65), 32, ResizeMode::CenterCrop, 0x87f3842aef9b4a94),
        ((33, 100), 20, ResizeMode::CenterCrop, 0x7eb0f9899fc8e458),
        ((20, 30), 25, ResizeMode::CenterCrop, 0x6f36b90de808c9f6),
        ((64, 48), 33, ResizeMode::Pad, 0xcc9eaa19d338b8f5),
        ((31, 90), 24, ResizeMode::Pad, 0x573a163aef4c6a63),
        ((64, 48), 24, ResizeMode::Squash, 0x6da806d23123c5a3),
    ] {
        let pixels = Frame::plain(size, side, mode).pixels(formula(size.0, size.1));
        assert_eq!(digest(&pixels), expected, "{size:?} {side} {mode:?}");
    }
}

/// Likewise: `image.crop(…).resize(…)`, mirrored.
#[test]
fn random_crops_have_the_bytes_that_pillow_gives() {
    let mut frame = Frame::plain((64, 48), 24, ResizeMode::Squash);
    frame.crop = PixelRect { left: 7, top: 5, width: 40, height: 31 };
    frame.mirrored = true;
    assert_eq!(digest(&frame.pixels(formula(64, 48))), 0x570ded0dbc987b50);
}

fn any_mode() -> impl Strategy<Value = ResizeMode> {
    prop_oneof![Just(ResizeMode::Squash), Just(ResizeMode::CenterCrop), Just(ResizeMode::Pad)]
}

fn any_augmentation() -> impl Strategy<Value = Augmentation> {
    (prop_oneof![Just(1.0), 0.3..1.0f64], any::<bool>(), any::<bool>()).prop_map(|(min_crop_area, flip, augment)| {
        let random_augment = augment.then_some(RandomAugment { probability: 0.8, ..ALL_OPERATIONS });
        Augmentation { min_crop_area, horizontal_flip: flip, random_augment }
    })
}

/// Leaves colours recognisable, which equalising and the like do not.
fn geometric(mut frame: Frame) -> Frame {
    frame.operations.retain(|operation| matches!(operation, Operation::Warp(_)));
    frame
}

/// Left, top, right and bottom of the pixels that are lit, in pixels.
fn bounds(lit: impl Fn(usize, usize) -> bool, side: usize) -> Option<[f64; 4]> {
    let places: Vec<(usize, usize)> =
        (0..side).flat_map(|y| (0..side).map(move |x| (x, y))).filter(|&(x, y)| lit(x, y)).collect();
    let (xs, ys) = (places.iter().map(|p| p.0), places.iter().map(|p| p.1));
    Some([xs.clone().min()?, ys.clone().min()?, xs.max()? + 1, ys.max()? + 1].map(|edge| edge as f64))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A box painted into an image of any shape: after any transform the painted pixels end where the moved
    /// box ends. Tolerance: a pixel and a half of the frame, and half of what one source pixel covers there
    /// (the box is painted in whole pixels); a turned box has thin corners, which costs two more.
    #[test]
    fn boxes_and_masks_move_with_their_pixels(
        width in 24u32..200, height in 24u32..200, corner in (0.0f32..0.6, 0.0f32..0.6), seed in any::<u64>(),
        mode in any_mode(), augmentation in any_augmentation(),
    ) {
        let given = [corner.0, corner.1, corner.0 + 0.35, corner.1 + 0.35];
        let inside = |v: u32, n: u32, lo: f32, hi: f32| (lo..hi).contains(&((v as f32 + 0.5) / n as f32));
        let painted = GrayImage::from_fn(width, height, |x, y| {
            let lit = inside(x, width, given[0], given[2]) && inside(y, height, given[1], given[3]);
            Luma([if lit { 255 } else { 0 }])
        });
        // Grey that is brought in must not look lit: red is full and green is not.
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([painted.get_pixel(x, y).0[0], 0, 0]));
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let side = 64;
        let frame = geometric(Frame::random((width, height), side, mode, &augmentation, true, &mut generator));
        let geometry = frame.geometry();
        let map = geometry.map();
        let pixels = frame.pixels(image);
        let moved = geometry.map_box(given, 0.0).map(|edges| edges.map(|v| f64::from(v) * 64.0));
        // What one source pixel covers, and how often the frame was turned: turned back, it still has lost corners.
        let cover = |row: [f64; 3]| row[0].abs() + row[1].abs();
        let cover = cover(map.x).max(cover(map.y));
        let turns = |operation: &&Operation| match operation {
            Operation::Warp(warp) => warp.x[1].abs() + warp.y[0].abs() > 1e-9,
            _ => false,
        };
        let n_turns = frame.operations.iter().filter(turns).count();
        let tolerance = 1.5 + 0.5 * cover + if n_turns > 0 { 2.0 } else { 0.0 };
        let mask = geometry.map_mask(&painted, 64, 64);
        let lit = |x: usize, y: usize| {
            let pixel = &pixels[(y * 64 + x) * 3..][..3];
            f64::from(pixel[0]) - f64::from(pixel[1]) > 100.0
        };
        for found in [bounds(lit, 64), bounds(|x, y| mask.labels[y * 64 + x] == 255 && lit(x, y), 64)] {
            match (found, moved) {
                (Some(found), Some(moved)) => {
                    // What an edge of the frame cut off on the way may leave a wedge, whose tip is thinner than a pixel.
                    let wedge = n_turns > 1 && (moved[2] - moved[0]).min(moved[3] - moved[1]) <= 2.0 * tolerance;
                    for (index, (edge, expected)) in found.iter().zip(moved).enumerate() {
                        let outside = if index < 2 { expected - edge } else { edge - expected };
                        let off = if wedge { outside } else { outside.abs() };
                        prop_assert!(off <= tolerance, "{found:?} {moved:?} {tolerance} {frame:?}");
                    }
                },
                (Some(found), None) => prop_assert!(false, "{found:?}, but no box: {frame:?}"),
                // A box of which less than a few pixels are in the frame may leave none lit.
                (None, Some([x0, y0, x1, y1])) => {
                    prop_assert!((x1 - x0).min(y1 - y0) <= 2.0 * tolerance, "{moved:?} left no pixels: {frame:?}");
                }
                (None, None) => {}
            }
        }
        // The middle of the box, as a point.
        let middle = geometry.map_point([given[0] + 0.175, given[1] + 0.175]);
        if let (Some(point), Some([x0, y0, x1, y1])) = (middle, moved) {
            let [x, y] = point.map(|v| f64::from(v) * 64.0);
            let margin = 3.0 + cover;
            let near_an_edge = [x, y, 64.0 - x, 64.0 - y].iter().any(|&distance| distance < margin);
            if (x1 - x0).min(y1 - y0) > 4.0 * margin && !near_an_edge {
                prop_assert!(lit(x as usize, y as usize), "{x} {y} {frame:?}");
            }
        }
    }

    /// Every pixel of a mask in the frame has the label that the picture shows there.
    #[test]
    fn masks_show_what_pixels_show(
        width in 30u32..120, height in 30u32..120, seed in any::<u64>(), mode in any_mode(), augmentation in any_augmentation(),
    ) {
        // Four quarters of different red.
        let label = |x: u32, y: u32| 60 * (1 + u8::from(x >= width / 2) + 2 * u8::from(y >= height / 2));
        let labels = GrayImage::from_fn(width, height, |x, y| Luma([label(x, y)]));
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([label(x, y), 0, 200]));
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let frame = geometric(Frame::random((width, height), 48, mode, &augmentation, true, &mut generator));
        let mask = frame.geometry().map_mask(&labels, 48, 48);
        let pixels = frame.pixels(image);
        let same = mask.labels.iter().zip(pixels.chunks_exact(3)).filter(|(label, pixel)| match **label {
            LabelMap::IGNORE => pixel[1] > 0 || pixel[2] < 200,
            label => pixel[0].abs_diff(label) < 25,
        });
        // All but those along the seams and the rim.
        prop_assert!(same.count() > 48 * 48 - 48 * 9, "{frame:?}");
    }

    #[test]
    fn crops_are_inside_and_in_their_ranges(width in 1u32..400, height in 1u32..400, seed in any::<u64>(), area in 0.05..0.999f64) {
        let crop = random_crop((width, height), area, &mut ChaCha8Rng::seed_from_u64(seed));
        prop_assert!(crop.width >= 1 && crop.height >= 1);
        prop_assert!(crop.left + crop.width <= u64::from(width) && crop.top + crop.height <= u64::from(height));
        if width > 40 && height > 40 {
            let aspect = crop.width as f64 / crop.height as f64;
            prop_assert!((0.7..1.43).contains(&aspect), "{crop:?}");
        }
    }
}

/// Shares of area and places of many crops: uniform, as torchvision draws them.
#[test]
fn crops_are_drawn_evenly() {
    let mut generator = ChaCha8Rng::seed_from_u64(0);
    let (mut area, mut left) = (0.0, 0.0);
    for _ in 0..4_000 {
        let crop = random_crop((400, 400), 0.2, &mut generator);
        area += (crop.width * crop.height) as f64 / 160_000.0 / 4_000.0;
        left += crop.left as f64 / (400 - crop.width).max(1) as f64 / 4_000.0;
    }
    // Large crops of an odd shape do not fit, which draws the mean of 0.6 down a little.
    assert!((0.53..0.6).contains(&area) && (0.47..0.53).contains(&left), "{area} {left}");
}

#[test]
fn the_fallback_is_torchvisions() {
    // Ten draws never fit into a line of 1,000 by 10.
    let mut generator = ChaCha8Rng::seed_from_u64(0);
    let crop = random_crop((1_000, 10), 0.9, &mut generator);
    assert_eq!(crop, PixelRect { left: 493, top: 0, width: 13, height: 10 });
    let crop = random_crop((10, 1_000), 0.9, &mut generator);
    assert_eq!(crop, PixelRect { left: 0, top: 493, width: 10, height: 13 });
}

#[test]
fn extreme_shapes_have_frames() {
    for mode in [ResizeMode::Squash, ResizeMode::CenterCrop, ResizeMode::Pad] {
        for size in [(1, 1), (1, 3_000), (3_000, 1), (65_500, 2)] {
            let frame = Frame::plain(size, 8, mode);
            assert_eq!(frame.pixels(RgbImage::new(size.0, size.1)).len(), 8 * 8 * 3, "{size:?} {mode:?}");
        }
    }
}

/// A reduced JPEG shows the same frame: the same picture at half the resolution, mirrored and turned or not.
#[test]
fn reduced_images_show_the_same_frame() {
    let (width, height) = (403, 301);
    let image = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x / 2) as u8, (y / 2) as u8, if (x / 40 + y / 40) % 2 == 0 { 40 } else { 210 }])
    });
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&image).unwrap();
    let exif = b"\xFF\xE1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    for orientation in 1..=8u8 {
        let mut turned = bytes[..2].to_vec();
        turned.extend(&exif);
        turned.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
        turned.extend(&bytes[2..]);
        let open = || EncodedImage::open(&turned).unwrap();
        let mut frame = Frame::plain(open().size(), 20, ResizeMode::Squash);
        frame.crop = PixelRect { left: 31, top: 77, width: 170, height: 190 };
        assert_eq!(frame.reduction(), Reduction::Quarter);
        let full = frame.render(&open().decode(Reduction::None).unwrap());
        for (reduction, allowed) in [(Reduction::Half, 2.0), (Reduction::Quarter, 3.0)] {
            let reduced = frame.render(&open().decode(reduction).unwrap());
            let distance: f64 = full.iter().zip(&reduced).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
            let mean = distance / full.len() as f64;
            assert!(mean < allowed, "orientation {orientation}, {reduction:?}: {mean} levels");
        }
    }
}

/// Resizing while decoding gives the bytes of decoding first, whatever the size, the crop and the reduction.
#[test]
fn rows_that_come_late_show_the_same_frame() {
    let stages = StageTimes::default();
    let mut generator = ChaCha8Rng::seed_from_u64(5);
    for (width, height) in [(403, 301), (64, 16), (17, 33), (1, 1), (5, 200), (200, 5)] {
        let mut bytes = Vec::new();
        let image = formula(width, height);
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&image).unwrap();
        for mode in [ResizeMode::Squash, ResizeMode::CenterCrop, ResizeMode::Pad] {
            for min_crop_area in [1.0, 0.1] {
                let augmentation = Augmentation { min_crop_area, horizontal_flip: true, random_augment: None };
                let frame = Frame::random((width, height), 24, mode, &augmentation, true, &mut generator);
                for reduction in [Reduction::None, Reduction::Half, Reduction::Eighth] {
                    let open = || EncodedImage::open(&bytes).unwrap();
                    let whole = frame.render(&open().decode(reduction).unwrap());
                    let late = open().render(&frame, reduction, &stages).unwrap();
                    assert!(whole == late, "{width}x{height} {mode:?} {reduction:?} {frame:?}");
                }
            }
        }
    }
    // What is wrong with a file is said as if it had been decoded first.
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&formula(64, 64)).unwrap();
    bytes.truncate(bytes.len() * 2 / 3);
    let open = || EncodedImage::open(&bytes).unwrap();
    let frame = Frame::plain((64, 64), 16, ResizeMode::Squash);
    let error = open().render(&frame, Reduction::None, &stages).unwrap_err();
    assert_eq!(error, open().decode(Reduction::None).unwrap_err());
}
