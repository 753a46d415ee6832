//! The output of img2dataset: tars with a `jpg`, `png` or `webp`, a `txt` and a `json` of what is known of
//! the download (`url`, `status`, `width`, `original_width`, `sha256`, …). Samples without an image failed to
//! download. `sparc` reads these tars as they are; converting packs them anew, without what failed.

use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use super::super::scan::TOOL_MEMBERS;
use super::super::sink::{NewSample, Output, Progress, Sink, WrittenShards};
use crate::error::Error;
use crate::prepare::read_captions;
use crate::record::{RecordJson, from_python_json};
use crate::shards::{RawSample, ShardSamples};
use crate::skips::{Skip, SkipReason};

/// Writes the samples of img2dataset's tars in order, with the captions in the record and what is known
/// of the download beside them.
///
/// # Errors
///
/// Shards that cannot be opened, or when something cannot be written. Nothing is left of the new shards
/// then.
pub fn convert_img2dataset(
    shards: &[PathBuf],
    output: &Output,
    progress: &mut dyn FnMut(Progress),
) -> Result<WrittenShards, Error> {
    for_each_download(shards, output, progress, |_| Ok(|_: &mut NewSample| Ok(())))
}

/// Reads img2dataset's tars. `annotate` is made anew for each tar, and may add to each of its samples.
pub(super) fn for_each_download<A: FnMut(&mut NewSample) -> Result<(), String>>(
    shards: &[PathBuf],
    output: &Output,
    progress: &mut dyn FnMut(Progress),
    annotator: impl Fn(&PathBuf) -> Result<A, Error>,
) -> Result<WrittenShards, Error> {
    let origin = shards.first().cloned().unwrap_or_default();
    let mut sink = Sink::new(output, &origin)?;
    for (index, shard) in shards.iter().enumerate() {
        let mut annotate = annotator(shard)?;
        for sample in ShardSamples::open(shard)?.keeping(&TOOL_MEMBERS) {
            match sample.and_then(|sample| download(&sample)) {
                Ok(mut new) => match annotate(&mut new) {
                    Ok(()) => sink.add(new)?,
                    Err(problem) => sink.skip(SkipReason::BadJson, &new.key, problem),
                },
                Err(Skip { reason, key, detail, shard }) => sink.skip(reason, &key, format!("{shard}: {detail}")),
            }
        }
        progress(Progress { share: (index + 1) as f64 / shards.len() as f64, samples: sink.samples() });
    }
    sink.finish()
}

fn download(sample: &RawSample) -> Result<NewSample, Skip> {
    let mut more: Map<String, Json> = match sample.members.get("json") {
        None => Map::new(),
        Some(bytes) => from_python_json(bytes)
            .map_err(|error| sample.skip(SkipReason::BadJson, format!("the .json member: {error}")))?,
    };
    let image = ["jpg", "jpeg", "png", "webp"].iter().find_map(|extension| sample.members.get(*extension));
    let Some(image) = image else {
        let why = more.get("error_message").and_then(Json::as_str).unwrap_or("no image member");
        return Err(sample.skip(SkipReason::NoImage, why));
    };
    let mut captions = read_captions(sample, &RecordJson::default())?;
    let caption = more.shift_remove("caption");
    if let (true, Some(Json::String(caption))) = (captions.is_empty(), caption) {
        captions.push(caption);
    }
    for key in ["key", "status", "error_message", "exif"] {
        more.shift_remove(key);
    }
    Ok(NewSample { key: sample.key.clone(), image: image.clone(), captions, more, ..NewSample::default() })
}
