//! Answers to questions about images: the closed list that a head chooses from, and the form in which answers are
//! compared.

mod contractions;
mod normalize;

use std::collections::HashMap;

pub use normalize::{normalize_answer, strip_answer};

/// The answers to choose from, in the order of a head's outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerList {
    answers: Vec<String>,
    /// Of each answer as it is written, trimmed.
    places: HashMap<String, usize>,
    /// Of each normalised answer, the first that it is the form of.
    normalized_places: HashMap<String, usize>,
}

/// Why a list of answers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerListError {
    /// There is nothing to choose from.
    #[error("it has {0} answers, and a choice needs at least two")]
    TooFew(usize),
    /// An answer without a word.
    #[error("answer {0} (from 0) is blank")]
    Blank(usize),
    /// An answer that is there twice.
    #[error("answer {second} (from 0), `{answer}`, is answer {first} once more; each must be there once")]
    Duplicate {
        /// The answer.
        answer: String,
        /// Where it is first.
        first: usize,
        /// Where it is again.
        second: usize,
    },
}

impl AnswerList {
    /// A list of these answers; they are trimmed.
    ///
    /// # Errors
    ///
    /// Fewer than two, a blank one, or one that is there twice. Two that differ and are the same once they are
    /// normalised may both be there.
    pub fn new(answers: impl IntoIterator<Item = String>) -> Result<AnswerList, AnswerListError> {
        let answers: Vec<String> = answers.into_iter().map(|answer| strip_answer(&answer)).collect();
        let (mut places, mut normalized_places) = (HashMap::new(), HashMap::new());
        for (place, answer) in answers.iter().enumerate() {
            if answer.is_empty() {
                return Err(AnswerListError::Blank(place));
            }
            if let Some(first) = places.insert(answer.clone(), place) {
                return Err(AnswerListError::Duplicate { answer: answer.clone(), first, second: place });
            }
            // "the" and "?!" normalise to nothing, and are not each other's.
            let normalized = normalize_answer(answer);
            if !normalized.is_empty() {
                normalized_places.entry(normalized).or_insert(place);
            }
        }
        if answers.len() < 2 {
            return Err(AnswerListError::TooFew(answers.len()));
        }
        Ok(AnswerList { answers, places, normalized_places })
    }

    /// The answers, in their order.
    pub fn answers(&self) -> &[String] {
        &self.answers
    }

    /// The place of an answer: where it stands as it is written, or else where one stands that has its normalised
    /// form.
    pub fn find(&self, answer: &str) -> Option<usize> {
        let answer = strip_answer(answer);
        self.places.get(&answer).or_else(|| self.normalized_places.get(&normalize_answer(&answer))).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(answers: &[&str]) -> Result<AnswerList, AnswerListError> {
        AnswerList::new(answers.iter().map(|answer| (*answer).to_owned()))
    }

    #[test]
    fn answers_are_found_as_written_and_normalised() {
        let list = list(&["2", "garbage_bin", "t-shirt", "t shirt", " Red\n"]).unwrap();
        assert_eq!(list.answers()[4], "Red");
        for (answer, place) in [
            ("2", Some(0)),
            ("two", Some(0)),
            ("a garbage bin", Some(1)),
            ("t-shirt", Some(2)),
            ("t shirt", Some(3)),
            ("the T-shirt.", Some(2)),
            ("red ", Some(4)),
            ("blue", None),
            ("", None),
        ] {
            assert_eq!(list.find(answer), place, "{answer}");
        }
    }

    #[test]
    fn answers_without_a_normal_form_are_not_each_other() {
        let list = list(&["the", "red", "?!"]).unwrap();
        assert_eq!(["the", "?!", "a", ""].map(|answer| list.find(answer)), [Some(0), Some(2), None, None]);
    }

    #[test]
    fn lists_without_a_choice_are_refused() {
        assert_eq!(list(&[]), Err(AnswerListError::TooFew(0)));
        assert_eq!(list(&["yes"]), Err(AnswerListError::TooFew(1)));
        assert_eq!(list(&["yes", " "]), Err(AnswerListError::Blank(1)));
        let again = AnswerListError::Duplicate { answer: "yes".into(), first: 0, second: 2 };
        assert_eq!(list(&["yes", "no", " yes"]), Err(again));
    }
}
