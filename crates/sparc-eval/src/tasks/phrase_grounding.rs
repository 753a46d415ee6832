//! Phrase grounding: the heatmap of a phrase over an image should lie on the box of the phrase.
//!
//! The heatmap is one of [`Heatmaps`](super::Heatmaps), upsampled bilinearly to the size of the network input, where it
//! is scored by [`crate::metrics::grounding`] and chooses among the image's boxes ([`crate::metrics::box_choice`]).
//!
//! # Rules
//!
//! - Regions of one image with the same phrase (after trimming) are one query with several boxes: the
//!   network cannot know which of five "person" boxes is meant. Means are over queries.
//! - Boxes are clipped to the image. A box without area inside it (or with a NaN) and a region with an
//!   empty phrase are skipped and counted.
//! - The boxes to choose from are the different ones of all the image's phrases. A phrase for which any choice would be
//!   right, such as that of a single box, does not count among the choices.

use ndarray::Array2;
use sparc_core::{EvalSample, PatchGrid, Region};

use super::measured::Measured;
use super::{BoxChoiceResults, EvalError, GroundingResults, Task};
use crate::metrics::box_choice::{AREA_EXPONENT, BoxChoice, box_choice};
use crate::metrics::grounding::{FOUND_IOU, GroundingScore, grounding_score};
use crate::metrics::upsample::upsample_bilinear;

pub(super) struct GroundingTask {
    threshold: f64,
    n_images: usize,
    n_boxes: usize,
    n_without_regions: usize,
    n_empty_phrases: usize,
    n_empty_boxes: usize,
    /// Of each phrase, with its image.
    scores: Vec<(usize, GroundingScore)>,
    /// Of each phrase that has a choice, with its image.
    choices: Vec<(usize, BoxChoice)>,
}

/// A phrase of one image with all its boxes.
#[derive(Debug, PartialEq)]
pub(super) struct Query<'a> {
    pub phrase: &'a str,
    pub boxes: Vec<[f32; 4]>,
}

/// The box clipped to the image; `None` if nothing is left of it.
pub(super) fn clipped(region: &Region) -> Option<[f32; 4]> {
    let clipped = region.box_xyxy.map(|edge| edge.clamp(0.0, 1.0));
    let [x0, y0, x1, y1] = clipped;
    (x0 < x1 && y0 < y1).then_some(clipped)
}

/// The phrases of an image, each with its boxes.
pub(super) fn queries(regions: &[Region]) -> Vec<Query<'_>> {
    let mut queries: Vec<Query<'_>> = Vec::new();
    for region in regions {
        let phrase = region.text.trim();
        let Some(truth) = clipped(region).filter(|_| !phrase.is_empty()) else {
            continue;
        };
        match queries.iter_mut().find(|query| query.phrase == phrase) {
            Some(query) => query.boxes.push(truth),
            None => queries.push(Query { phrase, boxes: vec![truth] }),
        }
    }
    queries
}

impl GroundingTask {
    pub fn new(threshold: f64) -> GroundingTask {
        GroundingTask {
            threshold,
            n_images: 0,
            n_boxes: 0,
            n_without_regions: 0,
            n_empty_phrases: 0,
            n_empty_boxes: 0,
            scores: Vec::new(),
            choices: Vec::new(),
        }
    }

    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> bool {
        let mut is_usable = false;
        for region in sample.regions.iter().flatten() {
            if region.text.trim().is_empty() {
                self.n_empty_phrases += 1;
            } else if clipped(region).is_none() {
                self.n_empty_boxes += 1;
            } else {
                is_usable = true;
            }
        }
        self.n_without_regions += usize::from(!is_usable);
        is_usable
    }

