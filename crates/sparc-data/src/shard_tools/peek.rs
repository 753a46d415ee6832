//! Some samples of shards as a person would look at them.

use std::path::PathBuf;

use image::RgbImage;

use super::scan::TOOL_MEMBERS;
use crate::decode::Reduction;
use crate::error::Error;
use crate::prepare::{open_image, read_captions, read_record};
use crate::record::RegionRecord;
use crate::regions::valid_regions;
use crate::shards::{RawSample, ShardSamples};
use crate::skips::{Skip, SkipCounts};

/// A sample with its image in full.
#[derive(Debug, Clone)]
pub struct PeekedSample {
    /// Its key.
    pub key: String,
    /// The upright image.
    pub image: RgbImage,
    /// All captions.
    pub captions: Vec<String>,
    /// The regions that can be used; `None` if none were annotated.
    pub regions: Option<Vec<RegionRecord>>,
}

/// The first `count` samples that can be read, the same number from each of as many shards as needed,
/// spread over the list.
///
/// # Errors
///
/// A shard that cannot be opened.
pub fn peek(shards: &[PathBuf], count: usize) -> Result<(Vec<PeekedSample>, SkipCounts), Error> {
    let (mut samples, mut skips) = (Vec::new(), SkipCounts::default());
    let n_shards = shards.len().min(count);
    for index in 0..n_shards {
        let shard = &shards[index * shards.len() / n_shards];
        // What a shard is too short for falls to those after it.
        let due = (count * (index + 1)).div_ceil(n_shards);
        for sample in ShardSamples::open(shard)?.keeping(&TOOL_MEMBERS) {
            if samples.len() >= due {
                break;
            }
            let mut faults = Vec::new();
            match sample.and_then(|sample| look(&sample, &mut faults)) {
                Ok(sample) => samples.push(sample),
                Err(skip) => skips.record(&skip),
            }
            faults.iter().for_each(|fault| skips.record(fault));
        }
    }
    Ok((samples, skips))
}

fn look(sample: &RawSample, faults: &mut Vec<Skip>) -> Result<PeekedSample, Skip> {
    let record = read_record(sample)?;
    let captions = read_captions(sample, &record)?;
    let image = open_image(sample)?.decode(Reduction::None)?.pixels;
    let regions = record.regions.map(|regions| valid_regions(sample, regions, faults));
    Ok(PeekedSample { key: sample.key.clone(), image, captions, regions })
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::{Written, written};
    use super::*;

    #[test]
    fn samples_come_from_shards_all_over_the_list() {
        let Written { shards, _folder } = written(9, 2);
        let keys =
            |count| -> Vec<String> { peek(&shards, count).unwrap().0.into_iter().map(|sample| sample.key).collect() };
        assert_eq!(keys(2), ["s0000", "s0004"]);
        assert_eq!(keys(5), ["s0000", "s0002", "s0004", "s0006", "s0008"]);
        // The last shard has one sample only.
        assert_eq!(keys(100).len(), 9);
        assert_eq!(keys(0).len(), 0);
        let (samples, _) = peek(&shards, 1).unwrap();
        assert_eq!((samples[0].image.dimensions(), samples[0].regions.as_ref().unwrap().len()), ((20, 10), 1));
    }
}
