//! Texts to token ids, with a Hugging Face `tokenizer.json`; and making one from captions.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sparc_core::objectives::albef::MaskingVocabulary;
use sparc_core::{TextBatch, TextEnds, Tokenize};
use tch::Tensor;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::normalizers::{Lowercase, NFKC, NormalizerWrapper, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TruncationParams};

use crate::error::Error;
use crate::plain_text::{PlainText, SPACE};

/// The padding token of tokenizers made here.
const PAD: &str = "[PAD]";
/// Names under which the padding token of other tokenizers is looked for, in this order.
const PAD_NAMES: [&str; 5] = [PAD, "<pad>", "<|endoftext|>", "</s>", "[SEP]"];
const UNKNOWN: &str = "[UNK]";
/// Names under which the unknown token of other tokenizers is looked for.
const UNKNOWN_NAMES: [&str; 2] = [UNKNOWN, "<unk>"];
/// The token that stands for a masked one in tokenizers made here.
const MASK: &str = "[MASK]";
/// Names under which that of other tokenizers is looked for.
const MASK_NAMES: [&str; 2] = [MASK, "<mask>"];
const BEGIN: &str = "[BOS]";
const END: &str = "[EOS]";

/// A tokenizer cut to a context length.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
    /// The shorter way, if the tokenizer has one.
    plain_text: Option<PlainText>,
    padding_id: u32,
    context_length: usize,
    fingerprint: String,
}

/// Token ids of one text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenizedText {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// True where the id is a piece of the text, not a special token.
    pub content: Vec<bool>,
}

impl TokenizedText {
    /// No token at all.
    pub const EMPTY: TokenizedText = TokenizedText { ids: Vec::new(), content: Vec::new() };
}

/// Characters of a text for each token of the context that are looked at. No word of a language has as
/// many for one token; without a bound a caption of a hundred megabytes keeps a thread busy for minutes.
const CHARACTERS_PER_TOKEN: usize = 256;

impl TextTokenizer {
    /// Reads a `tokenizer.json` and cuts texts to `context_length` tokens.
    ///
    /// # Errors
    ///
    /// A file that is missing or no tokenizer, or has no padding token.
    pub fn from_file(path: &Path, context_length: usize) -> Result<TextTokenizer, Error> {
        let bytes = std::fs::read(path).map_err(|reason| Error::Io { path: path.into(), reason })?;
        TextTokenizer::from_bytes(&bytes, context_length)
            .map_err(|reason| Error::Tokenizer { path: path.into(), reason })
    }

    fn from_bytes(bytes: &[u8], context_length: usize) -> Result<TextTokenizer, String> {
        // Parsed from a string and not from bytes: the library's generic readers would be compiled
        // into this crate, which takes a minute.
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not a text file: {error}"))?;
        let mut inner: tokenizers::Tokenizer =
            text.parse().map_err(|error| format!("not a Hugging Face tokenizer.json: {error}"))?;
        let padding_id = PAD_NAMES
            .iter()
            .find_map(|name| inner.token_to_id(name))
            .ok_or_else(|| format!("it has no padding token (looked for {})", PAD_NAMES.join(", ")))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        let plain_text = PlainText::new(&inner);
        let fingerprint = format!("{:016x}", sparc_core::seed::derive(0, &[b"tokenizer", bytes]));
        TextTokenizer { inner, plain_text, padding_id, context_length, fingerprint }.with_context_length(context_length)
    }

    /// The same tokenizer cutting texts to another number of tokens.
    ///
    /// # Errors
    ///
    /// A context without room for a piece of text.
    pub fn with_context_length(mut self, context_length: usize) -> Result<TextTokenizer, String> {
        let truncated = |max_length| Some(TruncationParams { max_length, ..TruncationParams::default() });
        let failed = |error| format!("cannot cut texts to {context_length} tokens: {error}");
        self.inner.with_truncation(None).map_err(failed)?;
        let n_special = self.inner.encode("", true).map_or(0, |encoding| encoding.len());
        if context_length <= n_special {
            return Err(format!(
                "it puts {n_special} special tokens around every text, which leaves no room in a context of {context_length}"
            ));
        }
        self.inner.with_truncation(truncated(context_length)).map_err(failed)?;
        Ok(TextTokenizer { context_length, ..self })
    }

    /// Number of token ids, added tokens included: one more than the largest, for ids may have holes.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// A hash of the file's bytes: a model belongs to exactly one tokenizer.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Tokenises one text.
    ///
    /// # Errors
    ///
    /// What the library said, which it only does of a broken vocabulary (no piece and no unknown token).
    pub fn encode(&self, text: &str) -> Result<TokenizedText, String> {
        let longest = self.context_length.saturating_mul(CHARACTERS_PER_TOKEN);
        let text = text.char_indices().nth(longest).map_or(text, |(end, _)| &text[..end]);
        let plain_text = self.plain_text.as_ref();
        match plain_text.and_then(|plain_text| plain_text.encode(&self.inner, text, self.context_length)) {
            Some(text) => Ok(text),
            None => self.encode_any(text),
        }
    }

