//! VQA accuracy (Antol et al. 2015; Goyal et al. 2017), as the official evaluation computes it.
//!
//! People may disagree, and each of them may be wrong: an answer's accuracy is the mean, over the people, of
//! min(1, equal answers among the *others* ÷ 3). With ten answers, 3 equal ones give 0.9 and 4 give 1.
//!
//! Answers are compared after [`normalize_answer`], the people's and the machine's alike, but only where the
//! people's answers are not all the same string: unanimous answers must be met as they are written, as in the
//! official program. (Older copies of it always normalised the machine's answer and only the punctuation of the
//! people's.)

use sparc_core::answers::{normalize_answer, strip_answer};

/// The fewest answers of people: with fewer, no answer could reach 1.
pub const FEWEST_ANSWERS: usize = 4;

/// Accuracy of all questions and of each.
#[derive(Debug, Clone, PartialEq)]
pub struct VqaScores {
    /// Mean over questions, in [0, 1].
    pub overall: f64,
    /// By question, in the given order.
    pub per_question: Vec<f64>,
}

/// One question with its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VqaQuestion {
    /// The question.
    pub id: String,
    /// The machine's answer, if there is one.
    pub answer: Option<String>,
    /// The people's answers; ten in VQA.
    pub human_answers: Vec<String>,
}

/// Why answers cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VqaError {
    /// There is no question.
    #[error("there is no question to score")]
    NoQuestions,
    /// A question without an answer by the machine.
    #[error("question `{id}` has no answer to score")]
    MissingAnswer {
        /// The question.
        id: String,
    },
    /// Too few answers by people to leave one out.
    #[error("question `{id}` has {found} answers by people, but accuracy needs at least {FEWEST_ANSWERS}")]
    TooFewAnswers {
        /// The question.
        id: String,
        /// Its answers.
        found: usize,
    },
}

/// Accuracy of the answers to all questions.
///
/// # Errors
///
/// If there is no question, or one lacks its answer or has fewer than four answers by people.
pub fn vqa_accuracy(questions: &[VqaQuestion]) -> Result<VqaScores, VqaError> {
    let mut per_question = Vec::with_capacity(questions.len());
    for VqaQuestion { id, answer, human_answers } in questions {
        let Some(answer) = answer else { return Err(VqaError::MissingAnswer { id: id.clone() }) };
        if human_answers.len() < FEWEST_ANSWERS {
            return Err(VqaError::TooFewAnswers { id: id.clone(), found: human_answers.len() });
        }
        per_question.push(accuracy(answer, human_answers));
    }
    if per_question.is_empty() {
        return Err(VqaError::NoQuestions);
    }
    Ok(VqaScores { overall: per_question.iter().sum::<f64>() / per_question.len() as f64, per_question })
}

fn accuracy(answer: &str, human_answers: &[String]) -> f64 {
    let mut answer = strip_answer(answer);
    let mut human_answers: Vec<String> = human_answers.iter().map(|answer| strip_answer(answer)).collect();
    if human_answers.iter().any(|answer| *answer != human_answers[0]) {
        answer = normalize_answer(&answer);
        human_answers.iter_mut().for_each(|answer| *answer = normalize_answer(answer));
    }
    let n_equal = human_answers.iter().filter(|human| **human == answer).count();
    let leave_one_out = human_answers.iter().map(|left_out| {
        let n_others = n_equal - usize::from(*left_out == answer);
        (n_others as f64 / 3.0).min(1.0)
    });
    leave_one_out.sum::<f64>() / human_answers.len() as f64
}

#[cfg(test)]
mod tests;
