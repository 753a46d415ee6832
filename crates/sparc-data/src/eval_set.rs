//! Shards to annotated samples for evaluation: in order, without randomness, nothing repeated.

use std::path::PathBuf;

use sparc_core::{EvalSample, FineRegion, LabelMap, Region};
use tch::Tensor;

use crate::claims::{Claims, read_claims};
use crate::decode::{Reduction, decode_labels};
use crate::error::Error;
use crate::pixels::normalize;
use crate::prepare::{open_image, read_captions, read_record};
use crate::questions::read_questions;
use crate::record::NegativesRecord;
use crate::regions::{valid_regions, visible_regions};
use crate::shards::{EVALUATION_MEMBERS, RawSample, ShardSamples};
use crate::skips::{Skip, SkipCounts, SkipReason};
use crate::stages::StageTimes;
use crate::transform::{Frame, Geometry, ResizeMode};

/// Reads the samples of shards one after the other.
pub struct EvalSet {
    shards: std::vec::IntoIter<PathBuf>,
    samples: Option<ShardSamples>,
    image_size: u32,
    resize: ResizeMode,
    skips: SkipCounts,
}

impl EvalSet {
    /// Samples of `shards`, as inputs of `image_size`×`image_size` pixels.
    pub fn new(shards: Vec<PathBuf>, image_size: u32, resize: ResizeMode) -> EvalSet {
        EvalSet { shards: shards.into_iter(), samples: None, image_size, resize, skips: SkipCounts::default() }
    }

    /// What has been left out so far.
    pub fn skips(&self) -> &SkipCounts {
        &self.skips
    }

    fn next_raw(&mut self) -> Option<Result<RawSample, Error>> {
        loop {
            match self.samples.as_mut().and_then(Iterator::next) {
                Some(Ok(sample)) => return Some(Ok(sample)),
                Some(Err(skip)) => match skip.or_fail() {
                    Ok(skip) => self.skips.record(&skip),
                    Err(error) => return Some(Err(error)),
                },
                None => match ShardSamples::open(&self.shards.next()?) {
                    Ok(samples) => self.samples = Some(samples.keeping(&EVALUATION_MEMBERS)),
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}

impl Iterator for EvalSet {
    type Item = Result<EvalSample, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let sample = match self.next_raw()? {
                Ok(sample) => sample,
                Err(error) => return Some(Err(error)),
            };
            let mut skips = Vec::new();
            let annotated = annotate(&sample, self.image_size, self.resize, &mut skips);
            skips.iter().for_each(|skip| self.skips.record(skip));
            match annotated {
                Ok(annotated) => return Some(Ok(annotated)),
                Err(skip) => self.skips.record(&skip),
            }
        }
    }
}

/// One raw sample with its annotations moved into the network's frame.
fn annotate(
    sample: &RawSample,
    image_size: u32,
    resize: ResizeMode,
    skips: &mut Vec<Skip>,
) -> Result<EvalSample, Skip> {
    let record = read_record(sample)?;
    let captions = read_captions(sample, &record)?;
    let image = open_image(sample)?;
    let frame = Frame::plain(image.encoded.size(), image_size, resize);
    let geometry = frame.geometry();
    let pixels = image.render(&frame, Reduction::None, &StageTimes::default())?;
    let regions = record.regions.map(|regions| {
        let valid = valid_regions(sample, regions, skips);
        let visible = visible_regions(sample, valid, &geometry, skips);
        visible.into_iter().map(|(box_xyxy, text)| Region { box_xyxy, text }).collect()
    });
    let fine_regions = record.fine_regions.into_iter().filter_map(|fine| {
        let valid = valid_regions(sample, vec![fine.region], skips);
        let (box_xyxy, text) = visible_regions(sample, valid, &geometry, skips).pop()?;
        let NegativesRecord { hard, medium, easy, trivial } = fine.negatives;
        Some(FineRegion { region: Region { box_xyxy, text }, hard, medium, easy, trivial })
    });
    let fine_regions = fine_regions.collect();
    let Claims { hard_negatives, statements, caption_pairs } = read_claims(sample, skips);
    let side = i64::from(image_size);
    Ok(EvalSample {
        key: sample.key.clone(),
        image_chw: Tensor::from_slice(&normalize(&pixels)).view([3, side, side]),
        pixels,
        captions,
        regions,
        fine_regions,
        hard_negatives,
        statements,
        caption_pairs,
        questions: read_questions(sample, skips),
        class: read_class(sample, skips),
        segmentation: read_segmentation(sample, &geometry, skips),
    })
}

pub(crate) fn read_class(sample: &RawSample, skips: &mut Vec<Skip>) -> Option<usize> {
    let text = String::from_utf8_lossy(sample.members.get("cls")?);
    match text.trim().parse() {
        Ok(class) => Some(class),
        Err(error) => {
            skips.push(sample.skip(SkipReason::BadLabel, format!("the .cls member \"{}\": {error}", text.trim())));
            None
        }
    }
}

fn read_segmentation(sample: &RawSample, geometry: &Geometry, skips: &mut Vec<Skip>) -> Option<LabelMap> {
    match decode_labels(sample.members.get("seg.png")?) {
        Ok(labels) => Some(geometry.map_labels(&labels)),
        Err(reason) => {
            skips.push(sample.skip(SkipReason::BadLabel, format!("the .seg.png member: {reason}")));
            None
        }
    }
}

/// All captions of shards in order, to train a tokenizer on; what cannot be read is counted.
///
/// # Errors
///
/// A shard that cannot be opened.
pub fn read_all_captions(shards: &[PathBuf]) -> Result<(Vec<String>, SkipCounts), Error> {
    let (mut captions, mut skips) = (Vec::new(), SkipCounts::default());
    for shard in shards {
        for sample in ShardSamples::open(shard)?.keeping(&["txt", "json"]) {
            match sample.and_then(|sample| read_captions(&sample, &read_record(&sample)?)) {
                Ok(found) => captions.extend(found),
                Err(skip) => skips.record(&skip.or_fail()?),
            }
        }
    }
    Ok((captions, skips))
}
