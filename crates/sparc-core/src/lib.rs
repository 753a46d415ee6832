//! Vocabulary and objectives of sparc: pure functions of tensors.
//!
//! Here live the types that the other crates hand to each other ([`Batch`], [`ImageFeatures`],
//! [`TextFeatures`], [`LossTerms`], [`EvalSample`]), the two narrow traits through which evaluation
//! sees a network ([`Encoder`], [`Tokenize`]), and one file per objective under [`objectives`].
//!
//! Nothing in this crate reads files, clocks or the environment, starts threads, draws random
//! numbers or knows about ranks. Functions panic on shape bugs, with the numbers in the message.

pub mod answers;
mod batch;
mod contrast;
pub mod dictionary;
mod encoder;
mod features;
mod grad_cam;
mod loss_terms;
pub mod objectives;
mod pair_score;
mod sample;
#[cfg(test)]
mod sample_inputs;
pub mod seed;
pub mod tensor_math;

pub use batch::{Batch, CaptionBatch, RegionBatch, TargetBatch, TextBatch};
pub use contrast::Gathered;
pub use encoder::{
    Answer, AskedQuestion, Caption, Classify, Encoder, Matcher, PatchPath, RegionEncoder, TextEnds, Tokenize,
};
pub use features::{ImageFeatures, PatchGrid, TextFeatures};
pub use grad_cam::grad_cam;
pub use loss_terms::{LossTerm, LossTerms};
pub use pair_score::{PairScore, PairScores};
pub use sample::{CaptionPair, EvalSample, FineRegion, HardNegative, LabelMap, Question, Region, Statement};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
