//! MS COCO: captions, instances, COCO-Stuff label maps and panoptic annotations.
//!
//! `captions_*.json`, `instances_*.json` and `panoptic_*.json` as cocodataset.org describes them: `images`
//! (`id`, `file_name`, `width`, `height`), `annotations` by `image_id`, `categories`. Boxes are
//! `[x, y, width, height]` in pixels. A panoptic PNG has the segment `r + 256 g + 65536 b` at each pixel, 0
//! for none. COCO-Stuff's `stuffthingmaps` are grey PNGs of the label category − 1, with 255 for none.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{GrayImage, ImageFormat, Luma};
use serde::Deserialize;

use super::super::sink::{NewSample, Output, Progress, Sink, WrittenShards, key_of};
use super::{edges, read_image, read_json, region};
use crate::decode::{decode_labels, decode_rgb};
use crate::error::Error;
use crate::record::RegionRecord;
use crate::shard_writer::write_file_atomically;
use crate::skips::SkipReason;

/// What there is of COCO; at least one of captions, instances and panoptic annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CocoFiles {
    /// The folder of images, such as `train2017`.
    pub images: PathBuf,
    /// `captions_train2017.json`.
    pub captions: Option<PathBuf>,
    /// `instances_train2017.json`: regions. Crowds become `ignore_regions` of the record.
    pub instances: Option<PathBuf>,
    /// The folder of COCO-Stuff's label maps for these images: `seg.png`.
    pub stuff: Option<PathBuf>,
    /// `panoptic_train2017.json` and its folder of PNGs: `seg.png`, and without instances also regions and
    /// `inst.png`.
    pub panoptic: Option<(PathBuf, PathBuf)>,
}

#[derive(Deserialize)]
pub(super) struct Image {
    pub(super) id: u64,
    pub(super) file_name: String,
    pub(super) width: f64,
    pub(super) height: f64,
}

#[derive(Deserialize)]
struct Captions {
    images: Vec<Image>,
    annotations: Vec<Caption>,
}

#[derive(Deserialize)]
struct Caption {
    image_id: u64,
    caption: String,
}

