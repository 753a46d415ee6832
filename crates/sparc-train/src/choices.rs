//! What a run's head chooses from, and the file `head.json` of the run's folder that keeps it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sparc_core::answers::AnswerList;
use sparc_core::objectives::coca::HeadTask;
use sparc_core::seed;
use sparc_data::{TargetSpec, count_answers};
use sparc_eval::tasks::ClassSet;

use crate::config::RunConfig;
use crate::error::Error;
use crate::evaluation::Trained;
use crate::fine_tuning;
use crate::plan::RunPlan;

/// The file's name.
pub const HEAD: &str = "head.json";

/// Answers or classes, in the order of the head's outputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Choices {
    /// Answers to questions.
    Answers(Arc<AnswerList>),
    /// Names of classes.
    Classes(Vec<String>),
}

/// What a plan knows of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedHead {
    /// Their number.
    pub outputs: usize,
    /// A hash of all of them in their order.
    pub fingerprint: String,
}

/// `head.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadFile {
    /// What the head tells.
    pub task: HeadTask,
    /// Answers or classes, in the order of the head's outputs.
    pub outputs: Vec<String>,
    /// In how many questions of the training data each answer is one; of answers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_questions: Option<Vec<u64>>,
}

impl Choices {
    /// Reads the list that a configuration names; `None` for one without a head.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is no such list.
    pub fn read(config: &RunConfig) -> Result<Option<Choices>, Error> {
        let Some(head) = fine_tuning::head(&config.objective) else { return Ok(None) };
        let (key, path) = match head.task {
            HeadTask::Vqa => ("data.answers", &config.data.answers),
            HeadTask::Classification => ("data.classes", &config.data.classes),
        };
        let path = path.as_ref().expect("the plan's checks ask for the list of a head");
        let text = std::fs::read_to_string(path).map_err(|reason| Error::io(path, reason))?;
        let choices = match head.task {
            HeadTask::Vqa => Choices::answers(answers_of(&text).map_err(|error| error.to_string())),
            HeadTask::Classification => {
                ClassSet::from_json(&text).map(|set| Choices::Classes(set.names)).map_err(|error| error.to_string())
            }
        };
        choices.map(Some).map_err(|reason| Error::Plan(format!("{key}: {}: {reason}", path.display())))
    }

    fn answers(answers: Result<Vec<String>, String>) -> Result<Choices, String> {
        let list = AnswerList::new(answers?).map_err(|error| error.to_string())?;
        Ok(Choices::Answers(Arc::new(list)))
    }

    /// Answers or names, in their order.
    pub fn names(&self) -> &[String] {
        match self {
            Choices::Answers(list) => list.answers(),
            Choices::Classes(names) => names,
        }
    }

    /// What a plan is to know.
    pub fn resolved(&self) -> ResolvedHead {
        ResolvedHead { outputs: self.names().len(), fingerprint: fingerprint(self.names()) }
    }

    /// What the loader is to read.
    pub fn targets(&self) -> TargetSpec {
        match self {
            Choices::Answers(list) => TargetSpec::Answers(list.clone()),
            Choices::Classes(names) => TargetSpec::Classes(names.len()),
        }
    }

    /// What is kept in the run's folder: reads the questions of all training data once.
    ///
    /// # Errors
    ///
    /// Training data that cannot be read, or without a question that the list answers.
    pub fn file(&self, plan: &RunPlan) -> Result<HeadFile, Error> {
        let outputs = self.names().to_vec();
        let Choices::Answers(list) = self else {
            return Ok(HeadFile { task: HeadTask::Classification, outputs, training_questions: None });
        };
        let patience = plan.config.data.remote.unwrap_or_default();
        let counts = count_answers(&plan.resolved.shards, patience, list)?;
        if !counts.skips.is_empty() {
            tracing::warn!("samples and questions that cannot be read are left out: {}", counts.skips);
        }
        if counts.n_questions == 0 {
            return Err(Error::Plan(format!(
                "data.train: it has no question (`qa` of the records) with an answer of data.answers; {} have another",
                counts.n_unlisted
            )));
        }
        tracing::info!(
            "{} questions to learn from; {} more have no answer in the list and are left out",
            counts.n_questions,
            counts.n_unlisted
        );
        Ok(HeadFile { task: HeadTask::Vqa, outputs, training_questions: Some(counts.questions_of_answer) })
    }
}

