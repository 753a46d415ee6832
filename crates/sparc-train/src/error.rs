//! What can go wrong in a run; every message names the file or key and the remedy.

use std::path::{Path, PathBuf};

/// An error of the trainer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {reason}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A configuration that cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key.
        reason: String,
    },
    /// A plan whose parts do not fit together.
    #[error("configuration: {0}")]
    Plan(String),
    /// The output folder holds another run.
    #[error("{path} already holds a run; continue it with --resume latest, replace it with --overwrite, or set another output", path = path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// There is nothing that can be resumed or evaluated.
    #[error("{path}: {reason}", path = path.display())]
    NoCheckpoint {
        /// Where it was looked for.
        path: PathBuf,
        /// What was not found, or is wrong with it.
        reason: String,
    },
    /// A checkpoint that does not fit the model, the optimizer or the configuration.
    #[error("checkpoint {path} does not fit:\n  {}", differences.join("\n  "), path = path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// Every difference.
        differences: Vec<String>,
    },
    /// A checkpoint could not be written.
    #[error("saving checkpoint {path}: {reason}; earlier checkpoints are untouched", path = path.display())]
    Save {
        /// The checkpoint.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The loss or a gradient is not a number.
    #[error(
        "step {step}: {what} is not finite; the samples were {keys:?}. Lower the learning rate, or look at these samples; the last checkpoint is intact"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// The batch's keys.
        keys: Vec<String>,
    },
    /// A network is asked for what it was not trained to do.
    #[error(
        "{checkpoint}: a network trained with {objective} {lack}; train one with objective cloc (configs/cloc)",
        checkpoint = checkpoint.display()
    )]
    Unable {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What it was trained with.
        objective: String,
        /// What it does not do.
        lack: &'static str,
    },
    /// A box of an image that cannot be embedded.
    #[error("{corners:?} {reason}")]
    Region {
        /// As it was given.
        corners: [f32; 4],
        /// What is wrong.
        reason: &'static str,
    },
    /// A visual dictionary is asked for where there is none.
    #[error(
        "{run}: a network trained with {objective} has no visual dictionary; give a run of nas (configs/nas)",
        run = run.display()
    )]
    NoDictionary {
        /// The run.
        run: PathBuf,
        /// What it was trained with.
        objective: String,
    },
    /// A matching head is asked for where there is none.
    #[error(
        "{checkpoint}: a network trained with {objective} has no matching head; give a run of albef or nas",
        checkpoint = checkpoint.display()
    )]
    NoMatcher {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What it was trained with.
        objective: String,
    },
    /// Captions cannot be made as asked for.
    #[error("captions: {0}")]
    Captions(String),
    /// Questions cannot be answered as asked for.
    #[error("answers: {0}")]
    Answers(String),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] sparc_data::Error),
    /// A weights file.
    #[error(transparent)]
    Weights(#[from] sparc_models::weights::Error),
    /// LibTorch.
    #[error(transparent)]
    Torch(#[from] sparc_torch::Error),
}

impl Error {
    /// An I/O error with its path.
    pub fn io(path: &Path, reason: std::io::Error) -> Error {
        Error::Io { path: path.into(), reason }
    }
}
