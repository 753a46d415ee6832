//! Visual Genome (Krishna et al. 2017): region descriptions.
//!
//! `region_descriptions.json` is a list of `{"id": image, "regions": [{"x", "y", "width", "height",
//! "phrase", …}]}` in pixels, `image_data.json` a list of `{"image_id", "width", "height", "coco_id", …}`.
//! Images are `<image>.jpg` in the folders `VG_100K` and `VG_100K_2`.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::super::sink::{NewSample, Output, Progress, Sink, WrittenShards};
use super::coco::captions_by_image;
use super::{edges, for_each_in_list, read_image, read_json, region};
use crate::error::Error;
use crate::skips::SkipReason;

/// Where Visual Genome lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisualGenomeFiles {
    /// The folder that has `VG_100K` and `VG_100K_2`, or the images themselves.
    pub images: PathBuf,
    /// `region_descriptions.json`.
    pub regions: PathBuf,
    /// `image_data.json`.
    pub image_data: PathBuf,
    /// A caption file of MS COCO, for the half of the images that are COCO's. Without it no sample has a
    /// caption, and training, which needs one, skips them.
    pub coco_captions: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ImageData {
    #[serde(alias = "id")]
    image_id: u64,
    width: f64,
    height: f64,
    coco_id: Option<u64>,
}

#[derive(Deserialize)]
struct Described {
    #[serde(alias = "image_id")]
    id: u64,
    regions: Vec<Description>,
}

#[derive(Deserialize)]
struct Description {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    phrase: String,
}

/// Writes images with their region descriptions, in the order of the file, which is read bit by bit.
///
/// # Errors
///
/// Files that cannot be read or are not what they should be, or when something cannot be written. Nothing
/// is left of the shards then.
pub fn convert_visual_genome(
    files: &VisualGenomeFiles,
    output: &Output,
    progress: &mut dyn FnMut(Progress),
) -> Result<WrittenShards, Error> {
    let images: Vec<ImageData> = read_json(&files.image_data)?;
    let images: HashMap<u64, ImageData> = images.into_iter().map(|image| (image.image_id, image)).collect();
    let captions = match &files.coco_captions {
        Some(path) => captions_by_image(path)?,
        None => HashMap::new(),
    };
    let folders = ["VG_100K", "VG_100K_2", ""].map(|name| files.images.join(name));
    let mut sink = Sink::new(output, &files.regions)?;
    for_each_in_list(&files.regions, |described: Described, share| {
        let key = described.id.to_string();
        let Some(image) = images.get(&described.id) else {
            let detail = format!("{} does not have this image", files.image_data.display());
            sink.skip(SkipReason::NoImage, &key, detail);
            return Ok(());
        };
        let name = format!("{key}.jpg");
        let path = folders.iter().map(|folder| folder.join(&name)).find(|path| path.is_file());
        if let Some(bytes) = read_image(&mut sink, &key, &path.unwrap_or_else(|| folders[0].join(&name))) {
            let size = (image.width, image.height);
            let place = |d: &Description| edges([d.x, d.y, d.width, d.height]);
            let regions = described.regions.iter().map(|d| region(place(d), size, &d.phrase)).collect();
            let captions = image.coco_id.and_then(|id| captions.get(&id)).cloned().unwrap_or_default();
            sink.add(NewSample { key, image: bytes, captions, regions: Some(regions), ..NewSample::default() })?;
        }
        progress(Progress { share, samples: sink.samples() });
        Ok(())
    })?;
    sink.finish()
}
