//! Plain text, which most captions are, to tokens by a shorter way.
//!
//! The library keeps track of where each character came from, through every step. For ASCII text and the steps of
//! tokenizers made here all of them come down to cutting the text at spaces, and its model does the rest.

use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{Model, Tokenizer};

use crate::tokenizer::TokenizedText;

/// What stands for a space, and before the first word.
pub(crate) const SPACE: char = '▁';

/// What is to be known of a tokenizer.
#[derive(Debug, Clone)]
pub(crate) struct PlainText {
    lowercase: bool,
    /// The tokens before and after every text.
    ends: [u32; 2],
    /// The ASCII characters that an added token, which the library looks for first, begins with.
    may_begin_added: [bool; 128],
}

impl PlainText {
    /// None if the tokenizer, which cuts no texts yet, has other steps than those made here.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Option<PlainText> {
        let NormalizerWrapper::Sequence(normalizers) = tokenizer.get_normalizer()? else { return None };
        let (mut lowercase, mut strips) = (false, false);
        for normalizer in normalizers.as_ref() {
            match normalizer {
                NormalizerWrapper::NFKC(_) => {}
                NormalizerWrapper::Lowercase(_) => lowercase = true,
                NormalizerWrapper::StripNormalizer(strip) if strip.strip_left && strip.strip_right => strips = true,
                _ => return None,
            }
        }
        let PreTokenizerWrapper::Metaspace(words) = tokenizer.get_pre_tokenizer()? else { return None };
        let are_words =
            words.get_replacement() == SPACE && words.prepend_scheme == PrependScheme::Always && words.split;
        if !strips || !are_words {
            return None;
        }
        let &[begin, end] = tokenizer.encode_fast("", true).ok()?.get_ids() else { return None };
        let a_word = tokenizer.encode_fast("a", true).ok()?;
        let [1, 0, .., 1] = a_word.get_special_tokens_mask() else { return None };
        let mut may_begin_added = [false; 128];
        for token in tokenizer.get_added_tokens_decoder().values() {
            // What begins with a space may be found without it.
            let first = token.content.chars().next().filter(char::is_ascii_graphic)?;
            may_begin_added[first.to_ascii_lowercase() as usize] = true;
            may_begin_added[first.to_ascii_uppercase() as usize] = true;
        }
        Some(PlainText { lowercase, ends: [begin, end], may_begin_added })
    }

    /// What `tokenizer` makes of a text, cut to `context_length` tokens; None if the text is not plain.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, text: &str, context_length: usize) -> Option<TokenizedText> {
        let is_plain = |byte: u8| self.may_begin_added.get(usize::from(byte)) == Some(&false);
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(is_plain) {
            return None;
        }
        let [begin, end] = self.ends;
        let last = context_length.checked_sub(1)?;
        let (mut ids, mut word) = (vec![begin], String::new());
        for letters in text.split(' ') {
            if ids.len() >= last {
                break;
            }
            word.clear();
            word.push(SPACE);
            word.push_str(letters);
            if self.lowercase {
                word.make_ascii_lowercase();
            }
            ids.extend(tokenizer.get_model().tokenize(&word).ok()?.iter().map(|token| token.id));
        }
        ids.truncate(last);
        ids.push(end);
        let mut content = vec![true; ids.len()];
        content[0] = false;
        content[ids.len() - 1] = false;
        Some(TokenizedText { ids, content })
    }
}
