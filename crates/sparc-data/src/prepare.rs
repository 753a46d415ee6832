//! One raw sample to what a batch needs: decoded, cropped, tokenised.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sparc_core::seed;

use crate::decode::{DecodedImage, EncodedImage, ImageError, Reduction};
use crate::record::RecordJson;
use crate::regions::{PreparedRegion, RegionSettings, caption_of, draw_regions, valid_regions, visible_regions};
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};
use crate::stages::{Stage, StageTimes};
use crate::targets::{PreparedTarget, TargetSpec};
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
    /// All of them, and one drawn anew each epoch as the sample's own.
    All,
}

/// How samples are prepared for training.
#[derive(Debug, Clone, PartialEq)]
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
    /// Regions; `None` leaves them unread.
    pub regions: Option<RegionSettings>,
    /// What is read in place of captions, to fine-tune a head; `None` reads captions.
    pub targets: Option<TargetSpec>,
    /// Seed of everything random here, together with epoch and key.
    pub seed: u64,
}

/// A sample ready to be put into a batch.
#[derive(Debug, Clone)]
pub struct PreparedSample {
    /// Key in its shard.
    pub key: String,
    /// A hash of the stored image: another caption of it has the same.
    pub image_id: i64,
    /// RGB bytes of the network input, `H·W·3`, row by row. The collator normalises them and leaves them empty: until then
    /// they take a quarter of the memory.
    pub pixels: Vec<u8>,
    /// The caption.
    pub text: TokenizedText,
    /// All captions, if they were asked for.
    pub captions: Vec<TokenizedText>,
    /// Regions, if they were asked for.
    pub regions: Vec<PreparedRegion>,
    /// What a head is to say, if it was asked for. The text is a question with its answer then, or empty.
    pub target: Option<PreparedTarget>,
}

/// What turns captions and region phrases into tokens; they differ in context length.
#[derive(Clone)]
pub struct Tokenizers {
    /// Of captions.
    pub captions: TextTokenizer,
    /// Of region phrases.
    pub phrases: TextTokenizer,
}

impl Tokenizers {
    /// From the tokenizer of captions.
    ///
    /// # Errors
    ///
    /// A context length of phrases without room for a piece of text.
    pub fn new(captions: TextTokenizer, regions: Option<RegionSettings>) -> Result<Tokenizers, String> {
        let phrases = match regions {
            Some(regions) => captions.clone().with_context_length(regions.context_length)?,
            None => captions.clone(),
        };
        Ok(Tokenizers { captions, phrases })
    }
}

/// Most captions of a sample that [`CaptionChoice::All`] gives.
const MAX_CAPTIONS: usize = 64;

/// Decodes, crops and tokenises. What is random is drawn by seed, `occasion` (the epoch, for a sample that
/// comes once in it) and key. `skips` takes the parts that were left out, `stages` the time.
///
/// # Errors
///
/// Why the whole sample is left out.
pub fn prepare(
    sample: &RawSample,
    occasion: u64,
    preparation: &Preparation,
    tokenizers: &Tokenizers,
    skips: &mut Vec<Skip>,
    stages: &StageTimes,
) -> Result<PreparedSample, Skip> {
    let Preparation { image_size, resize, augmentation, .. } = preparation;
    let mut generator = ChaCha8Rng::seed_from_u64(seed::derive(
        preparation.seed,
        &[b"sample", &occasion.to_le_bytes(), sample.key.as_bytes()],
    ));
    let record = read_record(sample)?;
    let targets = preparation.targets.as_ref();
    let drawn = targets.map(|targets| targets.draw(sample, occasion, preparation.seed, skips)).transpose()?;
    let mut captions = match &drawn {
        Some(drawn) => vec![drawn.words.clone()],
        None => read_captions(sample, &record)?,
    };
    let regions = match preparation.regions {
        None => Vec::new(),
        Some(_) => valid_regions(sample, record.regions.unwrap_or_default(), skips),
    };
    if captions.is_empty() && preparation.regions.is_some_and(|settings| settings.caption_from_phrases) {
        captions.extend(caption_of(&regions, &mut generator));
    }
    if captions.is_empty() {
        return Err(sample.skip(SkipReason::NoCaption, "neither .txt nor .json has a caption"));
    }
    let own = match preparation.captions {
        CaptionChoice::First => 0,
        CaptionChoice::Random | CaptionChoice::All => generator.random_range(0..captions.len()),
    };
    let caption = captions[own].clone();
    captions.truncate(if preparation.captions == CaptionChoice::All { MAX_CAPTIONS } else { 0 });

    let image = open_image(sample)?;
    let may_flip = std::iter::once(&caption)
        .chain(&captions)
        .chain(regions.iter().map(|region| &region.text))
        .all(|text| survives_mirroring(text));
    let frame = Frame::random(image.encoded.size(), *image_size, *resize, augmentation, may_flip, &mut generator);
    let reduction = if preparation.dct_scaling { frame.reduction() } else { Reduction::None };
    let image_id = hash_of(image.bytes());
    let pixels = image.render(&frame, reduction, stages)?;

    let regions = visible_regions(sample, regions, &frame.geometry(), skips);
    let max = preparation.regions.map_or(0, |settings| settings.max);
    let regions = draw_regions(regions, max, preparation.seed, occasion, &sample.key);
    let tokenize = |tokenizer: &TextTokenizer, text: &str| {
        let encoded = stages.time(Stage::Tokenise, || tokenizer.encode(text));
        encoded.map_err(|error| sample.skip(SkipReason::Tokenize, error))
    };
    let (text, question_length) = match drawn.as_ref().and_then(|drawn| drawn.question.as_ref()) {
        Some((question, answer)) => stages
            .time(Stage::Tokenise, || tokenizers.captions.encode_answered(question, answer))
            .map_err(|error| sample.skip(SkipReason::Tokenize, error))?,
        None => (tokenize(&tokenizers.captions, &caption)?, 0),
    };
    Ok(PreparedSample {
        key: sample.key.clone(),
        image_id,
        pixels,
        text,
        captions: captions
            .iter()
            .map(|caption| tokenize(&tokenizers.captions, caption))
            .collect::<Result<_, Skip>>()?,
        regions: regions
            .into_iter()
            .map(|(box_xyxy, text)| Ok(PreparedRegion { box_xyxy, phrase: tokenize(&tokenizers.phrases, &text)? }))
            .collect::<Result<_, Skip>>()?,
        target: drawn.map(|drawn| PreparedTarget { shares: drawn.shares, question_length }),
    })
}

