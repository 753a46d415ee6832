//! One scene as a sample of a shard: image, maps, class and JSON record.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageError};
use serde::Serialize;
use webdataset::{Sample, Value};

use super::attributes::{BackgroundKind, Color, Shape, Size, Texture, Tone, class_index, class_name};
use super::captions::{Annotation, HardNegative, describe};
use super::render::{Rendered, render};
use super::scene::Scene;

/// Quality of the JPEG files: high, because textures are a few pixels wide.
const JPEG_QUALITY: u8 = 92;

/// The JSON member.
#[derive(Serialize)]
struct Record<'a> {
    dataset: &'static str,
    split: &'static str,
    source_id: String,
    width: usize,
    height: usize,
    captions: &'a [String],
    regions: Vec<Region<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    hard_negatives: &'a [HardNegative],
    label: usize,
    class_name: String,
    scene: Truth,
}

#[derive(Serialize)]
struct Region<'a> {
    r#box: [f32; 4],
    text: &'a str,
    class_index: usize,
}

/// The scene as drawn, against which anything that is said of it can be checked.
#[derive(Serialize)]
struct Truth {
    objects: Vec<TrueObject>,
    background: TrueBackground,
}

#[derive(Serialize)]
struct TrueObject {
    color: Color,
    shape: Shape,
    size: Size,
    texture: Texture,
    r#box: [f32; 4],
    n_visible_pixels: usize,
    /// Of the whole object, hidden parts included.
    center: [f32; 2],
    radius: f32,
    angle_degrees: f32,
}

#[derive(Serialize)]
struct TrueBackground {
    kind: BackgroundKind,
    tone: Tone,
}

/// Key of a sample, unique over the splits.
pub(super) fn key(scene: &Scene) -> String {
    format!("{}-{:08}", scene.split.name(), scene.index)
}

/// Draws, describes and encodes a scene.
///
/// # Errors
///
/// When an image cannot be encoded.
pub(super) fn sample(scene: &Scene, image_size: usize) -> Result<Sample, ImageError> {
    let rendered = render(scene, image_size);
    let annotation = describe(scene, &rendered);
    let label = label(scene, &rendered);
    let json = record(scene, &rendered, &annotation, label);
    let mut sample = Sample::with_key(key(scene));
    let mut insert = |extension: &str, bytes: Vec<u8>| {
        sample.insert(extension, Value::Bytes(bytes.into()));
    };
    insert("jpg", jpeg(&rendered)?);
    insert("json", json);
    insert("cls", label.to_string().into_bytes());
    insert("seg.png", png(&rendered.classes, image_size)?);
    insert("inst.png", png(&rendered.instances, image_size)?);
    Ok(sample)
}

/// Class of the object with the largest visible area; among equals the first.
fn label(scene: &Scene, rendered: &Rendered) -> usize {
    let objects = scene.objects.iter().zip(&rendered.n_visible);
    // `max_by_key` takes the last of equals, hence the reversal.
    let largest = objects.rev().max_by_key(|(_, n)| **n);
    largest.map_or(0, |(object, _)| class_index(object.pair()))
}

fn record(scene: &Scene, rendered: &Rendered, annotation: &Annotation, label: usize) -> Vec<u8> {
    let described = rendered.boxes.iter().zip(&annotation.phrases);
    let regions = scene.objects.iter().zip(described);
    let record = Record {
        dataset: "shapes",
        split: scene.split.name(),
        source_id: format!("{}/{}/{}", scene.seed, scene.split.name(), scene.index),
        width: rendered.image_size,
        height: rendered.image_size,
        captions: &annotation.captions,
        regions: regions
            .map(|(object, (&corners, text))| Region { r#box: corners, text, class_index: class_index(object.pair()) })
            .collect(),
        hard_negatives: &annotation.hard_negatives,
        label,
        class_name: class_name(label),
        scene: truth(scene, rendered),
    };
    serde_json::to_vec(&record).expect("a record has string keys and finite numbers")
}

fn truth(scene: &Scene, rendered: &Rendered) -> Truth {
    let drawn = rendered.boxes.iter().zip(&rendered.n_visible);
    let objects = scene.objects.iter().zip(drawn);
    Truth {
        objects: objects
            .map(|(object, (&corners, &n_visible_pixels))| TrueObject {
                color: object.color,
                shape: object.shape,
                size: object.size,
                texture: object.texture,
                r#box: corners,
                n_visible_pixels,
                center: object.center.map(|x| x as f32),
                radius: object.radius as f32,
                angle_degrees: object.angle.to_degrees() as f32,
            })
            .collect(),
        background: TrueBackground { kind: scene.background.kind, tone: scene.background.tone },
    }
}

fn jpeg(rendered: &Rendered) -> Result<Vec<u8>, ImageError> {
    let side = rendered.image_size as u32;
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    encoder.encode(&rendered.rgb, side, side, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

fn png(map: &[u8], image_size: usize) -> Result<Vec<u8>, ImageError> {
    let side = image_size as u32;
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(map, side, side, ExtendedColorType::L8)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::scene::{Split, scene};

    fn field<'a>(sample: &'a Sample, name: &str) -> &'a [u8] {
        match sample.get(name) {
            Some(Value::Bytes(bytes)) => bytes,
            other => panic!("{name} is {other:?}"),
        }
    }

    #[test]
    fn the_members_agree_with_each_other() {
        for index in 0..20 {
            let scene = scene(0, Split::Test, index);
            let sample = sample(&scene, 64).unwrap();
            let decode = |name| image::load_from_memory(field(&sample, name)).unwrap();
            let (seg, inst) = (decode("seg.png").to_luma8(), decode("inst.png").to_luma8());
            assert_eq!(decode("jpg").to_rgb8().dimensions(), (64, 64));
            let json: serde_json::Value = serde_json::from_slice(field(&sample, "json")).unwrap();
            let regions = json["regions"].as_array().unwrap();
            assert_eq!(regions.len(), scene.objects.len());
            let mut largest = (0, 0);
            for (k, region) in regions.iter().enumerate() {
                let class = region["class_index"].as_u64().unwrap();
                let pixels = || inst.pixels().zip(seg.pixels());
                let of_object = || pixels().filter(|(inst, _)| usize::from(inst.0[0]) == k + 1);
                assert!(of_object().all(|(_, seg)| u64::from(seg.0[0]) == class + 1));
                let n = of_object().count();
                assert_eq!(json["scene"]["objects"][k]["n_visible_pixels"], n);
                assert_eq!(json["scene"]["objects"][k]["box"], region["box"]);
                if n > largest.0 {
                    largest = (n, class);
                }
            }
            assert!(inst.pixels().zip(seg.pixels()).all(|(i, s)| (i.0[0] == 0) == (s.0[0] == 0)));
            assert_eq!(field(&sample, "cls"), largest.1.to_string().as_bytes());
            assert_eq!(json["label"].as_u64(), Some(largest.1));
        }
    }

    #[test]
    fn a_scene_without_negatives_has_no_such_key() {
        let plain = (0..200).map(|index| scene(0, Split::Train, index)).find_map(|scene| {
            let rendered = render(&scene, 64);
            let annotation = describe(&scene, &rendered);
            let none = annotation.hard_negatives.is_empty();
            none.then(|| record(&scene, &rendered, &annotation, 0))
        });
        let json = String::from_utf8(plain.unwrap()).unwrap();
        assert!(!json.contains("hard_negatives"), "{json}");
    }
}
