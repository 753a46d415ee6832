//! Regions with given boxes: which class is in them, which phrase is theirs; and where a phrase is.
//!
//! The protocols of CLOC (Chen et al. 2024, section 5.2 and appendix B.2) and of FG-OVD, for every
//! [`RegionArm`] that the network has.
//!
//! # Rules
//!
//! - A class is a bare name, without a template. Without a list of names, the distinct phrases of the set are the
//!   classes. A region whose phrase is not in the list takes no part in recognition, and is counted.
//! - Phrases are trimmed and boxes clipped; a box without area and a region without a phrase are left out.
//! - The box predicted for a phrase counts with its best box, as in phrase grounding.

use std::collections::{BTreeSet, HashMap};

use ndarray::{Array2, Axis};
use sparc_core::{Encoder, EvalSample, FineRegion, ImageFeatures, Region};
use tch::Tensor;

use super::features::{TextEmbedder, normalized_rows};
use super::measured::{BOOTSTRAP, Measured, PURPOSE};
use super::phrase_grounding::{clipped, queries};
use super::region_arms::{BatchBoxes, RegionArm, Slots};
use super::{ArmResults, BoxResults, EvalError, EvalRequest, RegionResults, Task};
use crate::metrics::boxes::box_iou;
use crate::metrics::regions::{
    Difficulty, Match, PhraseChoice, box_grounding, region_recognition, region_retrieval_ranks,
};
use crate::metrics::{ImageMeans, TiedRank};

/// Which arms, and what is recognised.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionsRequest {
    /// Ways to embed boxes; those that the network does not have are left out.
    pub arms: Vec<RegionArm>,
    /// Names of the classes to choose from; `None` takes the distinct phrases of the set.
    pub classes: Option<Vec<String>>,
}

/// Scores held at a time: 32 MiB of f32.
const MAX_SCORES: usize = 1 << 23;
/// Candidates among which a query's own must be.
const RECALL_AT: usize = 10;
/// IoU from which a phrase counts as found (RefCOCO).
const FOUND_IOU: f64 = 0.5;

pub(super) struct RegionsTask<'a> {
    request: &'a RegionsRequest,
    arms: Vec<Arm>,
    phrases: Vec<String>,
    /// Of each phrase.
    images: Vec<usize>,
    n_images: usize,
    /// Images of earlier batches, those without regions included.
    n_seen: usize,
    n_without_regions: usize,
    n_fine_regions: usize,
    /// Of each phrase's predicted box, with its image.
    ious: Vec<(usize, f64)>,
    grounds: bool,
}

struct Arm {
    arm: RegionArm,
    /// L2-normalised embeddings, row after row.
    rows: Vec<f32>,
    choice: PhraseChoice,
}

