//! The true caption of an image against captions that are nearly true.
//!
//! A case is right if the true caption scores best of all; where it ties with n wrong ones it counts 1 ÷ (n + 1),
//! its chance in a random order. A network that hears only the bag of words ties often (a caption against its
//! shuffled words), and scripts that take an `argmax` count such ties as all right or all wrong, by the order of
//! their lists: ARO's relations wrong, its orders right. [`SourceAccuracy::strict`] counts ties as wrong.

use std::collections::BTreeMap;

use crate::metrics::{Bootstrap, ImageMeans, Interval, TiedRank};

/// Running outcomes by source: a benchmark or a part of one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HardNegatives {
    sources: BTreeMap<String, Outcomes>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Outcomes {
    /// The image and the probability of being right, of each case.
    hits: Vec<(usize, f64)>,
    n_strict: usize,
    chance: f64,
}

/// Accuracy of one source, or of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceAccuracy {
    /// Cases.
    pub n_cases: usize,
    /// Share of cases that are right, ties by chance.
    pub accuracy: f64,
    /// Share of cases in which the true caption scores better than all others.
    pub strict: f64,
    /// What a constant score gets.
    pub chance: f64,
}

/// Which mean an interval is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mean {
    OverCases,
    OverSources,
}

impl HardNegatives {
    /// Counts one case of an image; cases of the same image are resampled together.
    ///
    /// # Panics
    ///
    /// If there is no wrong caption or a score is NaN.
    pub fn add(&mut self, source: &str, image: usize, true_score: f32, wrong_scores: &[f32]) {
        assert!(!wrong_scores.is_empty(), "a case of `{source}` has no wrong caption");
        let scores = std::iter::once(true_score).chain(wrong_scores.iter().copied());
        let rank = TiedRank::from_scores(scores, |index| index == 0).expect("the true caption");
        let outcomes = self.sources.entry(source.to_owned()).or_default();
        outcomes.hits.push((image, rank.hit_probability(1)));
        outcomes.n_strict += usize::from(rank.n_better == 0 && rank.n_tied_negatives == 0);
        outcomes.chance += 1.0 / (1 + wrong_scores.len()) as f64;
    }

    /// The sources, in alphabetical order.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// Accuracy of a source; `None` if it has no case.
    pub fn source(&self, source: &str) -> Option<SourceAccuracy> {
        self.sources.get(source).map(|outcomes| accuracy([outcomes].into_iter()))
    }

    /// Accuracy of all cases, however they are spread over sources; `None` without cases.
    pub fn micro(&self) -> Option<SourceAccuracy> {
        (!self.sources.is_empty()).then(|| accuracy(self.sources.values()))
    }

    /// Unweighted mean of the sources' accuracies; `None` without cases.
    pub fn macro_accuracy(&self) -> Option<f64> {
        let n_sources = self.sources.len();
        let sum: f64 = self.sources.values().map(|outcomes| accuracy([outcomes].into_iter()).accuracy).sum();
        (n_sources > 0).then(|| sum / n_sources as f64)
    }

    /// Interval of a source's accuracy, images being resampled; `None` if it has no case.
    ///
    /// # Panics
    ///
    /// As [`ImageMeans::interval`].
    pub fn interval(&self, source: &str, options: Bootstrap) -> Option<Interval> {
        interval([self.sources.get(source)?].into_iter(), Mean::OverCases, options)
    }

    /// Interval of [`HardNegatives::micro`]'s accuracy, images being resampled.
    ///
    /// # Panics
    ///
    /// As [`ImageMeans::interval`].
    pub fn micro_interval(&self, options: Bootstrap) -> Option<Interval> {
        interval(self.sources.values(), Mean::OverCases, options)
    }

    /// Interval of [`HardNegatives::macro_accuracy`], images being resampled; a source of which a resample has no case
    /// is left out of its mean.
    ///
    /// # Panics
    ///
    /// As [`ImageMeans::interval`].
    pub fn macro_interval(&self, options: Bootstrap) -> Option<Interval> {
        interval(self.sources.values(), Mean::OverSources, options)
    }
}

fn interval<'a>(sources: impl Iterator<Item = &'a Outcomes>, mean: Mean, options: Bootstrap) -> Option<Interval> {
    let mut means = ImageMeans::default();
    for (source, outcomes) in sources.enumerate() {
        let group = match mean {
            Mean::OverCases => 0,
            Mean::OverSources => source,
        };
        outcomes.hits.iter().for_each(|&(image, hit)| means.add_to_group(image, group, hit));
    }
    // One purpose for all, so that equal cases have equal intervals.
    means.interval("hard negatives", options)
}

