//! What was left out of the data, and why: counted by reason, the first few logged with their keys.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Error;

/// Why a sample, or a part of one, was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// No `.jpg`, `.jpeg`, `.png` or `.webp` member.
    NoImage,
    /// The image could not be decoded or is empty.
    ImageDecode,
    /// The image has no pixels, or more than are decoded.
    ImageSize,
    /// Neither `.txt` nor `.json` has a caption.
    NoCaption,
    /// The caption is not UTF-8.
    CaptionNotUtf8,
    /// The `.json` member is not a record.
    BadJson,
    /// A region's box has a coordinate that is no number: only the region is left out.
    BoxNotFinite,
    /// A region's box has no area: only the region is left out.
    BoxEmpty,
    /// A region's box reaches outside the image: only the region is left out.
    BoxOutsideImage,
    /// A region without a phrase: only the region is left out.
    EmptyPhrase,
    /// Too little of a region is inside the frame after crops and the like: only the region is left
    /// out. It is no fault of the data, so it is counted and not logged.
    RegionOutOfFrame,
    /// Two members of a sample have the same name: the first counts.
    DuplicateMember,
    /// An earlier sample has the same key. The loader takes both; tools that write or check shards say so.
    DuplicateKey,
    /// A member is larger than is read: only the member is left out.
    MemberTooLarge,
    /// The label map or class index cannot be read: only that annotation is left out.
    BadLabel,
    /// An entry of `hard_negatives`, `statements`, `caption_pairs` or `qa` that is none: only that entry is left out.
    BadClaim,
    /// A question none of whose answers is in the list of answers: only that question is left out. It is no fault
    /// of the data, so it is counted and not logged.
    UnlistedAnswer,
    /// No question with an answer of the list, where a head is fine-tuned to answer.
    NoQuestion,
    /// No class, where a head is fine-tuned to tell it.
    NoClass,
    /// A class beyond the list of classes: training ends with it.
    UnknownClass,
    /// The tokenizer's vocabulary cannot express the text.
    Tokenize,
    /// The shard ends in the middle: the rest of it is missing.
    ShardCutOff,
    /// A row of a table names a file that cannot be read, or is no row.
    FileUnreadable,
    /// A disk, server or command gave no more, after all retries. It is no fault of the data: training and
    /// evaluation end with it instead of going on with less.
    ReadFailed,
}

impl SkipReason {
    /// Whether the whole sample is lost, not only a part of it.
    pub fn drops_sample(self) -> bool {
        !matches!(
            self,
            SkipReason::BoxNotFinite
                | SkipReason::BoxEmpty
                | SkipReason::BoxOutsideImage
                | SkipReason::EmptyPhrase
                | SkipReason::RegionOutOfFrame
                | SkipReason::DuplicateMember
                | SkipReason::MemberTooLarge
                | SkipReason::BadLabel
                | SkipReason::BadClaim
                | SkipReason::UnlistedAnswer
        )
    }

    /// Whether something is wrong with the data, worth a line in the log.
    pub fn is_a_fault(self) -> bool {
        !matches!(self, SkipReason::RegionOutOfFrame | SkipReason::UnlistedAnswer)
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::NoImage => "no_image",
            SkipReason::ImageDecode => "image_decode",
            SkipReason::ImageSize => "image_size",
            SkipReason::NoCaption => "no_caption",
            SkipReason::CaptionNotUtf8 => "caption_not_utf8",
            SkipReason::BadJson => "bad_json",
            SkipReason::BoxNotFinite => "box_not_finite",
            SkipReason::BoxEmpty => "box_empty",
            SkipReason::BoxOutsideImage => "box_outside_image",
            SkipReason::EmptyPhrase => "empty_phrase",
            SkipReason::RegionOutOfFrame => "region_out_of_frame",
            SkipReason::DuplicateMember => "duplicate_member",
            SkipReason::DuplicateKey => "duplicate_key",
            SkipReason::MemberTooLarge => "member_too_large",
            SkipReason::BadLabel => "bad_label",
            SkipReason::BadClaim => "bad_claim",
            SkipReason::UnlistedAnswer => "unlisted_answer",
            SkipReason::NoQuestion => "no_question",
            SkipReason::NoClass => "no_class",
            SkipReason::UnknownClass => "unknown_class",
            SkipReason::Tokenize => "tokenize",
            SkipReason::ShardCutOff => "shard_cut_off",
            SkipReason::FileUnreadable => "file_unreadable",
            SkipReason::ReadFailed => "read_failed",
        })
    }
}

/// One thing that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Why.
    pub reason: SkipReason,
    /// The shard's path.
    pub shard: String,
    /// The sample's key; empty if the shard itself is at fault.
    pub key: String,
    /// What the decoder or parser said.
    pub detail: String,
}

impl Skip {
    /// The skip itself, unless nothing may be skipped for its reason.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] for [`SkipReason::ReadFailed`], [`Error::UnknownClass`] for [`SkipReason::UnknownClass`].
    pub fn or_fail(self) -> Result<Skip, Error> {
        match self.reason {
            SkipReason::ReadFailed => Err(Error::Read { shard: self.shard, reason: self.detail }),
            SkipReason::UnknownClass => {
                Err(Error::UnknownClass { shard: self.shard, key: self.key, reason: self.detail })
            }
            _ => Ok(self),
        }
    }
}

/// Counts by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkipCounts {
    counts: BTreeMap<SkipReason, u64>,
}

impl SkipCounts {
    /// How many skips of each reason are logged one by one.
    const LOGGED: u64 = 5;

    /// Counts a skip and logs it if it is among the first few of its kind.
    pub fn record(&mut self, skip: &Skip) {
        let count = self.counts.entry(skip.reason).or_default();
        *count += 1;
        if skip.reason.is_a_fault() && *count <= Self::LOGGED {
            let more = if *count == Self::LOGGED { " (more of these are only counted)" } else { "" };
            tracing::warn!("skipped {}: {} {}: {}{more}", skip.reason, skip.shard, skip.key, skip.detail);
        }
    }

    /// Samples lost as a whole.
    pub fn samples(&self) -> u64 {
        self.counts.iter().filter(|(reason, _)| reason.drops_sample()).map(|(_, count)| count).sum()
    }

    /// Reasons and counts, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (SkipReason, u64)> {
        self.counts.iter().map(|(&reason, &count)| (reason, count))
    }

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// `skipped{image_decode=3, no_caption=1}`.
impl fmt::Display for SkipCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("skipped{")?;
        for (index, (reason, count)) in self.iter().enumerate() {
            write!(f, "{}{reason}={count}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}
