//! Questions about images: the network's answers against those of people.
//!
//! An answer is right in three ways, all after the official normaliser. *Exact match*: it is one of the question's
//! answers. *Accuracy*, where every question has the answers of at least four people: the official VQA accuracy.
//! *Whole match*, elsewhere: it is all that the question's answers are, as DAQUAR counts, so that one answer to a question
//! with two is wrong. What always giving the answer most frequent in training would reach stands beside them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sparc_core::answers::normalize_answer;
use sparc_core::{Answer, AskedQuestion, EvalSample};
use tch::Tensor;

use super::measured::{Measured, MetricKeys};
use super::{EvalError, Task};
use crate::metrics::vqa::{FEWEST_ANSWERS, VqaQuestion, vqa_accuracy};

/// What answers are compared with beside those of people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VqaRequest {
    /// The answer most frequent in training; `None` for a network that was not trained to answer.
    pub most_frequent: Option<String>,
}

/// How many answers are right, in `[0, 1]`; images are resampled for the intervals, with all their questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VqaScore {
    /// Official accuracy; where every question has at least four answers.
    pub accuracy: Option<Measured>,
    /// Share that is one of the question's answers.
    pub exact_match: Measured,
    /// Share that is all of them; where not every question has at least four answers.
    pub whole_match: Option<Measured>,
}

/// What always giving one answer reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VqaBaseline {
    /// The answer.
    pub answer: String,
    /// How often it is right.
    #[serde(flatten)]
    pub score: VqaScore,
}

/// A question that the network has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredQuestion {
    /// Key of the sample.
    pub key: String,
    /// The question.
    pub question: String,
    /// The network's answer.
    pub answer: String,
    /// The answers of people.
    pub answers: Vec<String>,
}

/// Visual question answering.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VqaResults {
    /// Images with a question.
    pub n_images: usize,
    /// Images left out because they have no question.
    pub n_without_questions: usize,
    /// Questions none of whose answers the network can give; they count as wrong.
    pub n_unlisted: usize,
    /// Different answers given, once they are normalised.
    pub n_distinct_answers: usize,
    /// How answers were found.
    pub protocol: String,
    /// How many are right.
    pub score: VqaScore,
    /// What the answer most frequent in training would reach, where that is known.
    pub most_frequent: Option<VqaBaseline>,
    /// The questions.
    pub questions: Vec<AnsweredQuestion>,
}

pub(super) struct VqaTask<'a> {
    request: &'a VqaRequest,
    n_images: usize,
    n_without_questions: usize,
    n_unlisted: usize,
    protocol: String,
    questions: Vec<AnsweredQuestion>,
    /// The number of each question's image; keys of several shards may be the same.
    image_of_question: Vec<usize>,
}

impl<'a> VqaTask<'a> {
    pub fn new(request: &'a VqaRequest) -> VqaTask<'a> {
        VqaTask {
            request,
            n_images: 0,
            n_without_questions: 0,
            n_unlisted: 0,
            protocol: String::new(),
            questions: Vec::new(),
            image_of_question: Vec::new(),
        }
    }

    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> bool {
        let takes_part = !sample.questions.is_empty();
        self.n_images += usize::from(takes_part);
        self.n_without_questions += usize::from(!takes_part);
        takes_part
    }

    /// Asks about the images of one batch, `[B, 3, H, W]`.
    pub fn add_batch(&mut self, answerer: &dyn Answer, samples: &[EvalSample], images_bchw: &Tensor) {
        let of_image = |(image, sample): (usize, &'_ EvalSample)| {
            let asked = sample.questions.iter();
            asked.map(move |question| (image, question.clone())).collect::<Vec<_>>()
        };
        let asked: Vec<_> = samples.iter().enumerate().flat_map(of_image).collect();
        if asked.is_empty() {
            return;
        }
        let questions: Vec<AskedQuestion> = asked
            .iter()
            .map(|(image, question)| AskedQuestion {
                image: *image,
                key: &samples[*image].key,
                question: &question.question,
            })
            .collect();
        let answers = answerer.answer(images_bchw, &questions);
        let n_before = self.image_of_question.last().map_or(0, |last| last + 1);
        self.image_of_question.extend(asked.iter().map(|(image, _)| n_before + image));
        assert_eq!(answers.len(), asked.len(), "one answer a question");
        for ((image, question), answer) in asked.into_iter().zip(answers) {
            self.n_unlisted += usize::from(!question.answers.iter().any(|answer| answerer.knows(answer)));
            let key = samples[image].key.clone();
            self.questions.push(AnsweredQuestion {
                key,
                question: question.question,
                answer,
                answers: question.answers,
            });
        }
        self.protocol = answerer.protocol();
    }

    pub fn finish(self, n_seen: usize) -> Result<VqaResults, EvalError> {
        if self.questions.is_empty() {
            return Err(EvalError::NoUsableSample {
                task: Task::Vqa,
                field: "questions",
                needs: "a question with an answer",
                n_images: n_seen,
            });
        }
        let distinct: BTreeSet<String> =
            self.questions.iter().map(|question| normalize_answer(&question.answer)).collect();
        let most_frequent = self.request.most_frequent.as_ref().map(|answer| VqaBaseline {
            answer: answer.clone(),
            score: score(&self.questions, &self.image_of_question, |_| answer),
        });
        Ok(VqaResults {
            n_images: self.n_images,
            n_without_questions: self.n_without_questions,
            n_unlisted: self.n_unlisted,
            n_distinct_answers: distinct.len(),
            protocol: self.protocol,
            score: score(&self.questions, &self.image_of_question, |question| &question.answer),
            most_frequent,
            questions: self.questions,
        })
    }
}

fn score<'a>(
    questions: &'a [AnsweredQuestion],
    images: &[usize],
    answer: impl Fn(&'a AnsweredQuestion) -> &'a String,
) -> VqaScore {
    let mean = |values: &[f64]| {
        let cases = images.iter().copied().zip(values.iter().copied());
        Measured::mean(cases).expect("there is a question")
    };
    let share = |is_right: &dyn Fn(&str, &[String]) -> bool| {
        let of_question = |question: &'a AnsweredQuestion| {
            let answers: Vec<String> = question.answers.iter().map(|answer| normalize_answer(answer)).collect();
            f64::from(u8::from(is_right(&normalize_answer(answer(question)), &answers)))
        };
        mean(&questions.iter().map(of_question).collect::<Vec<_>>())
    };
    // Fewer are not people who may disagree, but answers that are right together.
    let of_people = questions.iter().all(|question| question.answers.len() >= FEWEST_ANSWERS);
    let accuracy = of_people.then(|| {
        let asked: Vec<VqaQuestion> = questions
            .iter()
            .map(|question| VqaQuestion {
                id: question.key.clone(),
                answer: Some(answer(question).clone()),
                human_answers: question.answers.clone(),
            })
            .collect();
        mean(&vqa_accuracy(&asked).expect("every question has an answer, and enough of people").per_question)
    });
    VqaScore {
        accuracy,
        exact_match: share(&|answer, answers| !answer.is_empty() && answers.iter().any(|right| right == answer)),
        whole_match: (!of_people)
            .then(|| share(&|answer, answers| !answer.is_empty() && answers.iter().all(|right| right == answer))),
    }
}

