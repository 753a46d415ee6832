//! The true phrase of a box among wrong ones, by how hard they are (FG-OVD, Bianchi et al. 2024).
//!
//! The benchmark gives a box one true description and ten false ones for a level: one attribute replaced (hard), two
//! (medium), three (easy), or the description of another object (trivial). Levels are separate questions: a region
//! need not have all of them. Accuracy is the share of regions whose true phrase scores best, the rank its place
//! from 1. FG-OVD itself scores detections; FG-CLIP and others use its boxes as given, as here.

use crate::metrics::{Bootstrap, ImageMeans, Interval, TiedRank};

/// How much the wrong phrases differ from the true one, from little to much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difficulty {
    /// One attribute is wrong.
    Hard,
    /// Two attributes are wrong.
    Medium,
    /// Three attributes are wrong.
    Easy,
    /// Another object is described.
    Trivial,
}

impl Difficulty {
    /// All, from hard to trivial.
    pub const ALL: [Difficulty; 4] = [Difficulty::Hard, Difficulty::Medium, Difficulty::Easy, Difficulty::Trivial];
}

/// Running counts of one level.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ChoiceCounts {
    n_regions: usize,
    hits: f64,
    ranks: f64,
    chance: f64,
}

impl ChoiceCounts {
    /// Regions counted.
    pub fn n_regions(self) -> usize {
        self.n_regions
    }

    /// Share of regions whose true phrase scores best; `None` without regions.
    pub fn accuracy(self) -> Option<f64> {
        self.mean(self.hits)
    }

    /// Mean rank, from 1, of the true phrase; `None` without regions.
    pub fn mean_rank(self) -> Option<f64> {
        self.mean(self.ranks)
    }

    /// The accuracy of a constant score: 1 ÷ phrases, on average; `None` without regions.
    pub fn chance(self) -> Option<f64> {
        self.mean(self.chance)
    }

    fn mean(self, sum: f64) -> Option<f64> {
        (self.n_regions > 0).then(|| sum / self.n_regions as f64)
    }
}

/// Running counts of all levels.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PhraseChoice {
    levels: [ChoiceCounts; 4],
    hits: [ImageMeans; 4],
}

impl PhraseChoice {
    /// Counts one region of an image: the score of its true phrase and those of the wrong ones of a level.
    ///
    /// # Panics
    ///
    /// If there is no wrong phrase or a score is NaN.
    pub fn add(&mut self, difficulty: Difficulty, image: usize, true_score: f32, wrong_scores: &[f32]) {
        assert!(!wrong_scores.is_empty(), "a choice needs a wrong phrase");
        let scores = std::iter::once(true_score).chain(wrong_scores.iter().copied());
        let rank = TiedRank::from_scores(scores, |index| index == 0).expect("the true phrase");
        let counts = &mut self.levels[difficulty as usize];
        counts.n_regions += 1;
        counts.hits += rank.hit_probability(1);
        self.hits[difficulty as usize].add(image, rank.hit_probability(1));
        counts.ranks += rank.expected();
        counts.chance += 1.0 / (1 + wrong_scores.len()) as f64;
    }

    /// Counts of a level.
    pub fn level(&self, difficulty: Difficulty) -> ChoiceCounts {
        self.levels[difficulty as usize]
    }

    /// Interval of a level's accuracy, images being resampled; `None` without regions.
    ///
    /// # Panics
    ///
    /// As [`ImageMeans::interval`].
    pub fn interval(&self, difficulty: Difficulty, purpose: &str, options: Bootstrap) -> Option<Interval> {
        self.hits[difficulty as usize].interval(purpose, options)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        let mut choice = PhraseChoice::default();
        choice.add(Difficulty::Hard, 0, 0.5, &[0.4, 0.6, 0.7]); // third
        choice.add(Difficulty::Hard, 0, 0.9, &[0.4, 0.6]); // first
        choice.add(Difficulty::Hard, 0, 0.5, &[0.5]); // tied for the first two places
        choice.add(Difficulty::Trivial, 0, 0.1, &[0.0]);
        let hard = choice.level(Difficulty::Hard);
        assert_eq!(
            (hard.n_regions(), hard.accuracy(), hard.mean_rank()),
            (3, Some(0.5), Some((3.0 + 1.0 + 1.5) / 3.0))
        );
        assert!((hard.chance().unwrap() - (0.25 + 1.0 / 3.0 + 0.5) / 3.0).abs() < 1e-12);
        assert_eq!(choice.level(Difficulty::Trivial).accuracy(), Some(1.0));
        assert_eq!(choice.level(Difficulty::Easy).accuracy(), None);
    }

    #[test]
    fn a_constant_score_is_chance() {
        let mut choice = PhraseChoice::default();
        for difficulty in Difficulty::ALL {
            choice.add(difficulty, 0, 0.3, &[0.3; 10]);
            let counts = choice.level(difficulty);
            assert!((counts.accuracy().unwrap() - 1.0 / 11.0).abs() < 1e-12);
            assert_eq!((counts.mean_rank(), counts.chance()), (Some(6.0), Some(1.0 / 11.0)));
        }
    }

    #[test]
    #[should_panic(expected = "a choice needs a wrong phrase")]
    fn nothing_to_choose_from_is_refused() {
        PhraseChoice::default().add(Difficulty::Hard, 0, 1.0, &[]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_loop(
            regions in proptest::collection::vec((0u8..5, proptest::collection::vec(0u8..5, 1..6)), 1..12),
        ) {
            let mut choice = PhraseChoice::default();
            let (mut hits, mut ranks) = (0.0, 0.0);
            for (truth, wrong) in &regions {
                let scores: Vec<f32> = wrong.iter().map(|score| f32::from(*score)).collect();
                choice.add(Difficulty::Medium, 0, f32::from(*truth), &scores);
                let (mut better, mut tied) = (0.0, 0.0);
                for score in wrong {
                    better += f64::from(u8::from(score > truth));
                    tied += f64::from(u8::from(score == truth));
                }
                hits += if better > 0.0 { 0.0 } else { 1.0 / (1.0 + tied) };
                ranks += 1.0 + better + tied / 2.0;
            }
            let counts = choice.level(Difficulty::Medium);
            let n = regions.len() as f64;
            prop_assert!((counts.accuracy().unwrap() - hits / n).abs() < 1e-12);
            prop_assert!((counts.mean_rank().unwrap() - ranks / n).abs() < 1e-12);
        }

        #[test]
        fn order_and_monotone_changes_of_scores_change_nothing(truth in 0u8..9, wrong in proptest::collection::vec(0u8..9, 1..6)) {
            let count = |truth: f32, wrong: Vec<f32>| {
                let mut choice = PhraseChoice::default();
                choice.add(Difficulty::Easy, 0, truth, &wrong);
                choice
            };
            let before = count(f32::from(truth), wrong.iter().map(|score| f32::from(*score)).collect());
            let bend = |score: u8| f32::from(score).powi(3) - 2.0;
            prop_assert_eq!(before, count(bend(truth), wrong.iter().rev().map(|score| bend(*score)).collect()));
        }
    }
}
