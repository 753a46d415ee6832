//! Questions about images with their answers: the record's key `qa`.
//!
//! Evaluation and fine-tuning alone read it, so it is no part of [`crate::record::RecordJson`]: whatever stands in it
//! costs pre-training no sample.

use serde::Deserialize;
use serde_json::Value;
use sparc_core::Question;
use sparc_core::answers::AnswerList;

use crate::claims::{Text, entries};
use crate::error::Error;
use crate::record::from_python_json;
use crate::shards::{RawSample, ShardSamples};
use crate::skips::{Skip, SkipCounts};
use crate::source::{Fetcher, Patience, Source};

#[derive(Deserialize)]
struct QuestionsJson {
    #[serde(default)]
    qa: Value,
}

#[derive(Deserialize)]
struct QuestionJson {
    question: Text,
    answers: Vec<String>,
}

/// The questions of the `.json` member, each that cannot be used being left out and counted. A member that is no JSON
/// has none: reading the record says so.
pub(crate) fn read_questions(sample: &RawSample, skips: &mut Vec<Skip>) -> Vec<Question> {
    let Some(questions) = sample.members.get("json").and_then(|bytes| from_python_json::<QuestionsJson>(bytes).ok())
    else {
        return Vec::new();
    };
    entries(questions.qa, "qa", question, sample, skips)
}

fn question(QuestionJson { question, answers }: QuestionJson) -> Result<Question, String> {
    let answers: Vec<String> =
        answers.iter().map(|answer| answer.trim()).filter(|answer| !answer.is_empty()).map(str::to_owned).collect();
    if answers.is_empty() {
        return Err("it has no answer".into());
    }
    Ok(Question { question: question.0, answers })
}

/// Where the answers of a question stand in the list, those that stand there.
pub(crate) fn listed(answers: &[String], list: &AnswerList) -> Vec<usize> {
    answers.iter().filter_map(|answer| list.find(answer)).collect()
}

/// How often each answer of a list is right in a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerCounts {
    /// Questions of which each answer of the list is one, in the list's order.
    pub questions_of_answer: Vec<u64>,
    /// Questions with an answer of the list.
    pub n_questions: u64,
    /// Questions without one.
    pub n_unlisted: u64,
    /// What could not be read.
    pub skips: SkipCounts,
}

/// Reads all questions of these sources and counts their answers.
///
/// # Errors
///
/// A source that cannot be opened or read, or a table, which has no questions.
pub fn count_answers(sources: &[Source], patience: Patience, list: &AnswerList) -> Result<AnswerCounts, Error> {
    let fetcher = Fetcher::new(patience);
    let mut counts = AnswerCounts {
        questions_of_answer: vec![0; list.answers().len()],
        n_questions: 0,
        n_unlisted: 0,
        skips: SkipCounts::default(),
    };
    for source in sources {
        if let Source::Table(path) = source {
            return Err(Error::Table { path: path.clone(), reason: "a table has no questions; give shards".into() });
        }
        for sample in ShardSamples::fetch(source, &fetcher)?.keeping(&["json"]) {
            match sample {
                Ok(sample) => counts.add(&sample, list),
                Err(skip) => counts.skips.record(&skip.or_fail()?),
            }
        }
    }
    Ok(counts)
}

impl AnswerCounts {
    fn add(&mut self, sample: &RawSample, list: &AnswerList) {
        let mut skips = Vec::new();
        for question in read_questions(sample, &mut skips) {
            let mut places = listed(&question.answers, list);
            places.sort_unstable();
            places.dedup();
            if places.is_empty() {
                self.n_unlisted += 1;
            } else {
                self.n_questions += 1;
            }
            places.into_iter().for_each(|place| self.questions_of_answer[place] += 1);
        }
        skips.iter().for_each(|skip| self.skips.record(skip));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::skips::SkipReason;

    fn sample(json: &str) -> RawSample {
        let members = HashMap::from([("json".to_owned(), json.as_bytes().to_vec())]);
        RawSample { shard: "shard.tar".into(), key: "a".into(), members }
    }

    #[test]
    fn questions_are_read_and_trimmed_and_others_counted() {
        let json = r#"{"qa": [{"question": " what? ", "answers": ["a cup ", "", "pen"], "id": 3},
            {"question": "where?", "answers": []}, {"question": " ", "answers": ["x"]}, 7, {"answers": ["x"]}]}"#;
        let mut skips = Vec::new();
        let questions = read_questions(&sample(json), &mut skips);
        assert_eq!(questions, [Question { question: "what?".into(), answers: vec!["a cup".into(), "pen".into()] }]);
        assert_eq!(skips.len(), 4);
        assert!(skips.iter().all(|skip| skip.reason == SkipReason::BadClaim));
        assert!(skips[0].detail.contains("qa[1]") && skips[0].detail.contains("no answer"), "{}", skips[0].detail);
        assert!(read_questions(&sample("{}"), &mut skips).is_empty() && skips.len() == 4);
        assert!(read_questions(&sample(r#"{"qa": {"a": 1}}"#), &mut skips).is_empty() && skips.len() == 5);
    }

    #[test]
    fn answers_are_found_in_their_list() {
        let list = AnswerList::new(["book", "pen", "1,000", "salt, pepper"].map(str::to_owned)).unwrap();
        let listed = |answers: &[&str]| listed(&answers.iter().map(ToString::to_string).collect::<Vec<_>>(), &list);
        assert_eq!(listed(&["the book", "lamp", "pen"]), [0, 1]);
        assert_eq!(listed(&["1,000", "salt, pepper"]), [2, 3]);
        assert!(listed(&["lamp", "book, pen"]).is_empty());
    }

    #[test]
    fn a_question_counts_once_for_each_of_its_answers() {
        let list = AnswerList::new(["book", "pen"].map(str::to_owned)).unwrap();
        let mut counts = AnswerCounts {
            questions_of_answer: vec![0; 2],
            n_questions: 0,
            n_unlisted: 0,
            skips: SkipCounts::default(),
        };
        let json = r#"{"qa": [{"question": "a", "answers": ["book", "book", "pen"]}, {"question": "b", "answers": ["pen"]},
            {"question": "c", "answers": ["lamp"]}]}"#;
        counts.add(&sample(json), &list);
        assert_eq!((counts.questions_of_answer, counts.n_questions, counts.n_unlisted), (vec![1, 2], 2, 1));
    }
}
