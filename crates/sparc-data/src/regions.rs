//! Annotated regions: which of a sample's take part, and how a batch holds them.

use std::collections::{BTreeSet, HashMap};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sparc_core::{RegionBatch, seed};
use tch::Tensor;

use crate::record::RegionRecord;
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};
use crate::tokenizer::{TextTokenizer, TokenizedText};
use crate::transform::Geometry;

/// How many regions take part in training, and how long their phrases may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSettings {
    /// Most regions of a sample (M).
    pub max: usize,
    /// Most tokens of a phrase, special tokens included.
    pub context_length: usize,
    /// Whether the phrases stand in for the caption of a sample that has regions and no caption; otherwise it
    /// is skipped. Off unless given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub caption_from_phrases: bool,
}

/// A region in the network's frame.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedRegion {
    /// `x0, y0, x1, y1` in `[0, 1]` of the network input.
    pub box_xyxy: [f32; 4],
    /// What it holds.
    pub phrase: TokenizedText,
}

/// Share of a region's box that must be inside the frame for the region to count.
const MIN_VISIBLE: f32 = 0.25;

/// Regions with a phrase and a box inside the image; the others are reported.
pub(crate) fn valid_regions(
    sample: &RawSample,
    regions: Vec<RegionRecord>,
    skips: &mut Vec<Skip>,
) -> Vec<RegionRecord> {
    let mut check = |region: &RegionRecord| match region.fault() {
        None => true,
        Some(reason) => {
            skips.push(sample.skip(reason, format!("the box {:?} of \"{}\"", region.box_xyxy, shown(&region.text))));
            false
        }
    };
    regions.into_iter().filter(|region| check(region)).collect()
}

/// The distinct phrases of the regions as a caption, "dog, red ball, two people", in an order drawn by
/// `generator`; `None` without a phrase.
pub(crate) fn caption_of(regions: &[RegionRecord], generator: &mut impl Rng) -> Option<String> {
    let distinct: BTreeSet<&str> = regions.iter().map(|region| region.text.trim()).collect();
    let mut phrases: Vec<&str> = distinct.into_iter().filter(|phrase| !phrase.is_empty()).collect();
    phrases.shuffle(generator);
    (!phrases.is_empty()).then(|| phrases.join(", "))
}

/// Regions of which enough can be seen, with their boxes in the frame; the others are counted.
pub(crate) fn visible_regions(
    sample: &RawSample,
    regions: Vec<RegionRecord>,
    geometry: &Geometry,
    skips: &mut Vec<Skip>,
) -> Vec<([f32; 4], String)> {
    let place = |region: RegionRecord| {
        let placed = geometry.map_box(region.box_xyxy, MIN_VISIBLE);
        if placed.is_none() {
            let detail = format!("the box {:?} of \"{}\"", region.box_xyxy, shown(&region.text));
            skips.push(sample.skip(SkipReason::RegionOutOfFrame, detail));
        }
        Some((placed?, region.text))
    };
    regions.into_iter().filter_map(place).collect()
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

/// At most `max` of the regions, drawn by seed, epoch and key alone.
pub(crate) fn draw_regions<T>(mut regions: Vec<T>, max: usize, run_seed: u64, epoch: u64, key: &str) -> Vec<T> {
    let words: [&[u8]; 3] = [b"regions", &epoch.to_le_bytes(), key.as_bytes()];
    let mut generator = ChaCha8Rng::seed_from_u64(seed::derive(run_seed, &words));
    // The first M of a partial Fisher-Yates shuffle.
    for place in 0..max.min(regions.len()) {
        let other = generator.random_range(place..regions.len());
        regions.swap(place, other);
    }
    regions.truncate(max);
    regions
}

/// The regions of a batch in `max` slots for each sample, each distinct phrase once.
pub(crate) fn collate_regions(
    samples: &[&[PreparedRegion]],
    max: usize,
    phrase_tokenizer: &TextTokenizer,
) -> RegionBatch {
    let size = [samples.len() as i64, max as i64];
    let (mut boxes, mut valid, mut phrase_of_slot) = (Vec::new(), Vec::new(), Vec::new());
    let (mut phrases, mut rows) = (Vec::new(), HashMap::new());
    for regions in samples {
        for slot in 0..max {
            let region = regions.get(slot);
            boxes.extend(region.map_or([0.0; 4], |region| region.box_xyxy));
            valid.push(region.is_some());
            phrase_of_slot.push(region.map_or(0, |region| {
                *rows.entry(&region.phrase).or_insert_with(|| {
                    phrases.push(region.phrase.clone());
                    phrases.len() as i64 - 1
                })
            }));
        }
    }
    if phrases.is_empty() {
        phrases.push(phrase_tokenizer.encode("").unwrap_or(TokenizedText::EMPTY));
    }
    RegionBatch {
        boxes_bm4: Tensor::from_slice(&boxes).view([size[0], size[1], 4]),
        phrases: phrase_tokenizer.pad(&phrases),
        phrase_of_slot_bm: Tensor::from_slice(&phrase_of_slot).view(size),
        valid_bm: Tensor::from_slice(&valid).view(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_epoch_and_key_alone() {
        let draw = |seed, epoch, key| draw_regions((0..40).collect(), 5, seed, epoch, key);
        assert_eq!(draw(1, 2, "a"), draw(1, 2, "a"));
        for other in [draw(2, 2, "a"), draw(1, 3, "a"), draw(1, 2, "b")] {
            assert_ne!(other, draw(1, 2, "a"));
        }
        let mut few = draw_regions(vec![7, 8, 9], 5, 0, 0, "a");
        few.sort_unstable();
        assert_eq!(few, [7, 8, 9]);
        // Every region has its turn.
        let all: std::collections::BTreeSet<i32> = (0..100).flat_map(|epoch| draw(0, epoch, "a")).collect();
        assert_eq!(all.len(), 40);
    }
}
