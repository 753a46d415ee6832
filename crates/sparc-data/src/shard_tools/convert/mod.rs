//! Shards from data sets as they are published. Each file says which layout it reads.

mod coco;
mod flickr30k;
mod grit;
mod img2dataset;
mod refcoco;
mod visual_genome;

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, SeqAccess, Visitor};

pub use coco::{CocoFiles, convert_coco};
pub use flickr30k::{Flickr30kFiles, convert_flickr30k};
pub use grit::convert_grit;
pub use img2dataset::convert_img2dataset;
pub use refcoco::{RefCocoFiles, convert_refcoco};
pub use visual_genome::{VisualGenomeFiles, convert_visual_genome};

use super::sink::Sink;
use crate::error::Error;
use crate::record::RegionRecord;
use crate::skips::SkipReason;

/// A JSON file as a whole.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let file = File::open(path).map_err(|reason| Error::Io { path: path.into(), reason })?;
    serde_json::from_reader(BufReader::with_capacity(1 << 20, file)).map_err(|error| bad_json(path, &error))
}

fn bad_json(path: &Path, error: &serde_json::Error) -> Error {
    Error::Annotations { path: path.into(), line: Some(error.line() as u64), reason: error.to_string() }
}

/// The items of a JSON list, one after the other, with the share of the file that has been read.
fn for_each_in_list<T: DeserializeOwned>(
    path: &Path,
    mut work: impl FnMut(T, f64) -> Result<(), Error>,
) -> Result<(), Error> {
    let io = |reason| Error::Io { path: path.into(), reason };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len().max(1);
    let read = std::cell::Cell::new(0u64);
    let mut failed = None;
    let items = Items {
        work: |item: T| {
            let result = work(item, (read.get() as f64 / length as f64).min(1.0));
            let go_on = result.is_ok();
            failed = result.err();
            go_on
        },
        item: std::marker::PhantomData,
    };
    let reader = BufReader::with_capacity(1 << 20, Counting { file, read: &read });
    let parsed = items.deserialize(&mut serde_json::Deserializer::from_reader(reader));
    match failed {
        Some(error) => Err(error),
        None => parsed.map_err(|error| bad_json(path, &error)),
    }
}

/// Hands the items of a list to `work` while they are parsed; it says whether to go on.
struct Items<T, F> {
    work: F,
    item: std::marker::PhantomData<T>,
}

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> bool> DeserializeSeed<'de> for Items<T, F> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> bool> Visitor<'de> for Items<T, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            if !(self.work)(item) {
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

struct Counting<'a> {
    file: File,
    read: &'a std::cell::Cell<u64>,
}

impl Read for Counting<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.file.read(into)?;
        self.read.set(self.read.get() + bytes as u64);
        Ok(bytes)
    }
}

/// An image file, or a count of its absence.
fn read_image(sink: &mut Sink, key: &str, path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| sink.skip(SkipReason::NoImage, key, format!("{}: {error}", path.display())))
        .ok()
}

/// A region from edges in pixels of an image of `size`. Edges beyond the image, which annotators leave, are
/// moved to it; what lies outside as a whole becomes empty, and is counted as such.
fn region([x0, y0, x1, y1]: [f64; 4], (width, height): (f64, f64), text: &str) -> RegionRecord {
    let share = |edge: f64, length: f64| (edge / length).clamp(0.0, 1.0) as f32;
    RegionRecord {
        box_xyxy: [share(x0, width), share(y0, height), share(x1, width), share(y1, height)],
        text: text.trim().to_owned(),
        score: None,
    }
}

/// Left, top, width and height, as COCO stores boxes, to edges.
fn edges([x, y, width, height]: [f64; 4]) -> [f64; 4] {
    [x, y, x + width, y + height]
}

#[cfg(test)]
#[path = "../convert_tests.rs"]
mod tests;
