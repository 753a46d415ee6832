//! One raw sample to what a batch needs: decoded, cropped, tokenised.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sparc_core::seed;

use crate::decode::{DecodedImage, EncodedImage, ImageError, Reduction};
use crate::pixels::normalize;
use crate::record::{RecordJson, RegionRecord};
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};
use crate::tokenizer::{TextTokenizer, TokenizedText};
use crate::transform::{Augmentation, Frame, ResizeMode, survives_mirroring};

/// Which of several captions a training sample gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptionChoice {
    /// The first.
    First,
    /// One drawn anew each epoch.
    Random,
}

/// How samples are prepared for training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preparation {
    /// Side of the square network input in pixels.
    pub image_size: u32,
    /// How images become squares.
    pub resize: ResizeMode,
    /// Randomness.
    pub augmentation: Augmentation,
    /// Whether JPEGs much larger than the frame are decoded at a fraction of their size: faster, and
    /// other pixels.
    pub dct_scaling: bool,
    /// Which caption.
    pub captions: CaptionChoice,
    /// Most regions of a sample; 0 leaves them unread.
    pub max_regions: usize,
    /// Seed of everything random here, together with epoch and key.
    pub seed: u64,
}

/// A sample ready to be put into a batch.
#[derive(Debug, Clone)]
pub struct PreparedSample {
    /// Key in its shard.
    pub key: String,
    /// Normalised channels, `3·H·W`.
    pub image: Vec<f32>,
    /// The caption.
    pub text: TokenizedText,
    /// Boxes in the network's frame with their phrases.
    pub regions: Vec<([f32; 4], TokenizedText)>,
}

/// Share of a region's box that must be inside the frame for the region to count.
pub(crate) const MIN_VISIBLE: f32 = 0.25;

/// Decodes, crops and tokenises. `skips` takes the parts that were left out.
///
/// # Errors
///
/// Why the whole sample is left out.
pub fn prepare(
    sample: &RawSample,
    epoch: u64,
    preparation: &Preparation,
    tokenizer: &TextTokenizer,
    skips: &mut Vec<Skip>,
) -> Result<PreparedSample, Skip> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed::derive(
        preparation.seed,
        &[b"sample", &epoch.to_le_bytes(), sample.key.as_bytes()],
    ));
    let record = read_record(sample)?;
    let captions = read_captions(sample, &record)?;
    let caption = match preparation.captions {
        CaptionChoice::First => captions.first(),
        CaptionChoice::Random => captions.get(generator.random_range(0..captions.len().max(1))),
    };
    let caption = caption.ok_or_else(|| sample.skip(SkipReason::NoCaption, "neither .txt nor .json has a caption"))?;

    let image = open_image(sample)?;
    let regions = match preparation.max_regions {
        0 => Vec::new(),
        _ => valid_regions(sample, record.regions.unwrap_or_default(), skips),
    };
    let may_flip = survives_mirroring(caption) && regions.iter().all(|region| survives_mirroring(&region.text));
    let Preparation { image_size, resize, augmentation, .. } = preparation;
    let frame = Frame::random(image.encoded.size(), *image_size, *resize, augmentation, may_flip, &mut generator);
    let geometry = frame.geometry();
    let pixels =
        frame.render(&image.decode(if preparation.dct_scaling { frame.reduction() } else { Reduction::None })?);
    let mut regions: Vec<_> = regions
        .into_iter()
        .filter_map(|region| Some((geometry.map_box(region.box_xyxy, MIN_VISIBLE)?, region.text)))
        .collect();
    // A random subset, when there are too many: the first M of a partial Fisher-Yates shuffle.
    for place in 0..preparation.max_regions.min(regions.len()) {
        let other = generator.random_range(place..regions.len());
        regions.swap(place, other);
    }
    regions.truncate(preparation.max_regions);
    let tokenize = |text: &str| tokenizer.encode(text).map_err(|error| sample.skip(SkipReason::Tokenize, error));
    Ok(PreparedSample {
        key: sample.key.clone(),
        image: normalize(&pixels),
        text: tokenize(caption)?,
        regions: regions
            .into_iter()
            .map(|(frame_box, text)| Ok((frame_box, tokenize(&text)?)))
            .collect::<Result<_, Skip>>()?,
    })
}

