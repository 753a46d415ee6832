//! What can go wrong while evaluating.

use std::fmt;

/// The tasks that [`super::evaluate`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Captions for images and images for captions.
    Retrieval,
    /// Class names for images.
    ZeroshotClassification,
    /// Class names for pixels.
    ZeroshotSegmentation,
    /// Places for phrases.
    PhraseGrounding,
    /// Regions with given boxes.
    Regions,
    /// True and false captions and statements.
    Compositional,
    /// Captions made for images.
    Captioning,
    /// Answers to questions about images.
    Vqa,
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Task::Retrieval => "retrieval",
            Task::ZeroshotClassification => "zero-shot classification",
            Task::ZeroshotSegmentation => "zero-shot segmentation",
            Task::PhraseGrounding => "phrase grounding",
            Task::Regions => "regions",
            Task::Compositional => "the compositional test",
            Task::Captioning => "captioning",
            Task::Vqa => "visual question answering",
        })
    }
}

/// Why an evaluation gave no results.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The request names no task.
    #[error("no task was requested")]
    NothingRequested,
    /// The network makes no captions.
    #[error("captioning needs a network that makes captions; this one has no text decoder")]
    NoCaptioner,
    /// The network answers no questions.
    #[error("questions need a network that answers them; this one has no text decoder")]
    NoAnswerer,
    /// The classes are not those that the network's head was trained to tell.
    #[error(
        "the network's own head tells {n_trained} classes and {n_given} are given; the first that differs is number {first} (from 0): `{trained}` in training, `{given}` here. Give the list that it was trained with"
    )]
    OtherClasses {
        /// Classes of the head.
        n_trained: usize,
        /// Classes of the request.
        n_given: usize,
        /// The first place where they differ.
        first: usize,
        /// What the head has there.
        trained: String,
        /// What the request has there.
        given: String,
    },
    /// The network does not match pairs.
    #[error(
        "{what} needs a network with a matching head, which reads a text together with an image; this one has none: {instead}"
    )]
    NoMatcher {
        /// What was asked for.
        what: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// A setting of the request makes no sense.
    #[error("`{field}` is {value}, but must be {expected}")]
    InvalidRequest {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        expected: String,
    },
    /// A score of an image and a text is not finite: their features are not.
    #[error("a score of an image with a text is not finite: the network's patches or tokens have NaN or infinities")]
    NonFiniteScore,
    /// Reading a sample failed.
    #[error("a sample could not be read")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no sample at all.
    #[error("there is no image to evaluate on")]
    NoImages,
    /// No sample has what a task needs.
    #[error("{task} has nothing to evaluate: none of {n_images} images has {needs} (`{field}`)")]
    NoUsableSample {
        /// The task.
        task: Task,
        /// The field of [`sparc_core::EvalSample`] that is missing.
        field: &'static str,
        /// What the field would have to hold.
        needs: &'static str,
        /// Images seen.
        n_images: usize,
    },
    /// The network's features of a sample are NaN, infinite, or too large to be normalised.
    #[error("sample `{key}`: the {what} is not finite")]
    NonFinite {
        /// Key of the sample.
        key: String,
        /// Which features.
        what: String,
    },
    /// The network's embedding of a class prompt is NaN, infinite, or too large to be normalised.
    #[error("the embedding of the class prompt `{prompt}` is not finite")]
    NonFinitePrompt {
        /// The prompt.
        prompt: String,
    },
    /// A sample's image is not what the network takes.
    #[error("sample `{key}`: the image has shape {found:?}, but the network takes {expected:?}")]
    ImageShape {
        /// Key of the sample.
        key: String,
        /// Its shape.
        found: Vec<i64>,
        /// Channels, height, width.
        expected: [i64; 3],
    },
    /// A sample's class index has no name.
    #[error("sample `{key}`: class {class} is not in the list of {n_classes} classes")]
    UnknownClass {
        /// Key of the sample.
        key: String,
        /// Its class.
        class: usize,
        /// Length of the class list.
        n_classes: usize,
    },
    /// A label of a sample's label map has no name.
    #[error("sample `{key}`: label {label} is not in the list of segmentation classes")]
    UnknownLabel {
        /// Key of the sample.
        key: String,
        /// The label.
        label: u8,
    },
    /// A label map does not hold what its size says.
    #[error("sample `{key}`: the label map of {height} x {width} pixels holds {found} labels")]
    LabelMapSize {
        /// Key of the sample.
        key: String,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Labels.
        found: usize,
    },
}