#[derive(Deserialize)]
struct Instances {
    images: Vec<Image>,
    annotations: Vec<Instance>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Instance {
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
    #[serde(default)]
    isthing: u8,
}

#[derive(Deserialize)]
struct Panoptic {
    images: Vec<Image>,
    annotations: Vec<Segments>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Segments {
    image_id: u64,
    file_name: String,
    segments_info: Vec<Segment>,
}

#[derive(Deserialize)]
struct Segment {
    id: u32,
    category_id: u64,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

/// All of one image.
#[derive(Default)]
struct Annotated {
    file_name: String,
    size: (f64, f64),
    captions: Vec<String>,
    regions: Option<Vec<RegionRecord>>,
    crowds: Vec<RegionRecord>,
    segments: Option<Segments>,
}

/// Captions of the images by COCO's ids.
pub(super) fn captions_by_image(path: &Path) -> Result<HashMap<u64, Vec<String>>, Error> {
    let file: Captions = read_json(path)?;
    let mut captions: HashMap<u64, Vec<String>> = HashMap::new();
    for annotation in file.annotations {
        captions.entry(annotation.image_id).or_default().push(annotation.caption);
    }
    Ok(captions)
}

/// Writes COCO's images in the order of their ids.
///
/// # Errors
///
/// Files that cannot be read or are not what they should be, or when something cannot be written. Nothing
/// is left of the shards then.
pub fn convert_coco(
    files: &CocoFiles,
    output: &Output,
    progress: &mut dyn FnMut(Progress),
) -> Result<WrittenShards, Error> {
    let mut all = BTreeMap::new();
    if let Some(path) = &files.captions {
        let file: Captions = read_json(path)?;
        list_images(&mut all, file.images);
        for annotation in file.annotations {
            of(&mut all, annotation.image_id, path)?.captions.push(annotation.caption);
        }
    }
    if let Some(path) = &files.instances {
        read_instances(&mut all, path)?;
    }
    let classes = match &files.panoptic {
        Some((path, _)) => Some(read_panoptic(&mut all, path, files.instances.is_none())?),
        None => None,
    };
    let mut sink = Sink::new(output, &files.images)?;
    let total = all.len();
    for (index, image) in all.into_values().enumerate() {
        let key = key_of(&image.file_name);
        if let Some(bytes) = read_image(&mut sink, &key, &files.images.join(&image.file_name)) {
            let members = masks(&mut sink, files, &image, &key, classes.as_ref());
            let mut more = serde_json::Map::new();
            if !image.crowds.is_empty() {
                let crowds = serde_json::to_value(&image.crowds).expect("regions are numbers and text");
                more.insert("ignore_regions".into(), crowds);
            }
            let Annotated { captions, regions, .. } = image;
            sink.add(NewSample { key, image: bytes, captions, regions, more, members })?;
        }
        progress(Progress { share: (index + 1) as f64 / total as f64, samples: sink.samples() });
    }
    let written = sink.finish()?;
    if let Some(classes) = classes {
        let names: serde_json::Map<_, _> =
            classes.names.iter().enumerate().map(|(label, name)| (label.to_string(), name.clone().into())).collect();
        let text = format!("{:#}\n", serde_json::Value::Object(names));
        write_file_atomically(&output.folder.join("seg_classes.json"), text.as_bytes())?;
    }
    Ok(written)
}

fn list_images(all: &mut BTreeMap<u64, Annotated>, images: Vec<Image>) {
    for Image { id, file_name, width, height } in images {
        let image = all.entry(id).or_default();
        (image.file_name, image.size) = (file_name, (width, height));
    }
}

fn of<'a>(all: &'a mut BTreeMap<u64, Annotated>, id: u64, path: &Path) -> Result<&'a mut Annotated, Error> {
    all.get_mut(&id).ok_or_else(|| Error::Annotations {
        path: path.into(),
        line: None,
        reason: format!("an annotation belongs to the image {id}, which `images` does not have"),
    })
}

fn name_of<'a>(names: &'a HashMap<u64, String>, id: u64, path: &Path) -> Result<&'a str, Error> {
    names.get(&id).map(String::as_str).ok_or_else(|| Error::Annotations {
        path: path.into(),
        line: None,
        reason: format!("an annotation has the category {id}, which `categories` does not have"),
    })
}

fn read_instances(all: &mut BTreeMap<u64, Annotated>, path: &Path) -> Result<(), Error> {
    let file: Instances = read_json(path)?;
    let ids: Vec<u64> = file.images.iter().map(|image| image.id).collect();
    list_images(all, file.images);
    for id in ids {
        of(all, id, path)?.regions.get_or_insert_default();
    }
    let names: HashMap<u64, String> = file.categories.into_iter().map(|c| (c.id, c.name)).collect();
    for instance in file.annotations {
        let image = of(all, instance.image_id, path)?;
        let region = region(edges(instance.bbox), image.size, name_of(&names, instance.category_id, path)?);
        match instance.iscrowd {
            0 => image.regions.get_or_insert_default().push(region),
            _ => image.crowds.push(region),
        }
    }
    Ok(())
}

/// Names of the labels of `seg.png`, and the label of each category.
struct Classes {
    names: Vec<String>,
    label_of: HashMap<u64, u8>,
    /// Whether regions are panoptic segments, so that `inst.png` can number them.
    numbered: bool,
    things: HashMap<u64, String>,
}

const IGNORE: u8 = 255;

