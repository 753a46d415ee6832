//! New samples into shards: checked, counted, and all there or none.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};
use sparc_core::seed;
use webdataset::{Sample, Value};

use crate::decode::{EncodedImage, ImageError};
use crate::error::Error;
use crate::record::RegionRecord;
use crate::shard_writer::{self, ShardLimits, ShardWriter, write_file_atomically};
use crate::skips::{Skip, SkipCounts, SkipReason};

/// Where new shards go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The folder.
    pub folder: PathBuf,
    /// The shards are `<split>-00000.tar` and so on.
    pub split: String,
    /// When a shard is full.
    pub limits: ShardLimits,
}

/// How far the work has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Share of the input, in [0, 1].
    pub share: f64,
    /// Samples written.
    pub samples: u64,
}

/// What has been written, and what has been left out.
#[derive(Debug, Clone)]
pub struct WrittenShards {
    /// The shards, in order.
    pub shards: Vec<PathBuf>,
    /// Samples in them.
    pub samples: u64,
    /// Regions in them; `None` if none of the samples is annotated.
    pub regions: Option<u64>,
    /// What was left out, by reason.
    pub skips: SkipCounts,
}

/// A sample to be written.
#[derive(Debug, Clone, Default)]
pub(super) struct NewSample {
    pub(super) key: String,
    /// JPEG, PNG or WebP.
    pub(super) image: Vec<u8>,
    pub(super) captions: Vec<String>,
    /// Boxes in shares of the upright image; `None` for an image that is not annotated.
    pub(super) regions: Option<Vec<RegionRecord>>,
    /// Further keys of the record.
    pub(super) more: Map<String, Json>,
    /// Further members by extension.
    pub(super) members: Vec<(&'static str, Vec<u8>)>,
}

/// Takes samples and writes shards under a hidden folder, which [`Sink::finish`] moves into place.
pub(super) struct Sink {
    output: Output,
    /// Names where the samples come from, in messages.
    origin: String,
    staging: PathBuf,
    writer: Option<ShardWriter>,
    keys: HashSet<u64>,
    samples: u64,
    regions: Option<u64>,
    skips: SkipCounts,
}

impl Sink {
    /// # Errors
    ///
    /// A folder that cannot be written to, or that has shards of this split already.
    pub(super) fn new(output: &Output, origin: &Path) -> Result<Sink, Error> {
        let Output { folder, split, limits } = output;
        if let Some(name) = shards_of(folder, split).first() {
            let problem = format!("it holds {name} already; give another --split, another folder, or delete them");
            return Err(shard_writer::Error::Invalid { path: folder.clone(), problem }.into());
        }
        let staging = folder.join(format!(".{split}.partial"));
        // What an interrupted run has left.
        if staging.is_dir() {
            fs::remove_dir_all(&staging).map_err(io("remove", &staging))?;
        }
        let writer = ShardWriter::new(&staging, split, *limits)?;
        Ok(Sink {
            output: output.clone(),
            origin: origin.display().to_string(),
            staging,
            writer: Some(writer),
            keys: HashSet::new(),
            samples: 0,
            regions: None,
            skips: SkipCounts::default(),
        })
    }

    /// Samples written so far.
    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Counts something that is left out.
    pub(super) fn skip(&mut self, reason: SkipReason, key: &str, detail: impl ToString) {
        self.skips.record(&Skip {
            reason,
            shard: self.origin.clone(),
            key: key.to_owned(),
            detail: detail.to_string(),
        });
    }

    /// Writes a sample, or counts why it cannot be one: no image that training could read, or neither
    /// captions nor regions, or a key that there is already. Regions that are none are left out.
    ///
    /// # Errors
    ///
    /// When the shard cannot be written.
    pub(super) fn add(&mut self, new: NewSample) -> Result<(), Error> {
        let NewSample { key, image, captions, regions, mut more, members } = new;
        let extension = match EncodedImage::open(&image) {
            Ok(_) => extension_of(&image),
            Err(error) => {
                let reason = match error {
                    ImageError::Size { .. } => SkipReason::ImageSize,
                    ImageError::Empty | ImageError::NotLabels(_) | ImageError::Broken(_) => SkipReason::ImageDecode,
                };
                self.skip(reason, &key, error);
                return Ok(());
            }
        };
        let captions: Vec<&str> = captions.iter().map(|caption| caption.trim()).filter(|c| !c.is_empty()).collect();
        if captions.is_empty() && regions.as_ref().is_none_or(Vec::is_empty) {
            self.skip(SkipReason::NoCaption, &key, "neither a caption nor a region");
            return Ok(());
        }
        if !self.keys.insert(seed::derive(0, &[key.as_bytes()])) {
            let detail =
                "an earlier sample has this key; rows of one image must be neighbours: sort the table by image";
            self.skip(SkipReason::DuplicateKey, &key, detail);
            return Ok(());
        }
        more.insert("captions".into(), captions.into());
        if let Some(regions) = regions {
            let mut kept = Vec::with_capacity(regions.len());
            for region in regions {
                match region.fault() {
                    None => kept.push(region),
                    Some(fault) => {
                        self.skip(fault, &key, format!("the box {:?} of \"{}\"", region.box_xyxy, region.text))
                    }
                }
            }
            *self.regions.get_or_insert_default() += kept.len() as u64;
            more.insert("regions".into(), serde_json::to_value(kept).expect("regions are numbers and text"));
        }
        let mut sample = Sample::with_key(key);
        sample.insert(extension, Value::Bytes(image.into()));
        sample.insert("json", Value::Bytes(Json::Object(more).to_string().into_bytes().into()));
        for (extension, data) in members {
            sample.insert(extension, Value::Bytes(data.into()));
        }
        if let Some(writer) = &mut self.writer {
            writer.write(&sample)?;
        }
        self.samples += 1;
        Ok(())
    }

