//! Shapes: an embedded data set with known answers.
//!
//! Scenes of one to four objects, each of a shape, a colour, a size and a texture, with captions, regions,
//! class and instance maps and hard negatives. Sample i of a split is a pure function of seed, split and
//! i, whatever else is drawn. Which colour goes with which shape is drawn independently, so a red circle
//! beside a blue square is as frequent as a blue circle beside a red square and no bag of words tells the
//! two apart. A fifth of the (colour, shape) pairs never occurs in training, neither drawn nor said.
//!
//! | module | does |
//! |---|---|
//! | `attributes`, `holdout` | the closed sets, the classes, the held-out pairs |
//! | `scene` | what is where |
//! | `outline`, `render` | pixels, maps, boxes |
//! | `statement`, `wording`, `captions`, `negatives` | claims, their truth, their English |
//! | `parse`, `judge` | English back to claims, and whether they hold |
//! | `record`, `metadata`, `write` | samples, the files beside the shards, the shards |

mod attributes;
mod captions;
mod holdout;
mod judge;
mod metadata;
mod negatives;
mod outline;
mod parse;
mod record;
mod render;
mod scene;
mod statement;
mod wording;
mod write;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use attributes::{
    BackgroundKind, Color, N_CLASSES, Pair, Shape, Size, Texture, Tone, class_index, class_name, class_pair,
};
pub use captions::{Annotation, HardNegative, describe};
pub use holdout::{N_HELD_OUT, held_out_pairs};
pub use judge::{Judge, Tally, Verdict};
pub use metadata::is_complete;
pub use render::{Rendered, render};
pub use scene::{Background, MAX_OBJECTS, Object, Scene, Split, scene};
pub use write::{ShapesSummary, write_shapes};

use crate::shard_writer;

/// Sizes of image in pixels: below, objects lose their pixels; above, JPEG's own limit is near.
const IMAGE_SIZES: std::ops::RangeInclusive<usize> = 32..=16_384;

/// What determines every byte of the data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapesConfig {
    /// Seed of all that is random.
    pub seed: u64,
    /// Width and height of the images in pixels.
    pub image_size: usize,
    /// Number of training samples.
    pub train: usize,
    /// Number of validation samples.
    pub val: usize,
    /// Number of test samples.
    pub test: usize,
    /// Most samples in one shard.
    pub samples_per_shard: usize,
}

impl ShapesConfig {
    /// Number of samples in a split.
    pub fn n_samples_of(&self, split: Split) -> usize {
        match split {
            Split::Train => self.train,
            Split::Val => self.val,
            Split::Test => self.test,
        }
    }

    /// Number of samples in all splits.
    pub fn n_samples(&self) -> usize {
        Split::ALL.iter().map(|&split| self.n_samples_of(split)).sum()
    }

    fn check(&self) -> Result<(), Error> {
        let problem = if !IMAGE_SIZES.contains(&self.image_size) {
            let (least, most) = (IMAGE_SIZES.start(), IMAGE_SIZES.end());
            format!("image_size is {}, not between {least} and {most}", self.image_size)
        } else if self.samples_per_shard == 0 {
            "samples_per_shard is 0".to_owned()
        } else if self.n_samples() == 0 {
            "train, val and test are all 0".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Config { problem })
    }
}

/// Why the data set could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error("invalid configuration of shapes: {problem}")]
    Config {
        /// What is wrong, in words.
        problem: String,
    },
    /// The folder holds shards that were not written by this module.
    #[error("{} is in the way: it belongs to another data set, choose an empty folder", path.display())]
    ForeignShard {
        /// One of them.
        path: PathBuf,
    },
    /// The folder or a file of an earlier run cannot be handled.
    #[error("cannot prepare {}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A picture could not be encoded.
    #[error("cannot encode sample {key:?}")]
    Encode {
        /// Key of the sample.
        key: String,
        /// What the encoder says.
        #[source]
        source: image::ImageError,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] shard_writer::Error),
}