fn accuracy<'a>(outcomes: impl Iterator<Item = &'a Outcomes>) -> SourceAccuracy {
    let (mut n_cases, mut hits, mut n_strict, mut chance) = (0, 0.0, 0, 0.0);
    for outcomes in outcomes {
        n_cases += outcomes.hits.len();
        hits += outcomes.hits.iter().map(|hit| hit.1).sum::<f64>();
        n_strict += outcomes.n_strict;
        chance += outcomes.chance;
    }
    let n = n_cases as f64;
    SourceAccuracy { n_cases, accuracy: hits / n, strict: n_strict as f64 / n, chance: chance / n }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        let mut cases = HardNegatives::default();
        cases.add("swap", 1, 0.9, &[0.1]);
        cases.add("swap", 2, 0.5, &[0.5]);
        cases.add("swap", 3, 0.1, &[0.5, 0.1]);
        cases.add("order", 4, 0.7, &[0.7, 0.7, 0.2]);
        let swap = cases.source("swap").unwrap();
        assert_eq!((swap.n_cases, swap.accuracy, swap.strict), (3, 0.5, 1.0 / 3.0));
        assert!((swap.chance - (0.5 + 0.5 + 1.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!((cases.source("order").unwrap().accuracy - 1.0 / 3.0).abs() < 1e-12);
        assert!((cases.micro().unwrap().accuracy - (1.5 + 1.0 / 3.0) / 4.0).abs() < 1e-12);
        assert!((cases.macro_accuracy().unwrap() - (0.5 + 1.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(cases.sources().collect::<Vec<_>>(), ["order", "swap"]);
    }

    #[test]
    fn a_bag_of_words_scores_chance_and_not_all_or_nothing() {
        let mut cases = HardNegatives::default();
        (0..10).for_each(|_| cases.add("shuffled", 5, 0.25, &[0.25; 4]));
        let accuracy = cases.source("shuffled").unwrap();
        assert!((accuracy.accuracy - 0.2).abs() < 1e-12 && (accuracy.chance - 0.2).abs() < 1e-12);
        assert_eq!(accuracy.strict, 0.0);
    }

    #[test]
    fn nothing_counted_is_no_accuracy() {
        let cases = HardNegatives::default();
        let options = Bootstrap { confidence: 0.9, n_resamples: 5, seed: 1 };
        assert_eq!((cases.source("x"), cases.micro(), cases.macro_accuracy()), (None, None, None));
        assert_eq!(cases.interval("x", options), None);
        assert_eq!((cases.micro_interval(options), cases.macro_interval(options)), (None, None));
    }

    #[test]
    fn cases_of_one_image_are_drawn_together() {
        // 60 images of 10 cases that are all right or all wrong: as wide as 60 cases, not as 600.
        let options = Bootstrap { confidence: 0.95, n_resamples: 2000, seed: 3 };
        let (mut apart, mut together) = (HardNegatives::default(), HardNegatives::default());
        for case in 0..600 {
            let right = f32::from(u8::from(case / 10 % 2 == 0));
            apart.add("x", case, right, &[0.5]);
            together.add("x", case / 10, right, &[0.5]);
        }
        let width = |cases: &HardNegatives| cases.interval("x", options).map(|ends| ends.high - ends.low).unwrap();
        let normal = |n: f64| 2.0 * 1.96 * (0.25 / n).sqrt();
        assert!((width(&apart) / normal(600.0) - 1.0).abs() < 0.1, "{}", width(&apart));
        assert!((width(&together) / normal(60.0) - 1.0).abs() < 0.1, "{}", width(&together));
        let of_source = together.interval("x", options);
        assert_eq!((together.micro_interval(options), together.macro_interval(options)), (of_source, of_source));
    }

    #[test]
    fn intervals_of_both_means_lie_around_them() {
        // Three sources of 100, 10 and 1 images, right in 80, 30 and 100 % of their cases.
        let options = Bootstrap { confidence: 0.95, n_resamples: 500, seed: 3 };
        let mut cases = HardNegatives::default();
        (0..100).for_each(|image| cases.add("many", image, f32::from(u8::from(image % 5 > 0)), &[0.5]));
        (0..10).for_each(|image| cases.add("few", 100 + image, f32::from(u8::from(image < 3)), &[0.5]));
        cases.add("one", 110, 1.0, &[0.5]);
        let (micro, spread) = (cases.micro().unwrap().accuracy, cases.macro_accuracy().unwrap());
        assert!((micro - 84.0 / 111.0).abs() < 1e-12 && (spread - 2.1 / 3.0).abs() < 1e-12);
        for (mean, ends) in [(micro, cases.micro_interval(options)), (spread, cases.macro_interval(options))] {
            let Interval { low, high } = ends.unwrap();
            assert!(low < mean && mean < high && high - low > 0.1, "{mean} in {low} to {high}");
        }
    }

    #[test]
    #[should_panic(expected = "a case of `x` has no wrong caption")]
    fn a_case_without_wrong_captions_is_refused() {
        HardNegatives::default().add("x", 0, 1.0, &[]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_loop(cases in proptest::collection::vec((0u8..4, proptest::collection::vec(0u8..4, 1..5)), 1..15)) {
            let mut counts = HardNegatives::default();
            let (mut fair, mut strict) = (0.0, 0.0);
            for (image, (truth, wrong)) in cases.iter().enumerate() {
                counts.add("x", image, f32::from(*truth), &wrong.iter().map(|score| f32::from(*score)).collect::<Vec<_>>());
                let best = wrong.iter().max().unwrap();
                let n_tied = wrong.iter().filter(|score| *score == truth).count();
                fair += if best > truth { 0.0 } else { 1.0 / (n_tied + 1) as f64 };
                strict += f64::from(u8::from(best < truth));
            }
            let accuracy = counts.source("x").unwrap();
            prop_assert!((accuracy.accuracy - fair / cases.len() as f64).abs() < 1e-12);
            prop_assert!((accuracy.strict - strict / cases.len() as f64).abs() < 1e-12);
            prop_assert!(accuracy.strict <= accuracy.accuracy + 1e-12);
            let options = Bootstrap { confidence: 0.9, n_resamples: 20, seed: 1 };
            let interval = counts.interval("x", options).unwrap();
            prop_assert!(0.0 <= interval.low && interval.high <= 1.0);
        }
    }
}