    /// Gives all shards their names and notes their sizes in `sizes.json`, where open_clip looks for them.
    ///
    /// # Errors
    ///
    /// No sample at all, or when something cannot be written.
    pub(super) fn finish(mut self) -> Result<WrittenShards, Error> {
        let folder = self.output.folder.clone();
        if self.samples == 0 {
            let problem = format!("no sample came of {}: {}", self.origin, self.skips);
            return Err(shard_writer::Error::Invalid { path: folder, problem }.into());
        }
        let written = self.writer.take().map_or(Ok(Vec::new()), ShardWriter::finish)?;
        let mut sizes = read_sizes(&folder)?;
        let mut shards = Vec::new();
        for shard in written {
            let name = shard.path.file_name().unwrap_or_default().to_owned();
            let path = folder.join(&name);
            fs::rename(&shard.path, &path).map_err(io("rename to", &path))?;
            sizes.insert(name.to_string_lossy().into_owned(), shard.n_samples.into());
            shards.push(path);
        }
        let text = format!("{:#}\n", Json::Object(sizes));
        write_file_atomically(&folder.join(SIZES), text.as_bytes())?;
        let (samples, regions, skips) = (self.samples, self.regions, std::mem::take(&mut self.skips));
        Ok(WrittenShards { shards, samples, regions, skips })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // The writer first, so that it finds its file to discard.
        self.writer = None;
        if let Err(error) = fs::remove_dir_all(&self.staging)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", self.staging.display());
        }
    }
}

/// Numbers of samples by shard, as open_clip reads them.
const SIZES: &str = "sizes.json";

fn read_sizes(folder: &Path) -> Result<Map<String, Json>, Error> {
    let path = folder.join(SIZES);
    match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(reason) => Err(Error::Io { path, reason }),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::Annotations {
            path,
            line: None,
            reason: format!("not an object of shard sizes: {error}; delete it or choose another folder"),
        }),
    }
}

/// Names of the shards of a split in a folder, sorted; none if there is no such folder.
fn shards_of(folder: &Path, split: &str) -> Vec<String> {
    let number = |name: &str| name.strip_prefix(split)?.strip_prefix('-')?.strip_suffix(".tar")?.parse::<u64>().ok();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| number(name).is_some())
        .collect();
    names.sort();
    names
}

/// The extension that fits the content.
fn extension_of(image: &[u8]) -> &'static str {
    match image {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "jpg",
    }
}

/// A key from the path of an image: no extension, and no dot in the base name, for a key ends at the
/// first one.
pub(super) fn key_of(path: &str) -> String {
    let parts: Vec<&str> =
        path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != "." && *part != "..").collect();
    let Some((base, folders)) = parts.split_last() else {
        return String::new();
    };
    let stem = base.rsplit_once('.').map_or(*base, |(stem, _)| if stem.is_empty() { base } else { stem });
    // Names that begin with two underscores describe a shard.
    let stem = stem.replace('.', "_");
    let stem = if stem.starts_with("__") { format!("x{stem}") } else { stem };
    [folders, &[stem.as_str()]].concat().join("/")
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| shard_writer::Error::Io { action, path, source }.into()
}

#[cfg(test)]
pub(crate) mod tests {
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;
    use crate::shard_writer::tests::names;

    /// Shards and the folder they live in.
    pub(crate) struct Written {
        pub(crate) shards: Vec<PathBuf>,
        pub(crate) _folder: tempfile::TempDir,
    }

