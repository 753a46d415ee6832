//! What a head is fine-tuned to say of a sample: the answer to one of its questions, or its class.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparc_core::answers::AnswerList;
use sparc_core::{TargetBatch, seed};
use tch::Tensor;

use crate::questions::{listed, read_questions};
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};

/// What is read of each sample in place of its captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetSpec {
    /// One of the record's questions, with its answers in this list.
    Answers(Arc<AnswerList>),
    /// The class of the `.cls` member, one of so many.
    Classes(usize),
}

/// What a sample is to teach.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedTarget {
    /// Outputs of the head with their shares, which add up to 1.
    pub shares: Vec<(usize, f32)>,
    /// How many tokens of the sample's text are the question, the beginning token among them; 0 without a question.
    pub question_length: usize,
}

/// What was drawn of a sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DrawnTarget {
    pub(crate) shares: Vec<(usize, f32)>,
    /// The question, and one of its answers in words.
    pub(crate) question: Option<(String, String)>,
    /// All that is said of the image: the question and the answers of the list.
    pub(crate) words: String,
}

impl TargetSpec {
    /// Number K of a head's outputs.
    pub fn outputs(&self) -> usize {
        match self {
            TargetSpec::Answers(list) => list.answers().len(),
            TargetSpec::Classes(n_classes) => *n_classes,
        }
    }

    /// Draws one of the sample's questions and one of its answers, by seed, occasion and key alone; or reads its class.
    ///
    /// # Errors
    ///
    /// Why the sample is left out.
    pub(crate) fn draw(
        &self,
        sample: &RawSample,
        occasion: u64,
        run_seed: u64,
        skips: &mut Vec<Skip>,
    ) -> Result<DrawnTarget, Skip> {
        match self {
            TargetSpec::Answers(list) => draw_question(sample, list, occasion, run_seed, skips),
            TargetSpec::Classes(n_classes) => {
                let class = class_of(sample, *n_classes)?;
                Ok(DrawnTarget { shares: vec![(class, 1.0)], question: None, words: String::new() })
            }
        }
    }
}

fn draw_question(
    sample: &RawSample,
    list: &AnswerList,
    occasion: u64,
    run_seed: u64,
    skips: &mut Vec<Skip>,
) -> Result<DrawnTarget, Skip> {
    let mut usable: Vec<(String, Vec<usize>)> = Vec::new();
    for question in read_questions(sample, skips) {
        let places = listed(&question.answers, list);
        if places.is_empty() {
            let detail = format!("\"{}\": none of its answers is in the list", question.question);
            skips.push(sample.skip(SkipReason::UnlistedAnswer, detail));
        } else {
            usable.push((question.question, places));
        }
    }
    if usable.is_empty() {
        let detail = "the record has no question (`qa`) with an answer of the list (`data.answers`)";
        return Err(sample.skip(SkipReason::NoQuestion, detail));
    }
    let words: [&[u8]; 3] = [b"question", &occasion.to_le_bytes(), sample.key.as_bytes()];
    let mut generator = ChaCha8Rng::seed_from_u64(seed::derive(run_seed, &words));
    let (question, places) = usable.swap_remove(generator.random_range(0..usable.len()));
    // DAQUAR writes `garbage_bin`.
    let in_words = |place: usize| list.answers()[place].replace('_', " ");
    let answer = in_words(places[generator.random_range(0..places.len())]);
    let mut shares = BTreeMap::new();
    for place in &places {
        *shares.entry(*place).or_insert(0.0) += 1.0 / places.len() as f32;
    }
    let words = shares.keys().fold(question.clone(), |words, &place| words + " " + &in_words(place));
    Ok(DrawnTarget { shares: shares.into_iter().collect(), question: Some((question, answer)), words })
}

fn class_of(sample: &RawSample, n_classes: usize) -> Result<usize, Skip> {
    let none = |detail: String| sample.skip(SkipReason::NoClass, detail);
    let text = sample.members.get("cls").ok_or_else(|| none("no .cls member".into()))?;
    let text = String::from_utf8_lossy(text);
    let class: usize =
        text.trim().parse().map_err(|error| none(format!("the .cls member \"{}\": {error}", text.trim())))?;
    if class >= n_classes {
        let detail =
            format!("class {class} is not among the {n_classes} of data.classes, which are 0 to {}", n_classes - 1);
        return Err(sample.skip(SkipReason::UnknownClass, detail));
    }
    Ok(class)
}