/// What a sample has to offer, with clipped boxes.
struct Usable<'a> {
    regions: Vec<(&'a str, [f32; 4])>,
    fine: Vec<(&'a FineRegion, [f32; 4])>,
}

impl<'a> Usable<'a> {
    fn of(sample: &'a EvalSample) -> Usable<'a> {
        let usable = |region: &Region| clipped(region).filter(|_| !region.text.trim().is_empty());
        let regions = sample.regions.iter().flatten();
        let fine = sample.fine_regions.iter();
        Usable {
            regions: regions.filter_map(|region| Some((region.text.trim(), usable(region)?))).collect(),
            fine: fine.filter_map(|fine| Some((fine, usable(&fine.region)?))).collect(),
        }
    }
}

impl<'a> RegionsTask<'a> {
    pub fn new(request: &'a RegionsRequest, encoder: &dyn Encoder) -> RegionsTask<'a> {
        let has = |arm: &&RegionArm| **arm != RegionArm::Head || encoder.region_encoder().is_some();
        let arm = |arm: &RegionArm| Arm { arm: *arm, rows: Vec::new(), choice: PhraseChoice::default() };
        RegionsTask {
            request,
            arms: request.arms.iter().filter(has).map(arm).collect(),
            phrases: Vec::new(),
            images: Vec::new(),
            n_images: 0,
            n_seen: 0,
            n_without_regions: 0,
            n_fine_regions: 0,
            ious: Vec::new(),
            grounds: false,
        }
    }

    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> bool {
        let Usable { regions, fine } = Usable::of(sample);
        self.n_without_regions += usize::from(regions.is_empty());
        !regions.is_empty() || !fine.is_empty()
    }

    /// Takes the images of one batch; those without regions may be among them.
    pub fn add_batch(
        &mut self,
        samples: &[EvalSample],
        images_bchw: &Tensor,
        features: &ImageFeatures,
        embedder: TextEmbedder<'_>,
        request: &EvalRequest,
    ) -> Result<(), EvalError> {
        let found: Vec<_> = samples.iter().map(Usable::of).collect();
        let boxes: Vec<Vec<[f32; 4]>> = found
            .iter()
            .map(|Usable { regions, fine }| regions.iter().map(|r| r.1).chain(fine.iter().map(|f| f.1)).collect())
            .collect();
        let owners: Vec<usize> = boxes.iter().enumerate().flat_map(|(image, boxes)| vec![image; boxes.len()]).collect();
        if owners.is_empty() {
            return Ok(());
        }
        // The true phrase of each fine region and its wrong ones, level after level.
        let questions: Vec<(&FineRegion, Array2<f32>)> = found
            .iter()
            .zip(samples)
            .flat_map(|(Usable { fine, .. }, sample)| fine.iter().map(move |(fine, _)| (*fine, sample)))
            .map(|(fine, sample)| {
                let texts: Vec<&str> = std::iter::once(fine.region.text.trim())
                    .chain(fine.levels().into_iter().flatten().map(String::as_str))
                    .collect();
                let non_finite = |row: usize| EvalError::NonFinite {
                    key: sample.key.clone(),
                    what: format!("embedding of the phrase `{}`", texts[row]),
                };
                Ok((fine, embedder.embed(&texts, non_finite)?))
            })
            .collect::<Result<_, EvalError>>()?;
        let batch = BatchBoxes { images_bchw, features, boxes: &boxes };
        for arm in &mut self.arms {
            let Some(rows_rd) = batch.embed(arm.arm, embedder.encoder, request) else { continue };
            let rows_rd = normalized_rows(&rows_rd, |row| EvalError::NonFinite {
                key: samples[owners[row]].key.clone(),
                what: format!("embedding of a region ({})", arm.arm.name()),
            })?;
            let mut questions = questions.iter();
            let mut row = 0;
            for (image, Usable { regions, fine }) in (self.n_seen..).zip(&found) {
                for region_d in rows_rd.axis_iter(Axis(0)).skip(row).take(regions.len()) {
                    arm.rows.extend(region_d);
                }
                row += regions.len();
                for (fine, texts_nd) in questions.by_ref().take(fine.len()) {
                    add_choice(&mut arm.choice, image, fine, &texts_nd.dot(&rows_rd.row(row)).to_vec());
                    row += 1;
                }
            }
        }
        for (image, Usable { regions, fine }) in (self.n_seen..).zip(&found) {
            self.n_images += usize::from(!regions.is_empty());
            self.n_fine_regions += fine.len();
            self.phrases.extend(regions.iter().map(|(phrase, _)| (*phrase).to_owned()));
            self.images.extend(vec![image; regions.len()]);
        }
        self.ground(samples, images_bchw, embedder)?;
        self.n_seen += samples.len();
        Ok(())
    }

    /// Where the network says the phrases are.
    fn ground(
        &mut self,
        samples: &[EvalSample],
        images_bchw: &Tensor,
        embedder: TextEmbedder<'_>,
    ) -> Result<(), EvalError> {
        let Some(encoder) = embedder.encoder.region_encoder() else { return Ok(()) };
        let asked: Vec<_> = samples.iter().map(|sample| queries(sample.regions.as_deref().unwrap_or(&[]))).collect();
        let phrases: Vec<&str> = asked.iter().flatten().map(|query| query.phrase).collect();
        if phrases.is_empty() {
            return Ok(());
        }
        let slots = Slots::new(
            &asked.iter().map(|queries| vec![[0.0; 4]; queries.len()]).collect::<Vec<_>>(),
            images_bchw.device(),
        );
        let embedded: Vec<Tensor> = embedder.features(&phrases).map(|features| features.pooled_bd).collect();
        let phrases_bsd = slots.spread(&Tensor::cat(&embedded, 0));
        let Some(boxes_bs4) = encoder.ground_phrases(images_bchw, &phrases_bsd, &slots.valid_bs) else {
            return Ok(());
        };
        self.grounds = true;
        let boxes = slots.pick(&boxes_bs4).to_kind(tch::Kind::Double).contiguous().view([-1]);
        let boxes = Vec::<f64>::try_from(boxes).expect("numbers");
        let keys = (self.n_seen..)
            .zip(asked.iter().zip(samples))
            .flat_map(|(image, (queries, sample))| queries.iter().map(move |query| (image, query, sample)));
        for ((image, query, sample), corners) in keys.zip(boxes.chunks(4)) {
            let predicted = [corners[0], corners[1], corners[2], corners[3]];
            if !predicted.iter().all(|value| value.is_finite()) {
                return Err(EvalError::NonFinite {
                    key: sample.key.clone(),
                    what: format!("box predicted for `{}`", query.phrase),
                });
            }
            let truths = query.boxes.iter().map(|truth| truth.map(f64::from));
            let overlap = |truth: &[f64; 4]| box_iou(predicted, *truth);
            let best = truths.max_by(|a, b| overlap(a).total_cmp(&overlap(b))).expect("a query has a box");
            self.ious.extend(box_grounding(&[Some(predicted)], &[best]).ious.into_iter().map(|iou| (image, iou)));
        }
        Ok(())
    }

    pub fn finish(self, n_seen: usize, embedder: TextEmbedder<'_>) -> Result<RegionResults, EvalError> {
        if self.phrases.is_empty() && self.n_fine_regions == 0 {
            return Err(EvalError::NoUsableSample {
                task: Task::Regions,
                field: "regions",
                needs: "a region with a phrase and a box",
                n_images: n_seen,
            });
        }
        let phrases = Distinct::new(&self.phrases, embedder)?;
        let classes = match &self.request.classes {
            Some(names) => Distinct::new(names, embedder)?,
            None => phrases.clone(),
        };
        let class_of: Vec<Option<usize>> =
            self.phrases.iter().map(|phrase| classes.place.get(phrase.as_str()).copied()).collect();
        let n_without_class = class_of.iter().filter(|class| class.is_none()).count();
        let regions = Regions { texts: &self.phrases, images: &self.images, class_of: &class_of };
        let arms = self.arms.iter().map(|arm| arm.results(&regions, &phrases, &classes)).collect();
        let ious = &self.ious;
        let boxes = self.grounds.then(|| BoxResults {
            n_phrases: ious.len(),
            precision_50: Measured::mean(
                ious.iter().map(|(image, iou)| (*image, f64::from(u8::from(*iou >= FOUND_IOU)))),
            ),
            mean_iou: Measured::mean(ious.iter().copied()),
        });
        Ok(RegionResults {
            n_images: self.n_images,
            n_regions: self.phrases.len(),
            n_phrases: phrases.place.len(),
            n_classes: classes.place.len(),
            n_without_regions: self.n_without_regions,
            n_without_class,
            n_fine_regions: self.n_fine_regions,
            arms,
            boxes,
        })
    }
}

fn add_choice(choice: &mut PhraseChoice, image: usize, fine: &FineRegion, scores: &[f32]) {
    let (truth, mut wrong) = (scores[0], &scores[1..]);
    for (difficulty, texts) in Difficulty::ALL.into_iter().zip(fine.levels()) {
        let (level, rest) = wrong.split_at(texts.len());
        if !level.is_empty() {
            choice.add(difficulty, image, truth, level);
        }
        wrong = rest;
    }
}

/// Each text once, with its L2-normalised embedding.
#[derive(Clone)]
struct Distinct {
    place: HashMap<String, usize>,
    /// `[U, D]`.
    embedded_ud: Array2<f32>,
}

impl Distinct {
    fn new(texts: &[String], embedder: TextEmbedder<'_>) -> Result<Distinct, EvalError> {
        let distinct: BTreeSet<&str> = texts.iter().map(String::as_str).collect();
        let distinct: Vec<&str> = distinct.into_iter().collect();
        let place = distinct.iter().enumerate().map(|(place, text)| ((*text).to_owned(), place)).collect();
        let non_finite = |row: usize| EvalError::NonFinitePrompt { prompt: distinct[row].to_owned() };
        let embedded_ud =
            if distinct.is_empty() { Array2::zeros((0, 0)) } else { embedder.embed(&distinct, non_finite)? };
        Ok(Distinct { place, embedded_ud })
    }
}

/// What all arms are judged on, region by region.
struct Regions<'a> {
    texts: &'a [String],
    images: &'a [usize],
    class_of: &'a [Option<usize>],
}

impl Arm {
    fn results(&self, regions: &Regions<'_>, phrases: &Distinct, classes: &Distinct) -> ArmResults {
        let choice = Difficulty::ALL.map(|difficulty| {
            let interval = self.choice.interval(difficulty, PURPOSE, BOOTSTRAP)?;
            Some(Measured { value: self.choice.level(difficulty).accuracy()?, interval })
        });
        let mut results = ArmResults { choice, ..ArmResults::none(self.arm) };
        let Regions { texts, images, class_of } = *regions;
        if texts.is_empty() {
            return results;
        }
        let width = self.rows.len() / texts.len();
        let regions_rd = Array2::from_shape_vec((texts.len(), width), self.rows.clone()).expect("one row a region");
        let rows: Vec<usize> = texts.iter().map(|text| phrases.place[text]).collect();
        let phrases_rd = phrases.embedded_ud.select(Axis(0), &rows);
        let recall = |ranks: &[TiedRank]| {
            Measured::mean(images.iter().zip(ranks).map(|(image, rank)| (*image, rank.hit_probability(RECALL_AT))))
        };
        for (matching, slot) in [(Match::Index, 0), (Match::String, 1)] {
            let ranks = region_retrieval_ranks(regions_rd.view(), phrases_rd.view(), texts, matching, MAX_SCORES);
            results.region_to_text_recall[slot] = recall(&ranks.image_to_text);
            results.text_to_region_recall[slot] = recall(&ranks.text_to_image);
        }
        let (named, truth): (Vec<usize>, Vec<usize>) =
            class_of.iter().enumerate().filter_map(|(region, class)| Some((region, (*class)?))).unzip();
        if !named.is_empty() {
            let regions_rd = regions_rd.select(Axis(0), &named);
            let recognition = region_recognition(regions_rd.view(), classes.embedded_ud.view(), &truth, MAX_SCORES);
            let (mut by_class, mut together) = (ImageMeans::default(), ImageMeans::default());
            for ((&region, &class), &hit) in named.iter().zip(&truth).zip(&recognition.hits) {
                by_class.add_to_group(images[region], class, hit);
                together.add(images[region], hit);
            }
            results.macro_accuracy = Measured::of(recognition.counts.mean_per_class_recall(), &by_class);
            results.micro_accuracy = Measured::of(recognition.counts.top_1(), &together);
        }
        results
    }
}