/// The same number for the same bytes, wherever and whenever they are read: queues in checkpoints hold it.
fn hash_of(bytes: &[u8]) -> i64 {
    // Images are long: eight bytes at a time, as rustc's hasher mixes them, and four such hashes side by side, for each
    // step waits for the one before.
    const SIDE_BY_SIDE: usize = 4;
    let (blocks, rest) = bytes.as_chunks::<{ 8 * SIDE_BY_SIDE }>();
    let mut last = [0; 8 * SIDE_BY_SIDE];
    last[..rest.len()].copy_from_slice(rest);
    let mut hashes = [bytes.len() as u64; SIDE_BY_SIDE];
    for block in blocks.iter().chain((!rest.is_empty()).then_some(&last)) {
        for (hash, word) in hashes.iter_mut().zip(block.as_chunks().0) {
            *hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
    let [first, second, third, fourth] = hashes.map(u64::to_le_bytes);
    seed::derive(0, &[b"image", &first, &second, &third, &fourth]).cast_signed()
}

/// The `.json` member, or an empty record if there is none.
pub(crate) fn read_record(sample: &RawSample) -> Result<RecordJson, Skip> {
    let Some(bytes) = sample.members.get("json") else {
        return Ok(RecordJson::default());
    };
    RecordJson::parse(bytes).map_err(|error| {
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
    pub(crate) extension: &'static str,
    bytes: &'a [u8],
    pub(crate) encoded: EncodedImage<'a>,
}

/// Finds the image member and reads its header.
pub(crate) fn open_image(sample: &RawSample) -> Result<ImageMember<'_>, Skip> {
    let (extension, bytes) = ["jpg", "jpeg", "png", "webp"]
        .into_iter()
        .find_map(|extension| sample.members.get(extension).map(|bytes| (extension, bytes)))
        .ok_or_else(|| sample.skip(SkipReason::NoImage, "no .jpg, .jpeg, .png or .webp member"))?;
    let encoded = EncodedImage::open(bytes).map_err(|error| unusable_image(sample, extension, &error))?;
    Ok(ImageMember { sample, extension, bytes, encoded })
}

impl<'a> ImageMember<'a> {
    /// The member as stored.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What a frame shows of it.
    pub(crate) fn render(self, frame: &Frame, reduction: Reduction, stages: &StageTimes) -> Result<Vec<u8>, Skip> {
        let ImageMember { sample, extension, encoded, .. } = self;
        encoded.render(frame, reduction, stages).map_err(|error| unusable_image(sample, extension, &error))
    }

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hashes_stay_what_they_are() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        assert_eq!([hash_of(b""), hash_of(&bytes)], [-8_719_244_945_256_391_487, -4_519_153_791_123_612_395]);
    }

    #[test]
    fn other_bytes_have_another_hash() {
        for length in [0, 1, 7, 8, 31, 32, 33, 64, 100] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut hashes = BTreeSet::from([hash_of(&bytes), hash_of(&[&bytes[..], &[0]].concat())]);
            for place in 0..length {
                let mut other = bytes.clone();
                other[place] ^= 0x10;
                hashes.insert(hash_of(&other));
            }
            assert_eq!(hashes.len(), length + 2);
        }
        // Blocks that change places.
        let (first, second) = ([1u8; 32], [2u8; 32]);
        assert_ne!(hash_of(&[first, second].concat()), hash_of(&[second, first].concat()));
        assert_ne!(hash_of(&[[1u8; 8], [2; 8]].concat()), hash_of(&[[2u8; 8], [1; 8]].concat()));
    }
}
