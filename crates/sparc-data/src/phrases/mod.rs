//! Noun phrases of captions: what a detector is asked to find (the first half of CLOC's labelling, VESL;
//! Chen et al. 2024, arXiv:2410.02746, section 4, appendix C.1, Listing 1).
//!
//! A caption is put into lower case, split into words ([`words()`]), rid of the generic words of the web, tagged
//! ([`Tagger`]) and searched for noun phrases ([`noun_phrases`]). Phrases of stop words alone are left out, and of
//! an image's phrases twenty at most are kept, each once. Phrases keep their determiner, and nothing is stemmed.

mod characters;
mod chunk;
mod embedded;
mod tagger;
mod words;

use std::collections::HashSet;

use sparc_core::seed;

pub use chunk::noun_phrases;
pub use tagger::Tagger;
pub use words::words;

/// Phrases that are kept of one image (Listing 1).
pub const MAX_PHRASES: usize = 20;

/// Which phrases are kept where there are more than [`MAX_PHRASES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhraseChoice {
    /// The first, as the paper's listing does.
    First,
    /// Drawn by the sample's key, as the paper's text says.
    Sampled,
}

/// The phrases of one image, and what became of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagePhrases {
    /// Different phrases in the order in which they come.
    pub kept: Vec<String>,
    /// Occurrences of phrases, before anything was left out.
    pub found: u64,
    /// Of these, how many are of stop words alone.
    pub stop_words: u64,
    /// Different phrases beyond [`MAX_PHRASES`].
    pub beyond_limit: u64,
}

/// Finds the phrases of captions.
#[derive(Debug)]
pub struct PhraseFinder {
    tagger: Tagger,
    choice: PhraseChoice,
    stop_words: HashSet<&'static str>,
    generic_words: HashSet<&'static str>,
}

impl PhraseFinder {
    /// A finder with a tagger for English.
    pub fn new(tagger: Tagger, choice: PhraseChoice) -> PhraseFinder {
        let (stop_words, generic_words) = (embedded::stop_words(), embedded::generic_words());
        PhraseFinder { tagger, choice, stop_words, generic_words }
    }

    /// Its tagger.
    pub fn tagger(&self) -> &Tagger {
        &self.tagger
    }

    /// A number that changes with everything that the phrases depend on: the weights, the word lists, the choice
    /// and the version of the rules.
    pub fn fingerprint(&self) -> u64 {
        const RULES: u64 = 1;
        let [stop, generic, abbreviations] = embedded::all_lists().map(str::as_bytes);
        let choice = match self.choice {
            PhraseChoice::First => b"first".as_slice(),
            PhraseChoice::Sampled => b"sampled",
        };
        let tagger = self.tagger.fingerprint().to_le_bytes();
        seed::derive(RULES, &[&tagger, stop, generic, abbreviations, choice])
    }

    /// The phrases of the captions of one image, whose key is `key`.
    pub fn find<S: AsRef<str>>(&self, key: &str, captions: &[S]) -> ImagePhrases {
        let mut phrases = ImagePhrases::default();
        let mut seen = HashSet::new();
        for caption in captions {
            let mut words = words(&caption.as_ref().to_lowercase());
            words.retain(|word| !self.generic_words.contains(word.as_str()));
            for range in noun_phrases(&self.tagger.tag(&words)) {
                phrases.found += 1;
                let words = &words[range];
                if words.iter().all(|word| self.stop_words.contains(word.as_str())) {
                    phrases.stop_words += 1;
                    continue;
                }
                let phrase = words.join(" ");
                if !seen.contains(&phrase) {
                    seen.insert(phrase.clone());
                    phrases.kept.push(phrase);
                }
            }
        }
        phrases.beyond_limit = phrases.kept.len().saturating_sub(MAX_PHRASES) as u64;
        if self.choice == PhraseChoice::Sampled && phrases.beyond_limit > 0 {
            phrases.kept = sample(key, phrases.kept);
        }
        phrases.kept.truncate(MAX_PHRASES);
        phrases
    }
}

/// [`MAX_PHRASES`] of the phrases, each as likely as any other, in their order.
fn sample(key: &str, phrases: Vec<String>) -> Vec<String> {
    let draw = |phrase: &String| seed::derive(0, &[b"phrase", key.as_bytes(), phrase.as_bytes()]);
    let mut drawn: Vec<(u64, usize)> = phrases.iter().map(draw).zip(0..).collect();
    drawn.sort_unstable();
    drawn.truncate(MAX_PHRASES);
    let chosen: HashSet<usize> = drawn.into_iter().map(|(_, place)| place).collect();
    phrases.into_iter().enumerate().filter(|(place, _)| chosen.contains(place)).map(|(_, phrase)| phrase).collect()
}

#[cfg(test)]
#[path = "phrases_tests.rs"]
mod tests;
