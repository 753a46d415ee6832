//! One annotated image, as evaluation sees it.

use tch::Tensor;

/// A box with the phrase that describes what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// `x0, y0, x1, y1` in `[0, 1]` of the network input, x right, y down.
    pub box_xyxy: [f32; 4],
    /// What the box holds.
    pub text: String,
}

/// A region with one true description and wrong ones that differ from it by more and more (FG-OVD, Bianchi et al.
/// 2024).
#[derive(Debug, Clone, PartialEq)]
pub struct FineRegion {
    /// The box with its true description.
    pub region: Region,
    /// One attribute is wrong.
    pub hard: Vec<String>,
    /// Two attributes are wrong.
    pub medium: Vec<String>,
    /// Three attributes are wrong.
    pub easy: Vec<String>,
    /// Another object is described.
    pub trivial: Vec<String>,
}

impl FineRegion {
    /// The wrong descriptions, from hard to trivial; a level may have none.
    pub fn levels(&self) -> [&[String]; 4] {
        [&self.hard, &self.medium, &self.easy, &self.trivial]
    }
}

/// A caption that is true of the image, with others nearly like it that are not (SugarCrepe, ARO, VALSE's foils).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardNegative {
    /// The benchmark, or the part of it, that the case belongs to.
    pub source: String,
    /// The true caption.
    pub caption: String,
    /// The false ones, at least one, none like the true one.
    pub negatives: Vec<String>,
}

/// A sentence that is true or false of the image (VSR).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The benchmark, or the part of it, that the statement belongs to.
    pub source: String,
    /// The sentence.
    pub text: String,
    /// Whether it is true.
    pub is_true: bool,
}

/// One half of an item of two images with two captions (Winoground); the other half is with the other image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionPair {
    /// The benchmark, or the part of it, that the item belongs to.
    pub source: String,
    /// Name of the item, unique in its source: both halves have it.
    pub item: String,
    /// The caption of this image.
    pub caption: String,
    /// The caption of the other image.
    pub other: String,
}

/// A question about the image with the answers of people, or with several that are right together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The question.
    pub question: String,
    /// Its answers, at least one; equal ones may be among them.
    pub answers: Vec<String>,
}

/// A semantic label for every pixel; it covers exactly the frame of the network input, at a
/// resolution of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Labels in row-major order; [`LabelMap::IGNORE`] marks pixels that do not count.
    pub labels: Vec<u8>,
}

impl LabelMap {
    /// The label of pixels that take no part in evaluation.
    pub const IGNORE: u8 = 255;
}

/// One image with whatever annotations its record has.
#[derive(Debug)]
pub struct EvalSample {
    /// Key of the sample in its shard.
    pub key: String,
    /// Normalised network input, `[3, H, W]`, `f32`.
    pub image_chw: Tensor,
    /// The same pixels before normalisation, RGB bytes, `H * W * 3`, to be shown to a reader.
    pub pixels: Vec<u8>,
    /// All captions, possibly none.
    pub captions: Vec<String>,
    /// Regions; `None` means not annotated, an empty list means annotated and none there.
    pub regions: Option<Vec<Region>>,
    /// Regions whose description is to be chosen among others, possibly none.
    pub fine_regions: Vec<FineRegion>,
    /// True captions with false ones, possibly none.
    pub hard_negatives: Vec<HardNegative>,
    /// Sentences that are true or false, possibly none.
    pub statements: Vec<Statement>,
    /// Halves of items of two images with two captions, possibly none.
    pub caption_pairs: Vec<CaptionPair>,
    /// Questions with their answers, possibly none.
    pub questions: Vec<Question>,
    /// Class index.
    pub class: Option<usize>,
    /// Semantic labels.
    pub segmentation: Option<LabelMap>,
}