fn read_panoptic(all: &mut BTreeMap<u64, Annotated>, path: &Path, numbered: bool) -> Result<Classes, Error> {
    let file: Panoptic = read_json(path)?;
    if file.categories.len() > usize::from(IGNORE) {
        let reason = format!("{} categories do not fit into 8-bit labels", file.categories.len());
        return Err(Error::Annotations { path: path.into(), line: None, reason });
    }
    list_images(all, file.images);
    let classes = Classes {
        label_of: file.categories.iter().map(|category| category.id).zip(0..).collect(),
        things: file.categories.iter().filter(|c| c.isthing != 0).map(|c| (c.id, c.name.clone())).collect(),
        names: file.categories.into_iter().map(|category| category.name).collect(),
        numbered,
    };
    for segments in file.annotations {
        let image = of(all, segments.image_id, path)?;
        if numbered {
            let regions = segments
                .things(&classes)
                .map(|(segment, name)| region(edges(segment.bbox), image.size, name))
                .collect();
            image.regions = Some(regions);
        }
        image.segments = Some(segments);
    }
    Ok(classes)
}

impl Segments {
    /// The segments that are regions, in order.
    fn things<'a>(&'a self, classes: &'a Classes) -> impl Iterator<Item = (&'a Segment, &'a str)> {
        self.segments_info
            .iter()
            .filter(|segment| segment.iscrowd == 0)
            .filter_map(|segment| Some((segment, classes.things.get(&segment.category_id)?.as_str())))
    }
}

/// `seg.png` and `inst.png`, where there is something to make them from.
fn masks(
    sink: &mut Sink,
    files: &CocoFiles,
    image: &Annotated,
    key: &str,
    classes: Option<&Classes>,
) -> Vec<(&'static str, Vec<u8>)> {
    let mut bad = |path: &Path, problem: String| {
        sink.skip(SkipReason::BadLabel, key, format!("{}: {problem}", path.display()));
    };
    if let (Some((_, folder)), Some(segments), Some(classes)) = (&files.panoptic, &image.segments, classes) {
        let path = folder.join(&segments.file_name);
        match std::fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|png| panoptic_masks(&png, segments, classes))
        {
            Ok(members) => return members,
            Err(problem) => bad(&path, problem),
        }
    } else if let Some(folder) = &files.stuff {
        let path = folder.join(&image.file_name).with_extension("png");
        let read = std::fs::read(&path).map_err(|error| error.to_string());
        match read.and_then(|png| decode_labels(&png).map(|_| png).map_err(|error| error.to_string())) {
            Ok(png) => return vec![("seg.png", png)],
            Err(problem) => bad(&path, problem),
        }
    }
    Vec::new()
}

fn panoptic_masks(png: &[u8], segments: &Segments, classes: &Classes) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    let colours = decode_rgb(png).map_err(|error| error.to_string())?;
    let labels: HashMap<u32, u8> = segments
        .segments_info
        .iter()
        .filter_map(|segment| Some((segment.id, *classes.label_of.get(&segment.category_id)?)))
        .collect();
    let map = |value: &dyn Fn(u32) -> u8| {
        let pixels = colours.pixels().flat_map(|pixel| {
            let [r, g, b] = pixel.0.map(u32::from);
            Luma([value(r + 256 * g + 65_536 * b)]).0
        });
        let map = GrayImage::from_raw(colours.width(), colours.height(), pixels.collect());
        let mut bytes = Cursor::new(Vec::new());
        map.ok_or("no pixels")?.write_to(&mut bytes, ImageFormat::Png).map_err(|error| error.to_string())?;
        Ok::<_, String>(bytes.into_inner())
    };
    let mut members = vec![("seg.png", map(&|id| labels.get(&id).copied().unwrap_or(IGNORE))?)];
    let numbers: HashMap<u32, u8> = segments.things(classes).map(|(segment, _)| segment.id).zip(1..=u8::MAX).collect();
    // Numbers of eight bits: an image with more regions goes without.
    if classes.numbered && segments.things(classes).count() <= usize::from(u8::MAX) {
        members.push(("inst.png", map(&|id| numbers.get(&id).copied().unwrap_or(0))?));
    }
    Ok(members)
}
