//! What is in shards: how many, how long, how large. Only headers of images are read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::histogram::Histogram;
use super::scan::scan;
use crate::error::Error;
use crate::prepare::{open_image, read_captions, read_record};
use crate::regions::valid_regions;
use crate::shards::RawSample;
use crate::skips::Skip;

/// Counts over all samples of shards.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ShardStatistics {
    /// Shards read.
    pub shards: usize,
    /// Samples in them.
    pub samples: u64,
    /// How many samples have each member.
    pub members: BTreeMap<String, u64>,
    /// Captions of a sample.
    pub captions_per_sample: Histogram,
    /// Words of a caption, between spaces.
    pub caption_words: Histogram,
    /// Characters of a caption.
    pub caption_characters: Histogram,
    /// Pixels in a row of an upright image.
    pub image_width: Histogram,
    /// Rows of an upright image.
    pub image_height: Histogram,
    /// Encoded size of an image in KiB, rounded up.
    pub image_kib: Histogram,
    /// Regions of an annotated sample that can be used.
    pub regions_per_sample: Histogram,
    /// Words of a region's phrase.
    pub phrase_words: Histogram,
    /// Share of the image that a region's box covers, in percent.
    pub region_area_percent: Histogram,
    /// Candidates for a detector of a sample that has been searched for them.
    pub candidates_per_sample: Histogram,
    /// Words of such a candidate.
    pub candidate_words: Histogram,
    /// What could not be read or used, by reason. `sparc shards lint` says where.
    pub problems: BTreeMap<String, u64>,
}

impl ShardStatistics {
    /// The histograms with their names, in the order to show them in.
    pub fn histograms(&self) -> [(&'static str, &Histogram); 11] {
        [
            ("captions per sample", &self.captions_per_sample),
            ("words per caption", &self.caption_words),
            ("characters per caption", &self.caption_characters),
            ("image width, pixels", &self.image_width),
            ("image height, pixels", &self.image_height),
            ("image size, KiB", &self.image_kib),
            ("regions per annotated sample", &self.regions_per_sample),
            ("words per region phrase", &self.phrase_words),
            ("region area, % of the image", &self.region_area_percent),
            ("phrases per searched sample", &self.candidates_per_sample),
            ("words per phrase", &self.candidate_words),
        ]
    }

    fn histograms_mut(&mut self) -> [&mut Histogram; 11] {
        [
            &mut self.captions_per_sample,
            &mut self.caption_words,
            &mut self.caption_characters,
            &mut self.image_width,
            &mut self.image_height,
            &mut self.image_kib,
            &mut self.regions_per_sample,
            &mut self.phrase_words,
            &mut self.region_area_percent,
            &mut self.candidates_per_sample,
            &mut self.candidate_words,
        ]
    }

    fn merge(&mut self, other: &ShardStatistics) {
        self.samples += other.samples;
        let add = |into: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>| {
            from.iter().for_each(|(name, count)| *into.entry(name.clone()).or_default() += count);
        };
        add(&mut self.members, &other.members);
        add(&mut self.problems, &other.problems);
        for (into, (_, from)) in self.histograms_mut().into_iter().zip(other.histograms()) {
            into.merge(from);
        }
    }

    fn add(&mut self, sample: &RawSample) -> Result<(), Skip> {
        self.samples += 1;
        for extension in sample.members.keys() {
            *self.members.entry(extension.clone()).or_default() += 1;
        }
        let record = read_record(sample)?;
        let captions = read_captions(sample, &record)?;
        self.captions_per_sample.add(captions.len() as u64);
        for caption in &captions {
            self.caption_words.add(words(caption));
            self.caption_characters.add(caption.chars().count() as u64);
        }
        if let Some(regions) = record.regions {
            let mut faults = Vec::new();
            let regions = valid_regions(sample, regions, &mut faults);
            faults.iter().for_each(|fault| self.problem(fault));
            self.regions_per_sample.add(regions.len() as u64);
            for region in regions {
                self.phrase_words.add(words(&region.text));
                let [x0, y0, x1, y1] = region.box_xyxy.map(|value| f64::from(value.clamp(0.0, 1.0)));
                self.region_area_percent.add((100.0 * (x1 - x0) * (y1 - y0)).round() as u64);
            }
        }
        if let Some(phrases) = record.phrases {
            self.candidates_per_sample.add(phrases.len() as u64);
            phrases.iter().for_each(|phrase| self.candidate_words.add(words(phrase)));
        }
        let image = open_image(sample)?;
        let (width, height) = image.encoded.size();
        self.image_width.add(width.into());
        self.image_height.add(height.into());
        self.image_kib.add((image.bytes().len() as u64).div_ceil(1024));
        Ok(())
    }

    fn problem(&mut self, problem: &Skip) {
        *self.problems.entry(problem.reason.to_string()).or_default() += 1;
    }
}

/// Words of a text, between spaces.
pub(super) fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// Reads shards once and counts. `read` is told the bytes of samples read.
///
/// # Errors
///
/// A shard that cannot be opened.
pub fn statistics(shards: &[PathBuf], threads: usize, read: &(dyn Fn(u64) + Sync)) -> Result<ShardStatistics, Error> {
    let mut all = ShardStatistics { shards: shards.len(), ..ShardStatistics::default() };
    let visit = |gathered: &mut ShardStatistics, sample: Result<RawSample, Skip>| {
        if let Err(problem) = sample.and_then(|sample| gathered.add(&sample)) {
            gathered.problem(&problem);
        }
    };
    scan(shards, threads, visit, read, |gathered: ShardStatistics| all.merge(&gathered))?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::{Written, written};
    use super::*;

    #[test]
    fn counts_are_those_of_the_samples_whatever_the_threads() {
        let Written { shards, _folder } = written(7, 3);
        let one = statistics(&shards, 1, &|_| {}).unwrap();
        assert_eq!(one, statistics(&shards, 4, &|_| {}).unwrap());
        assert_eq!((one.shards, one.samples, one.members["jpg"], one.members["json"]), (3, 7, 7, 7));
        // The samples of `written`: images of 20 + i by 10 pixels, the caption "caption number i", a
        // region of half the image.
        assert_eq!((one.image_width.quantile(0.0), one.image_width.quantile(1.0)), (Some(20), Some(26)));
        assert_eq!((one.caption_words.mean(), one.caption_words.count()), (3.0, 7));
        assert_eq!((one.region_area_percent.mean(), one.regions_per_sample.mean()), (50.0, 1.0));
        assert_eq!(one.phrase_words.quantile(0.5), Some(2));
        assert!(one.problems.is_empty());
        let json = serde_json::to_value(&one).unwrap();
        assert_eq!(json["image_width"]["max"], 26);
        assert_eq!(json["image_height"]["bins"][0]["count"], 7);
    }
}