/// The targets of a batch whose texts are padded to `length` tokens.
pub(crate) fn collate_targets(spec: &TargetSpec, targets: &[&PreparedTarget], length: usize) -> TargetBatch {
    let outputs = spec.outputs();
    let mut shares = vec![0.0f32; targets.len() * outputs];
    let mut question = vec![false; targets.len() * length];
    for (row, target) in targets.iter().enumerate() {
        target.shares.iter().for_each(|&(place, share)| shares[row * outputs + place] = share);
        question[row * length..row * length + target.question_length].fill(true);
    }
    let size = |columns: usize| [targets.len() as i64, columns as i64];
    TargetBatch {
        shares_bk: Tensor::from_slice(&shares).view(size(outputs)),
        question_bl: matches!(spec, TargetSpec::Answers(_)).then(|| Tensor::from_slice(&question).view(size(length))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    fn sample(key: &str, member: &str, text: &str) -> RawSample {
        let members = HashMap::from([(member.to_owned(), text.as_bytes().to_vec())]);
        RawSample { shard: "shard.tar".into(), key: key.into(), members }
    }

    fn answers() -> TargetSpec {
        TargetSpec::Answers(Arc::new(AnswerList::new(["pen", "garbage_bin", "2"].map(str::to_owned)).unwrap()))
    }

    #[test]
    fn answers_share_evenly_and_unlisted_ones_are_left_out() {
        let json = r#"{"qa": [{"question": "what?", "answers": ["pen", "two", "lamp", "2", "a garbage bin"]},
            {"question": "who?", "answers": ["nobody"]}]}"#;
        let mut skips = Vec::new();
        let drawn = answers().draw(&sample("a", "json", json), 0, 1, &mut skips).unwrap();
        assert_eq!(drawn.shares, [(0, 0.25), (1, 0.25), (2, 0.5)]);
        let (question, answer) = drawn.question.unwrap();
        assert!(question == "what?" && ["pen", "garbage bin", "2"].contains(&answer.as_str()), "{answer}");
        assert_eq!(drawn.words, "what? pen garbage bin 2");
        assert_eq!((skips.len(), skips[0].reason), (1, SkipReason::UnlistedAnswer));
        for json in ["{}", r#"{"qa": []}"#, r#"{"qa": [{"question": "who?", "answers": ["nobody"]}]}"#] {
            let skip = answers().draw(&sample("a", "json", json), 0, 1, &mut Vec::new()).unwrap_err();
            assert!(skip.reason == SkipReason::NoQuestion && skip.reason.drops_sample(), "{json}");
        }
    }

    #[test]
    fn a_draw_depends_on_seed_epoch_and_key_alone() {
        let entries: Vec<String> =
            (0..20).map(|i| format!(r#"{{"question": "q{i}", "answers": ["pen", "2"]}}"#)).collect();
        let json = format!(r#"{{"qa": [{}]}}"#, entries.join(", "));
        let draw = |seed, epoch, key: &str| {
            answers().draw(&sample(key, "json", &json), epoch, seed, &mut Vec::new()).unwrap().question.unwrap()
        };
        assert_eq!(draw(1, 2, "a"), draw(1, 2, "a"));
        let all: BTreeSet<_> = (0..200).map(|epoch| draw(1, epoch, "a")).collect();
        assert!(all.len() > 36, "every question with either answer has its turn, got {}", all.len());
        let of = |seed, key: &str| (0..9).map(|epoch| draw(seed, epoch, key)).collect::<Vec<_>>();
        assert!(of(2, "a") != of(1, "a") && of(1, "b") != of(1, "a"));
    }

    #[test]
    fn classes_are_below_their_number() {
        let spec = TargetSpec::Classes(5);
        let class = |text: &str| spec.draw(&sample("a", "cls", text), 0, 0, &mut Vec::new());
        assert_eq!(class("4\n").unwrap().shares, [(4, 1.0)]);
        let skip = class("5").unwrap_err();
        assert!(skip.detail.contains("class 5 is not among the 5 of data.classes"), "{}", skip.detail);
        assert!(skip.or_fail().unwrap_err().to_string().contains("shard.tar"));
        assert_eq!(class("-1").unwrap_err().reason, SkipReason::NoClass);
        let none = spec.draw(&sample("a", "txt", "x"), 0, 0, &mut Vec::new()).unwrap_err();
        assert_eq!((none.reason, none.detail.as_str()), (SkipReason::NoClass, "no .cls member"));
    }

    #[test]
    fn a_batch_holds_shares_and_the_places_of_the_question() {
        let target = |shares, question_length| PreparedTarget { shares, question_length };
        let (a, b) = (target(vec![(0, 0.5), (2, 0.5)], 3), target(vec![(1, 1.0)], 1));
        let TargetBatch { shares_bk, question_bl } = collate_targets(&answers(), &[&a, &b], 4);
        assert_eq!(sparc_testing::rows(&shares_bk), [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]);
        let question_bl = question_bl.unwrap().to_kind(tch::Kind::Float);
        assert_eq!(sparc_testing::rows(&question_bl), [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]);
        assert!(collate_targets(&TargetSpec::Classes(3), &[&a], 4).question_bl.is_none());
    }
}
