//! Texts from a decoder: greedy, beam search and sampling, from prompts, with and without a cache.
//!
//! The search knows the decoder only through [`NextToken`]: logits in, tokens out. [`CachedDecoder`] and
//! [`FullDecoder`] are the two ways to get logits from a [`crate::networks::Coca`]; they give the same texts.

mod beam;
mod decoder;
mod sample;

use serde::{Deserialize, Serialize};
use sparc_core::TextEnds;
use tch::{Kind, Tensor};

pub use decoder::{CachedDecoder, FullDecoder};

// Dimension letters: r rows, v vocabulary.

/// How texts are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationConfig {
    /// How the next token is chosen.
    pub strategy: Strategy,
    /// Fewest tokens of a text, without the prompt and the end token.
    pub min_tokens: usize,
    /// Most tokens of a text, without the prompt and the end token.
    pub max_tokens: usize,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The most probable.
    Greedy,
    /// The text whose log-probability, divided by (its tokens, the end token among them)^`length_penalty`, is the
    /// highest that a beam of this width finds.
    Beam {
        /// Texts kept at a time.
        width: usize,
        /// 0: short texts win; 1: the mean over tokens counts.
        length_penalty: f64,
    },
    /// Drawn. Draws depend on a seed and the place of the token alone.
    Sample {
        /// Logits are divided by it.
        temperature: f64,
        /// Only so many of the most probable tokens are drawn from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_k: Option<usize>,
        /// Only the most probable tokens are drawn from, as many as it takes to hold this probability.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_p: Option<f64>,
    },
}

impl GenerationConfig {
    /// What is wrong with the values, if anything, for a decoder of this context and prompts of up to `prompt`
    /// tokens, the beginning token among them.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self, context_length: usize, prompt: usize) -> Result<(), String> {
        if self.max_tokens == 0 || self.min_tokens > self.max_tokens {
            return Err(format!(
                "max_tokens must be at least 1 and at least min_tokens, got {} and {}",
                self.max_tokens, self.min_tokens
            ));
        }
        if prompt + self.max_tokens > context_length {
            return Err(format!(
                "max_tokens is {}, but a prompt of {prompt} tokens (the beginning token among them) leaves {} of the context of {context_length}",
                self.max_tokens,
                context_length.saturating_sub(prompt)
            ));
        }
        match self.strategy {
            Strategy::Greedy => Ok(()),
            Strategy::Beam { width, length_penalty } => {
                if width == 0 {
                    return Err("width must be at least 1".into());
                }
                if !(length_penalty.is_finite() && length_penalty >= 0.0) {
                    return Err(format!("length_penalty must be a finite number of at least 0, got {length_penalty}"));
                }
                Ok(())
            }
            Strategy::Sample { temperature, top_k, top_p } => {
                if !(temperature.is_finite() && temperature > 0.0) {
                    return Err(format!("temperature must be a finite number above 0, got {temperature}"));
                }
                if top_k == Some(0) {
                    return Err("top_k must be at least 1".into());
                }
                if let Some(top_p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
                    return Err(format!("top_p must lie in (0, 1], got {top_p}"));
                }
                Ok(())
            }
        }
    }

    /// Rows that a decoder needs for each image.
    pub fn rows_per_image(&self) -> usize {
        match self.strategy {
            Strategy::Beam { width, .. } => width,
            Strategy::Greedy | Strategy::Sample { .. } => 1,
        }
    }
}

/// One image's text.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedText {
    /// Token ids, without the prompt and the end token.
    pub ids: Vec<i64>,
    /// The sum of their log-probabilities, the end token's among them where it was written, as the decoder gives
    /// them: before temperature, cuts and bans.
    pub log_probability: f64,
    /// Whether the end token was written; else the text was cut.
    pub ended: bool,
}

/// A decoder that is fed one token a row and gives logits for the next.
pub trait NextToken {
    /// Appends a token to every row, `[R]`, `i64`, and gives the next one's logits, `[R, V]`. Rows of one image stand
    /// side by side, the same number for each.
    fn next(&mut self, tokens_r: &Tensor) -> Tensor;

    /// Row i goes on from what row `rows[i]` is; all rows stay with their images.
    fn reorder(&mut self, rows: &[i64]);

    /// Goes on with these images alone, in ascending order.
    fn keep_images(&mut self, images: &[i64]);
}

/// Makes a text for each image. `prompts` are token ids, the beginning token first; `seeds` are what sampling draws
/// from, one an image.
///
/// Texts do not depend on what else is in the batch.
///
/// # Panics
///
/// If a prompt is empty, or there are not as many seeds as prompts.
pub fn generate(
    decoder: &mut dyn NextToken,
    prompts: &[Vec<i64>],
    seeds: &[u64],
    config: &GenerationConfig,
    ends: &TextEnds,
) -> Vec<GeneratedText> {
    assert_eq!(prompts.len(), seeds.len(), "one seed a prompt");
    assert!(prompts.iter().all(|prompt| !prompt.is_empty()), "prompts have the beginning token");
    if prompts.is_empty() {
        return Vec::new();
    }
    let length = Lengths { min: config.min_tokens, max: config.max_tokens };
    tch::no_grad(|| match config.strategy {
        Strategy::Greedy => sample::generate(decoder, prompts, length, ends, &sample::Choice::MostProbable),
        Strategy::Sample { temperature, top_k, top_p } => {
            let choice = sample::Choice::Drawn { temperature, top_k, top_p, seeds };
            sample::generate(decoder, prompts, length, ends, &choice)
        }
        Strategy::Beam { width, length_penalty } => {
            beam::Search { decoder, width, length_penalty, length, ends }.run(prompts)
        }
    })
}

#[derive(Debug, Clone, Copy)]
struct Lengths {
    min: usize,
    max: usize,
}

/// Log-probabilities of all tokens, `[R, V]`, f32 at least, and the same with −∞ for those that may not be written.
fn log_probabilities(logits_rv: &Tensor, ends: &TextEnds, may_end: bool) -> (Tensor, Tensor) {
    let kind = if logits_rv.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let log_rv = logits_rv.log_softmax(1, kind);
    let mut banned = ends.never.clone();
    if !may_end {
        banned.push(ends.end);
    }
    let allowed_rv = log_rv.index_fill(1, &Tensor::from_slice(&banned).to_device(log_rv.device()), f64::NEG_INFINITY);
    (log_rv, allowed_rv)
}

#[cfg(test)]
mod tests;