    fn encode_any(&self, text: &str) -> Result<TokenizedText, String> {
        // Without the places of tokens in the text, which nobody asks for here.
        let encoding = self.inner.encode_fast(text, true).map_err(|error| error.to_string())?;
        Ok(TokenizedText {
            ids: encoding.get_ids().to_vec(),
            content: encoding.get_special_tokens_mask().iter().map(|&special| special == 0).collect(),
        })
    }

    /// A question, without what ends a text: an answer is to follow.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::encode`].
    pub fn encode_question(&self, question: &str) -> Result<TokenizedText, String> {
        let mut text = self.encode(question)?;
        let length = text.content.iter().rposition(|&is_content| is_content).map_or(1, |last| last + 1);
        text.ids.truncate(length);
        text.content.truncate(length);
        Ok(text)
    }

    /// A question followed by its answer, as one text, and how many of its tokens are the question, which are those
    /// of [`TextTokenizer::encode_question`] whatever the answer is. Where the context ends, the answer is cut, then
    /// the question.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::encode`].
    pub fn encode_answered(&self, question: &str, answer: &str) -> Result<(TokenizedText, usize), String> {
        let whole = self.encode(question)?;
        let mut text = self.encode_question(question)?;
        let question_length = text.ids.len();
        // What ends a text is behind its last piece.
        let end = whole.ids.get(question_length..).unwrap_or_default();
        let room = self.context_length.saturating_sub(question_length + end.len());
        // Byte-level vocabularies tell a word behind a space from one that begins a text.
        let answer = self.encode(&format!(" {answer}"))?;
        let pieces = answer.ids.iter().zip(&answer.content).filter(|(_, is_content)| **is_content);
        text.ids.extend(pieces.map(|(id, _)| *id).take(room));
        text.content.resize(text.ids.len(), true);
        text.ids.extend(end);
        text.content.resize(text.ids.len(), false);
        Ok((text, question_length))
    }

    /// As [`TextTokenizer::encode`], with an empty text and a warning instead of an error.
    fn encode_or_empty(&self, text: &str) -> TokenizedText {
        self.encode(text).unwrap_or_else(|error| {
            tracing::warn!("\"{text}\" could not be tokenised and counts as empty: {error}");
            TokenizedText::EMPTY
        })
    }

    /// The special tokens that texts are made between.
    ///
    /// # Errors
    ///
    /// A tokenizer that does not put one token before and one after every text: nothing would tell a decoder where to
    /// begin and to end.
    pub fn ends(&self) -> Result<TextEnds, String> {
        let empty = self.encode("")?;
        let [begin, end] = empty.ids[..] else {
            return Err(format!(
                "it puts {} special tokens around a text; a captioner needs one before and one after it",
                empty.ids.len()
            ));
        };
        let mut never: Vec<i64> = vec![i64::from(begin), i64::from(self.padding_id)];
        never.extend(UNKNOWN_NAMES.iter().filter_map(|name| self.inner.token_to_id(name)).map(i64::from));
        // CLIP's pads with the end token.
        never.retain(|&id| id != i64::from(end));
        never.sort_unstable();
        never.dedup();
        Ok(TextEnds { begin: i64::from(begin), end: i64::from(end), never })
    }

    /// The ids that masked language modelling needs.
    ///
    /// # Errors
    ///
    /// A tokenizer without a mask token, or that puts no token before a text: what stands for the whole text would be
    /// missing.
    pub fn masking(&self) -> Result<MaskingVocabulary, String> {
        let mask_id = MASK_NAMES.iter().find_map(|name| self.inner.token_to_id(name)).ok_or_else(|| {
            format!(
                "it has no mask token (looked for {}); make one with `sparc tokenizer train --mask-token`",
                MASK_NAMES.join(" and ")
            )
        })?;
        let a_word = self.encode("a")?;
        if a_word.content.first() != Some(&false) {
            return Err("it puts no special token before a text, which could stand for the whole of it".into());
        }
        // Special tokens come first; those elsewhere are drawn as rarely as any other.
        let added = self.inner.get_added_tokens_decoder();
        let is_special = |id: i64| added.get(&(id as u32)).is_some_and(|token| token.special);
        let n_ids = self.vocab_size() as i64;
        let first_id = (0..n_ids).find(|&id| !is_special(id)).ok_or("all of its tokens are special")?;
        Ok(MaskingVocabulary { mask_id: i64::from(mask_id), first_id, n_ids })
    }