/// The `.json` member, or an empty record if there is none.
pub(crate) fn read_record(sample: &RawSample) -> Result<RecordJson, Skip> {
    let Some(bytes) = sample.members.get("json") else {
        return Ok(RecordJson::default());
    };
    serde_json::from_slice(bytes).map_err(|error| {
        let reason = if std::str::from_utf8(bytes).is_err() { SkipReason::CaptionNotUtf8 } else { SkipReason::BadJson };
        sample.skip(reason, format!("the .json member: {error}"))
    })
}

/// Captions of `.txt`, one a line, or else of `.json`; blank ones are left out.
pub(crate) fn read_captions(sample: &RawSample, record: &RecordJson) -> Result<Vec<String>, Skip> {
    let filled = |caption: &&str| !caption.is_empty();
    match sample.members.get("txt") {
        Some(bytes) => {
            let text = std::str::from_utf8(bytes)
                .map_err(|error| sample.skip(SkipReason::CaptionNotUtf8, format!("the .txt member: {error}")))?;
            Ok(text.lines().map(str::trim).filter(filled).map(ToOwned::to_owned).collect())
        }
        None => Ok(record.captions.iter().map(|c| c.trim()).filter(filled).map(ToOwned::to_owned).collect()),
    }
}

/// The image member with its header read.
pub(crate) struct ImageMember<'a> {
    sample: &'a RawSample,
    extension: &'static str,
    pub(crate) encoded: EncodedImage<'a>,
}

/// Finds the image member and reads its header.
pub(crate) fn open_image(sample: &RawSample) -> Result<ImageMember<'_>, Skip> {
    let (extension, bytes) = ["jpg", "jpeg", "png", "webp"]
        .into_iter()
        .find_map(|extension| sample.members.get(extension).map(|bytes| (extension, bytes)))
        .ok_or_else(|| sample.skip(SkipReason::NoImage, "no .jpg, .jpeg, .png or .webp member"))?;
    let encoded = EncodedImage::open(bytes).map_err(|error| unusable_image(sample, extension, &error))?;
    Ok(ImageMember { sample, extension, encoded })
}

impl ImageMember<'_> {
    /// The upright pixels.
    pub(crate) fn decode(self, reduction: Reduction) -> Result<DecodedImage, Skip> {
        self.encoded.decode(reduction).map_err(|error| unusable_image(self.sample, self.extension, &error))
    }
}

fn unusable_image(sample: &RawSample, extension: &str, error: &ImageError) -> Skip {
    let reason = match error {
        ImageError::Size { .. } => SkipReason::ImageSize,
        ImageError::Empty | ImageError::NotLabels(_) | ImageError::Broken(_) => SkipReason::ImageDecode,
    };
    sample.skip(reason, format!("the .{extension} member: {error}"))
}

/// Regions with a phrase and a box inside the image; the others are reported.
pub(crate) fn valid_regions(
    sample: &RawSample,
    regions: Vec<RegionRecord>,
    skips: &mut Vec<Skip>,
) -> Vec<RegionRecord> {
    regions
        .into_iter()
        .filter(|region| {
            if !region.is_inside() {
                let detail = format!("the box {:?} of \"{}\"", region.box_xyxy, region.text);
                skips.push(sample.skip(SkipReason::BoxOutsideImage, detail));
            } else if region.text.trim().is_empty() {
                skips.push(sample.skip(SkipReason::EmptyPhrase, format!("the box {:?}", region.box_xyxy)));
            } else {
                return true;
            }
            false
        })
        .collect()
}
