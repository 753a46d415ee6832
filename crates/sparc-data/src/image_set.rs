//! Shards to images alone, with the bytes they came from: what captions are made for.

use std::path::PathBuf;

use tch::Tensor;
use webdataset::{Sample, Value};

use crate::decode::Reduction;
use crate::error::Error;
use crate::pixels::normalize;
use crate::prepare::open_image;
use crate::shards::{RawSample, ShardSamples};
use crate::skips::{Skip, SkipCounts};
use crate::stages::StageTimes;
use crate::transform::{Frame, ResizeMode};

const IMAGE_MEMBERS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Reads the images of shards one after the other; captions and annotations are not looked at.
pub struct ImageSet {
    shards: std::vec::IntoIter<PathBuf>,
    samples: Option<ShardSamples>,
    image_size: u32,
    resize: ResizeMode,
    skips: SkipCounts,
}

/// An image as the network takes it, and as it was.
#[derive(Debug)]
pub struct ImageSample {
    /// Key of the sample in its shard.
    pub key: String,
    /// Normalised network input, `[3, H, W]`, `f32`.
    pub image_chw: Tensor,
    extension: String,
    bytes: Vec<u8>,
}

impl ImageSet {
    /// Images of `shards`, as inputs of `image_size`×`image_size` pixels.
    pub fn new(shards: Vec<PathBuf>, image_size: u32, resize: ResizeMode) -> ImageSet {
        ImageSet { shards: shards.into_iter(), samples: None, image_size, resize, skips: SkipCounts::default() }
    }

    /// What has been left out so far.
    pub fn skips(&self) -> &SkipCounts {
        &self.skips
    }

    fn prepare(&self, mut sample: RawSample) -> Result<ImageSample, Skip> {
        let image = open_image(&sample)?;
        let extension = image.extension.to_owned();
        let frame = Frame::plain(image.encoded.size(), self.image_size, self.resize);
        let pixels = image.render(&frame, Reduction::None, &StageTimes::default())?;
        let side = i64::from(self.image_size);
        let image_chw = Tensor::from_slice(&normalize(&pixels)).view([3, side, side]);
        let bytes = sample.members.remove(&extension).unwrap_or_default();
        Ok(ImageSample { key: sample.key, image_chw, extension, bytes })
    }
}

impl ImageSample {
    /// The image, byte for byte, with this caption, as a sample of a shard.
    pub fn captioned(self, caption: &str) -> Sample {
        let mut sample = Sample::with_key(self.key);
        sample.insert(&self.extension, Value::Bytes(self.bytes.into()));
        // Line breaks would make several captions of one.
        let line = caption.split_whitespace().collect::<Vec<_>>().join(" ");
        sample.insert("txt", Value::Bytes(line.into_bytes().into()));
        sample
    }
}

impl Iterator for ImageSet {
    type Item = Result<ImageSample, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.samples.as_mut().and_then(Iterator::next) {
                Some(Ok(sample)) => match self.prepare(sample) {
                    Ok(image) => return Some(Ok(image)),
                    Err(skip) => self.skips.record(&skip),
                },
                Some(Err(skip)) => self.skips.record(&skip),
                None => match ShardSamples::open(&self.shards.next()?) {
                    Ok(samples) => self.samples = Some(samples.keeping(&IMAGE_MEMBERS)),
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}
