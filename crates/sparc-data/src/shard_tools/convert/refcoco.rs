//! RefCOCO, RefCOCO+ and RefCOCOg (Yu et al. 2016; Mao et al. 2016).
//!
//! `refs(unc).p`, or `refs(umd).p` and `refs(google).p`, is a Python pickle: a list of `{"ann_id",
//! "image_id", "split", "sentences": [{"sent", …}], …}`. `instances.json` beside it is a COCO file. The
//! images are COCO's `train2014`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use serde::Deserialize;

use super::super::sink::{NewSample, Output, Progress, Sink, WrittenShards, key_of};
use super::coco::{Image, captions_by_image};
use super::{edges, read_image, read_json, region};
use crate::error::Error;
use crate::record::RegionRecord;

/// Where the files of a RefCOCO lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefCocoFiles {
    /// The folder of images, `train2014`.
    pub images: PathBuf,
    /// `refs(unc).p` or the like.
    pub refs: PathBuf,
    /// `instances.json`.
    pub instances: PathBuf,
    /// Which of the file's splits to write: `train`, `val`, `test`, `testA` or `testB`.
    pub split: String,
    /// A caption file of MS COCO. Without it no sample has a caption, and training, which needs one, skips
    /// them.
    pub coco_captions: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Reference {
    ann_id: u64,
    image_id: u64,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    sent: String,
}

#[derive(Deserialize)]
struct Instances {
    images: Vec<Image>,
    annotations: Vec<Instance>,
}

#[derive(Deserialize)]
struct Instance {
    id: u64,
    bbox: [f64; 4],
}

/// Writes the images of a split, in the order of their ids, each with all expressions that refer to
/// something in it.
///
/// # Errors
///
/// Files that cannot be read or are not what they should be, a split that is not in them, or when
/// something cannot be written. Nothing is left of the shards then.
pub fn convert_refcoco(
    files: &RefCocoFiles,
    output: &Output,
    progress: &mut dyn FnMut(Progress),
) -> Result<WrittenShards, Error> {
    let bad = |reason: String| Error::Annotations { path: files.refs.clone(), line: None, reason };
    let file = File::open(&files.refs).map_err(|reason| Error::Io { path: files.refs.clone(), reason })?;
    // Texts of Python 2 are bytes to Python 3.
    let options = serde_pickle::DeOptions::new().decode_strings();
    let references: Vec<Reference> = serde_pickle::from_reader(BufReader::new(file), options)
        .map_err(|error| bad(format!("not a pickle of RefCOCO's references: {error}")))?;
    let Instances { images, annotations } = read_json(&files.instances)?;
    let images: HashMap<u64, Image> = images.into_iter().map(|image| (image.id, image)).collect();
    let places: HashMap<u64, [f64; 4]> = annotations.into_iter().map(|instance| (instance.id, instance.bbox)).collect();
    let captions = match &files.coco_captions {
        Some(path) => captions_by_image(path)?,
        None => HashMap::new(),
    };
    let mut regions: BTreeMap<u64, Vec<RegionRecord>> = BTreeMap::new();
    let mut splits: Vec<&str> = Vec::new();
    for reference in &references {
        if !splits.contains(&reference.split.as_str()) {
            splits.push(&reference.split);
        }
        if reference.split != files.split {
            continue;
        }
        let unknown = |what: &str, id: u64| {
            bad(format!("a reference names the {what} {id}, which {} does not have", files.instances.display()))
        };
        let image = images.get(&reference.image_id).ok_or_else(|| unknown("image", reference.image_id))?;
        let place = places.get(&reference.ann_id).ok_or_else(|| unknown("annotation", reference.ann_id))?;
        let size = (image.width, image.height);
        let expressions = reference.sentences.iter().map(|sentence| region(edges(*place), size, &sentence.sent));
        regions.entry(reference.image_id).or_default().extend(expressions);
    }
    if regions.is_empty() {
        return Err(bad(format!("no reference of the split {:?}; there are {}", files.split, splits.join(", "))));
    }
    let mut sink = Sink::new(output, &files.refs)?;
    let total = regions.len();
    for (index, (id, regions)) in regions.into_iter().enumerate() {
        let name = &images[&id].file_name;
        let key = key_of(name);
        if let Some(image) = read_image(&mut sink, &key, &files.images.join(name)) {
            let captions = captions.get(&id).cloned().unwrap_or_default();
            sink.add(NewSample { key, image, captions, regions: Some(regions), ..NewSample::default() })?;
        }
        progress(Progress { share: (index + 1) as f64 / total as f64, samples: sink.samples() });
    }
    sink.finish()
}
