//! Captions to score, checked and tokenised.

use std::collections::BTreeMap;

use super::ptb_tokenize;

/// What to do with captions that hold no word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyCaptions {
    /// They are errors.
    Refuse,
    /// They are scored as they are, as pycocoevalcap does. An empty hypothesis scores 0, unless a reference
    /// is empty too.
    Score,
}

/// Why captions cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaptionError {
    /// There is no image.
    #[error("there is no caption to score")]
    NoImages,
    /// Two hypotheses have the same id.
    #[error("image `{id}` has more than one caption to score")]
    DuplicateHypothesis {
        /// The image.
        id: String,
    },
    /// Two lists of references have the same id.
    #[error("image `{id}` has more than one list of references")]
    DuplicateReferences {
        /// The image.
        id: String,
    },
    /// References without a hypothesis.
    #[error("image `{id}` has references, but no caption to score")]
    MissingHypothesis {
        /// The image.
        id: String,
    },
    /// A hypothesis without references.
    #[error("image `{id}` has a caption to score, but no references")]
    MissingReferences {
        /// The image.
        id: String,
    },
    /// A hypothesis without a word.
    #[error("the caption to score of image `{id}` has no words: {caption:?}")]
    EmptyHypothesis {
        /// The image.
        id: String,
        /// The caption as written.
        caption: String,
    },
    /// A reference without a word.
    #[error("reference {index} of image `{id}` has no words: {caption:?}")]
    EmptyReference {
        /// The image.
        id: String,
        /// Which reference, from 0.
        index: usize,
        /// The caption as written.
        caption: String,
    },
}

/// One image's captions as tokens, joined by spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedImage {
    /// The image.
    pub id: String,
    /// The caption to score.
    pub hypothesis: String,
    /// What people wrote; at least one.
    pub references: Vec<String>,
}

/// Captions of a test set: each image has one hypothesis and at least one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionCorpus {
    images: Vec<TokenizedImage>,
}

impl CaptionCorpus {
    /// Tokenises and pairs captions, in the order of the references.
    ///
    /// # Errors
    ///
    /// If there is no image, an id occurs twice or on one side only, or a caption that may not be is empty.
    pub fn new<H, R>(hypotheses: H, references: R, empty: EmptyCaptions) -> Result<CaptionCorpus, CaptionError>
    where
        H: IntoIterator<Item = (String, String)>,
        R: IntoIterator<Item = (String, Vec<String>)>,
    {
        let mut by_id = BTreeMap::new();
        for (id, caption) in hypotheses {
            if by_id.contains_key(&id) {
                return Err(CaptionError::DuplicateHypothesis { id });
            }
            by_id.insert(id, Some(caption));
        }
        let mut images = Vec::with_capacity(by_id.len());
        for (id, captions) in references {
            let caption = match by_id.get_mut(&id) {
                None => return Err(CaptionError::MissingHypothesis { id }),
                Some(caption) => match caption.take() {
                    None => return Err(CaptionError::DuplicateReferences { id }),
                    Some(caption) => caption,
                },
            };
            images.push(tokenize(id, caption, captions, empty)?);
        }
        if let Some((id, _)) = by_id.into_iter().find(|(_, caption)| caption.is_some()) {
            return Err(CaptionError::MissingReferences { id });
        }
        if images.is_empty() { Err(CaptionError::NoImages) } else { Ok(CaptionCorpus { images }) }
    }

    /// The images, in order; at least one.
    pub fn images(&self) -> &[TokenizedImage] {
        &self.images
    }
}

fn tokenize(
    id: String,
    caption: String,
    captions: Vec<String>,
    empty: EmptyCaptions,
) -> Result<TokenizedImage, CaptionError> {
    if captions.is_empty() {
        return Err(CaptionError::MissingReferences { id });
    }
    let hypothesis = ptb_tokenize(&caption);
    if hypothesis.is_empty() && empty == EmptyCaptions::Refuse {
        return Err(CaptionError::EmptyHypothesis { id, caption });
    }
    let mut references = Vec::with_capacity(captions.len());
    for (index, caption) in captions.into_iter().enumerate() {
        let reference = ptb_tokenize(&caption);
        if reference.is_empty() && empty == EmptyCaptions::Refuse {
            return Err(CaptionError::EmptyReference { id, index, caption });
        }
        references.push(reference);
    }
    Ok(TokenizedImage { id, hypothesis, references })
}
