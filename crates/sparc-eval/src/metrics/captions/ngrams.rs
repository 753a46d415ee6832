//! Counting sequences of one to four words.

use std::collections::{BTreeMap, HashMap};

/// The longest sequences that BLEU and CIDEr count.
pub(super) const LONGEST: usize = 4;

/// The numbers of the words of a sequence, zero behind its end.
type Ngram = [u32; LONGEST];

/// Numbers for words, from 1, so that sequences compare fast and in an order that does not change.
#[derive(Debug, Default)]
pub(super) struct Vocabulary<'a> {
    numbers: HashMap<&'a str, u32>,
}

/// The sequences of one caption.
#[derive(Debug, Clone)]
pub(super) struct Ngrams {
    /// Words of the caption.
    pub(super) n_words: usize,
    /// How often each sequence occurs, by its length less one.
    pub(super) counts: [BTreeMap<Ngram, usize>; LONGEST],
}

impl<'a> Vocabulary<'a> {
    /// The sequences of a tokenised caption. Words are split at all white space, no-break spaces too.
    pub(super) fn count(&mut self, caption: &'a str) -> Ngrams {
        let words: Vec<u32> = caption.split_whitespace().map(|word| self.number(word)).collect();
        let mut counts: [BTreeMap<Ngram, usize>; LONGEST] = Default::default();
        for (index, counts) in counts.iter_mut().enumerate() {
            for window in words.windows(index + 1) {
                let mut ngram = Ngram::default();
                ngram[..=index].copy_from_slice(window);
                *counts.entry(ngram).or_default() += 1;
            }
        }
        Ngrams { n_words: words.len(), counts }
    }

    fn number(&mut self, word: &'a str) -> u32 {
        let next = u32::try_from(self.numbers.len() + 1).expect("fewer than 2^32 words");
        *self.numbers.entry(word).or_insert(next)
    }
}
