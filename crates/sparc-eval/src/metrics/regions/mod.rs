//! Regions with given boxes: what is in them, which phrase is theirs, and where a phrase's box is.
//!
//! The protocols are those of CLOC (Chen et al. 2024, arXiv:2410.02746, section 5.2 and appendix B.2), of
//! referring-expression comprehension and of FG-OVD (Bianchi et al. 2024); the region features may come from
//! [`super::boxes::roi_align_mean`] or from anywhere else. Ties are resolved by expectation (see
//! [`crate::metrics`]).

mod box_grounding;
mod phrase_choice;
mod recognition;
mod retrieval;

pub use box_grounding::{BoxGrounding, box_grounding};
pub use phrase_choice::{ChoiceCounts, Difficulty, PhraseChoice};
pub use recognition::{RegionRecognition, region_recognition};
pub use retrieval::{Match, region_retrieval_ranks};