    /// Takes one image of `height` × `width` pixels, if it has regions. `heat_of` gives the heat of phrases, `[Q, P]`.
    pub fn add_image(
        &mut self,
        sample: &EvalSample,
        grid: PatchGrid,
        (height, width): (usize, usize),
        heat_of: impl FnOnce(&[&str]) -> Result<Array2<f32>, EvalError>,
    ) -> Result<(), EvalError> {
        let queries = queries(sample.regions.as_deref().unwrap_or(&[]));
        if queries.is_empty() {
            return Ok(());
        }
        let mut candidates: Vec<[f32; 4]> = queries.iter().flat_map(|query| &query.boxes).copied().collect();
        candidates.sort_by(|a, b| a.partial_cmp(b).expect("clipped boxes are numbers"));
        candidates.dedup();
        let phrases: Vec<&str> = queries.iter().map(|query| query.phrase).collect();
        let heat_qp = heat_of(&phrases)?;
        for (query, heat_p) in queries.iter().zip(heat_qp.rows()) {
            let shape = (grid.height as usize, grid.width as usize);
            let heat_hw = Array2::from_shape_vec(shape, heat_p.to_vec()).expect("P = h * w patches");
            let heatmap_hw = upsample_bilinear(heat_hw.view(), height, width);
            let score = grounding_score(heatmap_hw.view(), &query.boxes, self.threshold);
            self.scores.push((self.n_images, score));
            let choice = box_choice(heatmap_hw.view(), &candidates, &query.boxes, AREA_EXPONENT);
            self.choices.extend((choice.chance < 1.0).then_some((self.n_images, choice)));
            self.n_boxes += query.boxes.len();
        }
        self.n_images += 1;
        Ok(())
    }

    pub fn finish(self, n_seen: usize) -> Result<GroundingResults, EvalError> {
        let scores = &self.scores;
        if scores.is_empty() {
            return Err(EvalError::NoUsableSample {
                task: Task::PhraseGrounding,
                field: "regions",
                needs: "a region with a phrase and a box",
                n_images: n_seen,
            });
        }
        let mean = |of: fn(&GroundingScore) -> f64| {
            Measured::mean(scores.iter().map(|(image, score)| (*image, of(score)))).expect("there is a phrase")
        };
        Ok(GroundingResults {
            n_images: self.n_images,
            n_phrases: scores.len(),
            n_boxes: self.n_boxes,
            n_without_regions: self.n_without_regions,
            n_empty_phrases: self.n_empty_phrases,
            n_empty_boxes: self.n_empty_boxes,
            pointing_accuracy: mean(|score| score.pointing),
            mean_box_iou: mean(|score| score.box_iou),
            mean_mask_iou: mean(|score| score.mask_iou),
            box_accuracy: mean(|score| f64::from(u8::from(score.box_iou >= FOUND_IOU))),
            box_choice: Measured::mean(self.choices.iter().map(|(image, choice)| (*image, choice.hit))).map(
                |accuracy| {
                    let n_phrases = self.choices.len();
                    let chance = self.choices.iter().map(|(_, choice)| choice.chance).sum::<f64>() / n_phrases as f64;
                    BoxChoiceResults { n_phrases, accuracy, chance }
                },
            ),
            chance: scores.iter().map(|(_, score)| score.chance).sum::<f64>() / scores.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(text: &str, box_xyxy: [f32; 4]) -> Region {
        Region { box_xyxy, text: text.to_owned() }
    }

    #[test]
    fn equal_phrases_are_one_query_and_unusable_regions_none() {
        let whole = [0.0, 0.0, 1.0, 1.0];
        let regions = [
            region("dog", [0.0, 0.0, 0.5, 0.5]),
            region("cat", whole),
            region(" dog", [-0.5, 0.5, 0.5, 1.5]),
            region("  ", whole),
            region("bird", [0.5, 0.5, 0.5, 0.9]),
            region("bird", [1.2, 0.0, 1.4, 1.0]),
            region("bird", [f32::NAN, 0.0, 1.0, 1.0]),
        ];
        let expected = [
            Query { phrase: "dog", boxes: vec![[0.0, 0.0, 0.5, 0.5], [0.0, 0.5, 0.5, 1.0]] },
            Query { phrase: "cat", boxes: vec![whole] },
        ];
        assert_eq!(queries(&regions), expected);
    }
}