/// A JSON list of strings, or one answer a line.
fn answers_of(text: &str) -> Result<Vec<String>, serde_json::Error> {
    if text.trim_start().starts_with(['[', '{']) {
        serde_json::from_str(text)
    } else {
        Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
    }
}

fn fingerprint(names: &[String]) -> String {
    let words: Vec<&[u8]> = std::iter::once(&b"head"[..]).chain(names.iter().map(|name| name.as_bytes())).collect();
    format!("{:016x}", seed::derive(0, &words))
}

impl HeadFile {
    /// The file's text.
    ///
    /// # Panics
    ///
    /// Never: every value of the type can be written.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("lists of strings are plain data")
    }

    /// Reads that of a trained network; `None` for one without a head.
    ///
    /// # Errors
    ///
    /// A file that is missing, is no such file, or not the one that the network was trained with.
    pub fn of(trained: &Trained) -> Result<Option<HeadFile>, Error> {
        let Some(head) = &trained.plan.resolved.head else { return Ok(None) };
        let path = trained.run.join(HEAD);
        let text = std::fs::read_to_string(&path).map_err(|reason| Error::io(&path, reason))?;
        let task = fine_tuning::head(&trained.plan.config.objective).map(|head| head.task);
        HeadFile::parse(&text, head, task).map(Some).map_err(|reason| Error::Config { path, reason })
    }

    fn parse(text: &str, head: &ResolvedHead, task: Option<HeadTask>) -> Result<HeadFile, String> {
        let file: HeadFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if fingerprint(&file.outputs) != head.fingerprint || Some(file.task) != task {
            return Err("it is not the list that the head was trained with; put that head.json back".into());
        }
        if file.training_questions.as_ref().is_some_and(|counts| counts.len() != file.outputs.len()) {
            return Err("`training_questions` must have a number for each of `outputs`".into());
        }
        Ok(file)
    }

    /// The answer that is right most often in the training data, of several the first in the list.
    pub fn most_frequent(&self) -> Option<&str> {
        let counts = self.training_questions.as_ref()?;
        let (answer, _) = self.outputs.iter().zip(counts).rev().max_by_key(|(_, count)| **count)?;
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_json_or_lines() {
        for text in ["[\"a cup\", \"pen\"]", "a cup\n\npen\n", "a cup\r\npen"] {
            let choices = Choices::answers(answers_of(text).map_err(|error| error.to_string())).unwrap();
            assert_eq!(choices.names(), ["a cup", "pen"], "{text:?}");
        }
        let refused = |text: &str| Choices::answers(answers_of(text).map_err(|error| error.to_string())).unwrap_err();
        for (text, expected) in [
            ("", "0 answers"),
            ("[]", "0 answers"),
            ("[\"pen\"]", "1 answers"),
            ("pen\ncup\npen", "`pen`, is answer 0 once more"),
            ("[\"pen\", \"\"]", "answer 1 (from 0) is blank"),
            ("{\"pen\": 0}", "invalid type"),
            ("[\"pen\", 2]", "invalid type"),
        ] {
            assert!(refused(text).contains(expected), "{text:?}: {}", refused(text));
        }
    }

    #[test]
    fn a_file_must_be_the_one_that_was_trained_with() {
        let outputs: Vec<String> = ["x", "y", "z"].map(str::to_owned).to_vec();
        let head = Choices::Classes(outputs.clone()).resolved();
        let parse = |file: &HeadFile| HeadFile::parse(&file.to_json(), &head, Some(HeadTask::Vqa));
        let file = HeadFile { task: HeadTask::Vqa, outputs, training_questions: Some(vec![1, 5, 5]) };
        assert_eq!(parse(&file).unwrap(), file);
        assert_eq!(file.most_frequent(), Some("y"));
        let other = HeadFile { outputs: ["x", "z", "y"].map(str::to_owned).to_vec(), ..file.clone() };
        assert!(parse(&other).unwrap_err().contains("put that head.json back"));
        let of_classes = HeadFile { task: HeadTask::Classification, ..file.clone() };
        assert!(parse(&of_classes).unwrap_err().contains("put that head.json back"));
        let short = HeadFile { training_questions: Some(vec![1]), ..file };
        assert!(parse(&short).unwrap_err().contains("a number for each"));
    }
}