impl VqaScore {
    fn metrics(&self, prefix: &str, keys: &mut MetricKeys) {
        keys.measured(&format!("{prefix}_accuracy"), self.accuracy);
        keys.measured(&format!("{prefix}_exact_match"), self.exact_match);
        keys.measured(&format!("{prefix}_whole_match"), self.whole_match);
    }
}

impl VqaResults {
    pub(super) fn metrics(&self, keys: &mut MetricKeys) {
        self.score.metrics("vqa", keys);
        self.most_frequent.iter().for_each(|baseline| baseline.score.metrics("vqa_most_frequent", keys));
    }

    pub(super) fn counts(&self) -> [(&'static str, usize); 4] {
        [
            ("n_questions", self.questions.len()),
            ("n_questions_unlisted", self.n_unlisted),
            ("n_without_questions", self.n_without_questions),
            ("n_distinct_answers", self.n_distinct_answers),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(answer: &str, answers: &[&str]) -> AnsweredQuestion {
        AnsweredQuestion {
            key: "k".into(),
            question: "what?".into(),
            answer: answer.into(),
            answers: answers.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn one_answer_to_a_question_with_two_is_a_match_and_not_the_whole() {
        let questions = [
            question("the Pen.", &["pen"]),
            question("garbage_bin", &["garbage bin"]),
            question("book", &["book", "pen"]),
            question("lamp", &["book"]),
        ];
        let score = score(&questions, &[0, 0, 0, 0], |question| &question.answer);
        assert_eq!((score.exact_match.value, score.whole_match.unwrap().value), (0.75, 0.5));
        assert!(score.accuracy.is_none());
        // All are of one image: there is nothing to resample.
        assert_eq!((score.exact_match.interval.low, score.exact_match.interval.high), (0.75, 0.75));
        let of_four = super::score(&questions, &[0, 1, 2, 3], |question| &question.answer).exact_match;
        assert!(of_four.interval.low < 0.75 && of_four.interval.high == 1.0, "{of_four:?}");
    }

    #[test]
    fn answers_of_people_are_scored_officially() {
        let people = ["yes", "yes", "no", "no", "no", "no", "no", "no", "no", "no"];
        let questions = [question("yes", &people), question("no", &people)];
        let score = score(&questions, &[0, 1], |question| &question.answer);
        // Two of ten: the mean of 1/3, twice, and of 2/3, eight times.
        let of_two = (2.0 / 3.0 + 8.0 * 2.0 / 3.0) / 10.0;
        assert!((score.accuracy.unwrap().value - (of_two + 1.0) / 2.0).abs() < 1e-12, "{score:?}");
        assert_eq!((score.exact_match.value, score.whole_match), (1.0, None));
        // One question with fewer answers, and nobody knows whether they are people's.
        let mixed = [questions[0].clone(), question("yes", &["yes"])];
        assert_eq!(super::score(&mixed, &[0, 1], |question| &question.answer).accuracy, None);
    }
}
