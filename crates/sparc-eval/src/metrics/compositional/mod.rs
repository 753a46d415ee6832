//! Does a network hear what a sentence says, beyond its words?
//!
//! Three kinds of questions: the true caption among [`hard_negatives`](HardNegatives) (ARO, SugarCrepe, VALSE's
//! foils), single [`Statements`] that are true or false of an image (VALSE's detection, VSR), and
//! [`Winoground`]'s two images with two captions of the same words. [`bootstrap()`](crate::metrics::bootstrap()) says how
//! far a number over a few hundred of them can be trusted.

mod hard_negatives;
mod statements;
mod winoground;

pub use hard_negatives::{HardNegatives, SourceAccuracy};
pub use statements::{StatementAccuracy, Statements};
pub use winoground::{Winoground, WinogroundScores};