    /// A JPEG of `width`×`height` pixels.
    pub(crate) fn picture(width: u32, height: u32) -> Vec<u8> {
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8 * 9, y as u8 * 11, (x * y) as u8]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    }

    pub(crate) fn output(folder: &Path, samples: usize) -> Output {
        Output { folder: folder.into(), split: "train".into(), limits: ShardLimits::samples(samples) }
    }

    fn new(index: u32) -> NewSample {
        NewSample {
            key: format!("s{index:04}"),
            image: picture(20 + index, 10),
            captions: vec![format!("caption number {index}")],
            regions: Some(vec![RegionRecord { box_xyxy: [0.0, 0.0, 0.5, 1.0], text: "a thing".into(), score: None }]),
            ..NewSample::default()
        }
    }

    /// `count` samples in shards of `per_shard`: images of 20 + i by 10 pixels.
    pub(crate) fn written(count: u32, per_shard: usize) -> Written {
        let _folder = tempfile::tempdir().unwrap();
        let mut sink = Sink::new(&output(_folder.path(), per_shard), Path::new("test")).unwrap();
        (0..count).for_each(|index| sink.add(new(index)).unwrap());
        Written { shards: sink.finish().unwrap().shards, _folder }
    }

    #[test]
    fn shards_appear_together_with_their_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = Sink::new(&output(folder.path(), 2), Path::new("test")).unwrap();
        (0..3).for_each(|index| sink.add(new(index)).unwrap());
        assert_eq!(names(folder.path()), [".train.partial"]);
        let summary = sink.finish().unwrap();
        assert_eq!(names(folder.path()), ["sizes.json", "train-00000.tar", "train-00001.tar"]);
        assert_eq!((summary.samples, summary.regions, summary.shards.len()), (3, Some(3), 2));
        // Another split beside it; the same one again is refused.
        let val = Output { split: "val".into(), ..output(folder.path(), 2) };
        let mut sink = Sink::new(&val, Path::new("test")).unwrap();
        sink.add(new(7)).unwrap();
        sink.finish().unwrap();
        let sizes = fs::read_to_string(folder.path().join("sizes.json")).unwrap();
        let sizes: Json = serde_json::from_str(&sizes).unwrap();
        assert_eq!(sizes, serde_json::json!({"train-00000.tar": 2, "train-00001.tar": 1, "val-00000.tar": 1}));
        let error = Sink::new(&output(folder.path(), 2), Path::new("test")).err().unwrap();
        assert!(error.to_string().contains("train-00000.tar already"), "{error}");
    }

    #[test]
    fn an_end_before_the_end_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = Sink::new(&output(folder.path(), 1), Path::new("test")).unwrap();
        (0..3).for_each(|index| sink.add(new(index)).unwrap());
        drop(sink);
        assert_eq!(names(folder.path()), [""; 0]);
        // Nor does a program that was killed, once the next one has run.
        fs::create_dir_all(folder.path().join(".train.partial")).unwrap();
        fs::write(folder.path().join(".train.partial/train-00007.tar"), b"old").unwrap();
        let sink = Sink::new(&output(folder.path(), 1), Path::new("test")).unwrap();
        let error = sink.finish().unwrap_err();
        assert!(error.to_string().contains("no sample came of test"), "{error}");
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn what_cannot_be_a_sample_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = Sink::new(&output(folder.path(), 9), Path::new("test")).unwrap();
        sink.add(new(0)).unwrap();
        sink.add(new(0)).unwrap();
        sink.add(NewSample { image: b"GIF89a".into(), ..new(1) }).unwrap();
        sink.add(NewSample { image: Vec::new(), ..new(2) }).unwrap();
        sink.add(NewSample { captions: vec![" ".into()], regions: None, ..new(3) }).unwrap();
        let box_xyxy = [0.5, 0.0, 0.5, 1.0];
        let flat = RegionRecord { box_xyxy, text: "flat".into(), score: None };
        sink.add(NewSample { regions: Some(vec![flat]), ..new(4) }).unwrap();
        let summary = sink.finish().unwrap();
        assert_eq!((summary.samples, summary.regions), (2, Some(1)));
        let expected = "skipped{image_decode=2, no_caption=1, box_empty=1, duplicate_key=1}";
        assert_eq!(summary.skips.to_string(), expected);
    }

    #[test]
    fn keys_end_at_their_first_dot() {
        for (path, key) in [
            ("a.jpg", "a"),
            ("./train/a.b.jpg", "train/a_b"),
            ("/data/x/1.png", "data/x/1"),
            ("..\\x\\__a.jpg", "x/x__a"),
            ("noextension", "noextension"),
            (".hidden", "_hidden"),
            ("", ""),
        ] {
            assert_eq!(key_of(path), key, "{path}");
        }
    }
}