    /// The text of token ids, special ones left out.
    ///
    /// # Errors
    ///
    /// What the library said.
    pub fn decode(&self, ids: &[i64]) -> Result<String, String> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner.decode(&ids, true).map(|text| text.trim().to_owned()).map_err(|error| error.to_string())
    }

    /// Pads texts to the longest of them (at least one position).
    pub fn pad(&self, texts: &[TokenizedText]) -> TextBatch {
        let length = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0).max(1);
        let size = [texts.len() as i64, length as i64];
        let mut ids = vec![i64::from(self.padding_id); texts.len() * length];
        let mut mask = vec![false; texts.len() * length];
        let mut content = mask.clone();
        for (row, text) in texts.iter().enumerate() {
            for (column, (&id, &is_content)) in text.ids.iter().zip(&text.content).enumerate() {
                let place = row * length + column;
                (ids[place], mask[place], content[place]) = (i64::from(id), true, is_content);
            }
        }
        TextBatch {
            ids_bl: Tensor::from_slice(&ids).view(size),
            mask_bl: Tensor::from_slice(&mask).view(size),
            content_bl: Tensor::from_slice(&content).view(size),
        }
    }
}

impl Tokenize for TextTokenizer {
    fn tokenize(&self, texts: &[&str]) -> TextBatch {
        let texts: Vec<TokenizedText> = texts.iter().map(|text| self.encode_or_empty(text)).collect();
        self.pad(&texts)
    }

    fn pieces(&self, text: &str) -> Vec<String> {
        let ids = self.encode_or_empty(text).ids;
        ids.into_iter().map(|id| self.inner.id_to_token(id).unwrap_or_else(|| format!("#{id}"))).collect()
    }
}

/// Which model a new tokenizer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerModel {
    /// Unigram language model (Kudo 2018), SentencePiece's default.
    Unigram,
    /// Byte-pair encoding (Sennrich et al. 2016).
    Bpe,
}

/// What a new tokenizer should be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizerTraining {
    /// Model.
    pub model: TokenizerModel,
    /// Most token ids, the four special ones included; a mask token is one more.
    pub vocab_size: usize,
    /// Whether texts are lower-cased first, as CLIP's are.
    pub lowercase: bool,
    /// Whether there is a mask token `[MASK]`. It is the last id: the others are those that they are without it.
    pub mask_token: bool,
}

/// Trains a tokenizer on captions and gives the text of its `tokenizer.json`.
///
/// Texts are NFKC-normalised; words begin with `▁` as in SentencePiece; `[BOS]` and `[EOS]` are put
/// around them. With [`TokenizerModel::Bpe`] the same captions give the same file; the library's
/// Unigram trainer walks randomly seeded hash maps, and its vocabulary differs a little from run to run.
///
/// # Errors
///
/// No captions, or what the trainer said.
pub fn train_tokenizer(captions: &[String], training: TokenizerTraining) -> Result<String, Error> {
    if captions.iter().all(|caption| caption.trim().is_empty()) {
        // The trainers index into an empty list.
        return Err(Error::TokenizerTraining("there are no captions to learn from".into()));
    }
    let failed = |error: tokenizers::Error| Error::TokenizerTraining(error.to_string());
    // Sums in a fixed order: with threads the vocabulary would depend on their number.
    tokenizers::utils::parallelism::set_parallelism(false);
    let special: Vec<AddedToken> = [PAD, UNKNOWN, BEGIN, END].map(|name| AddedToken::from(name, true)).to_vec();
    let (model, mut trainer) = match training.model {
        TokenizerModel::Unigram => {
            let trainer = UnigramTrainer::builder()
                .vocab_size(training.vocab_size as u32)
                .special_tokens(special)
                .unk_token(Some(UNKNOWN.into()))
                .show_progress(false)
                .build()
                .map_err(|error| Error::TokenizerTraining(error.to_string()))?;
            (ModelWrapper::from(Unigram::default()), TrainerWrapper::from(trainer))
        }
        TokenizerModel::Bpe => {
            let trainer = BpeTrainer::builder()
                .vocab_size(training.vocab_size)
                .special_tokens(special)
                .show_progress(false)
                .build();
            let model = BPE::builder().unk_token(UNKNOWN.into()).build().map_err(failed)?;
            (ModelWrapper::from(model), TrainerWrapper::from(trainer))
        }
    };
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let mut normalizers: Vec<NormalizerWrapper> = vec![NFKC.into(), Strip::new(true, true).into()];
    if training.lowercase {
        normalizers.push(Lowercase.into());
    }
    tokenizer.with_normalizer(Some(Sequence::new(normalizers))).map_err(failed)?;
    let metaspace = Metaspace::new(SPACE, PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(metaspace.clone()));
    tokenizer.with_decoder(Some(metaspace));
    tokenizer.train(&mut trainer, captions.iter()).map_err(failed)?;
    if training.mask_token {
        tokenizer.add_special_tokens([AddedToken::from(MASK, true)]).map_err(failed)?;
    }
    let id = |name: &str| tokenizer.token_to_id(name).map(|id| (name.to_owned(), id));
    let template = TemplateProcessing::builder()
        .try_single(format!("{BEGIN} $A {END}"))
        .map_err(Error::TokenizerTraining)?
        .special_tokens([BEGIN, END].into_iter().filter_map(id).collect::<Vec<_>>())
        .build()
        .map_err(|error| Error::TokenizerTraining(error.to_string()))?;
    tokenizer.with_post_processor(Some(template));
    tokenizer.to_string(true).map_err(failed)
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
