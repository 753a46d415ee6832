//! Captions from a trained captioner: settings, prompts, texts.

use serde::{Deserialize, Serialize};
use sparc_core::{Caption, TextEnds, seed};
use sparc_models::generation::{CachedDecoder, GenerationConfig, Strategy, generate};
use sparc_models::networks::{Coca, Network};
use tch::Tensor;

use crate::config::{apply, explain};
use crate::error::Error;
use crate::evaluation::Trained;

/// How captions are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionSettings {
    /// How the next token is chosen.
    pub strategy: Strategy,
    /// Fewest tokens, without the prompt and the end token.
    pub min_tokens: usize,
    /// Most tokens, without the prompt and the end token.
    pub max_tokens: usize,
    /// What captions go on from; it is not repeated in them.
    pub prompt: String,
    /// Seed of sampling; draws depend on it, on the sample's key and on the token's place.
    pub seed: u64,
}

impl Default for CaptionSettings {
    /// Beam search with three texts, 5 to 30 tokens and no prompt; lengths as open_clip's and BLIP's.
    fn default() -> CaptionSettings {
        CaptionSettings {
            strategy: Strategy::Beam { width: 3, length_penalty: 1.0 },
            min_tokens: 5,
            max_tokens: 30,
            prompt: String::new(),
            seed: 0,
        }
    }
}

impl CaptionSettings {
    /// The default with `key=value` settings applied, values read as YAML:
    /// `strategy={sample: {temperature: 0.7, top_p: 0.9}}`.
    ///
    /// # Errors
    ///
    /// A setting that does not fit, with the nearest valid key.
    pub fn parse(settings: &[String]) -> Result<CaptionSettings, Error> {
        CaptionSettings::default().with(settings)
    }

    /// Settings of generated answers: as [`CaptionSettings::parse`], over a greedy search of 1 to 8 tokens.
    ///
    /// # Errors
    ///
    /// A setting that does not fit, with the nearest valid key.
    pub fn for_answers(settings: &[String]) -> Result<CaptionSettings, Error> {
        let answers =
            CaptionSettings { strategy: Strategy::Greedy, min_tokens: 1, max_tokens: 8, ..CaptionSettings::default() };
        answers.with(settings)
    }

    fn with(self, settings: &[String]) -> Result<CaptionSettings, Error> {
        let parse = || {
            let mut value = serde_json::to_value(&self).expect("settings are plain data");
            settings.iter().try_for_each(|setting| apply(&mut value, setting))?;
            serde_path_to_error::deserialize(value)
                .map_err(|error| explain(&error.path().to_string(), &error.inner().to_string()))
        };
        parse().map_err(Error::Captions)
    }
}

/// A trained captioner with its settings, ready to make captions.
pub struct Captioner<'a> {
    trained: &'a Trained,
    network: &'a Coca,
    settings: CaptionSettings,
    prompt: Vec<i64>,
    ends: TextEnds,
}

/// A caption and what the captioner thinks of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MadeCaption {
    /// The text, without the prompt.
    pub caption: String,
    /// Sum of its tokens' log-probabilities, the end token's among them where it was written.
    pub log_probability: f64,
    /// Tokens, without the end token.
    pub n_tokens: usize,
    /// Whether it came to its end; else it was cut.
    pub ended: bool,
}

impl<'a> Captioner<'a> {
    /// A captioner of a run.
    ///
    /// # Errors
    ///
    /// A network without a text decoder, a tokenizer without a beginning or an end, settings or a prompt that do not
    /// fit into the context.
    pub fn new(trained: &'a Trained, settings: CaptionSettings) -> Result<Captioner<'a>, Error> {
        let Network::Coca(network) = &trained.network else {
            let name = trained.plan.config.objective.name();
            return Err(Error::Captions(format!(
                "{} was trained with {name}, which has no text decoder; give a run of coca or sycoca",
                trained.run.display()
            )));
        };
        let ends = trained.tokenizer.ends().map_err(|reason| Error::Captions(format!("the tokenizer: {reason}")))?;
        let mut prompt = vec![ends.begin];
        let given = trained
            .tokenizer
            .encode(&settings.prompt)
            .map_err(|reason| Error::Captions(format!("prompt: {reason}")))?;
        let words = given.ids.iter().zip(&given.content).filter(|(_, is_content)| **is_content);
        prompt.extend(words.map(|(&id, _)| i64::from(id)));
        let context = trained.plan.config.model.text.context_length as usize;
        generation(&settings).validate(context, prompt.len()).map_err(Error::Captions)?;
        Ok(Captioner { trained, network, settings, prompt, ends })
    }

    /// As it was made.
    pub fn settings(&self) -> &CaptionSettings {
        &self.settings
    }

    /// One caption for each normalised image `[B, 3, H, W]`. A caption depends on its image and key alone.
    pub fn captions(&self, images_bchw: &Tensor, keys: &[&str]) -> Vec<MadeCaption> {
        let seeds: Vec<u64> =
            keys.iter().map(|key| seed::derive(self.settings.seed, &[b"caption", key.as_bytes()])).collect();
        let prompts = vec![self.prompt.clone(); keys.len()];
        let memory_bmw = tch::no_grad(|| self.network.memory(&self.network.image_tokens(images_bchw, None), None));
        self.go_on(&memory_bmw, &prompts, &seeds)
    }

    /// What goes on from each prompt, with a seed, about images whose tokens are `memory_bmw`.
    pub(crate) fn go_on(&self, memory_bmw: &Tensor, prompts: &[Vec<i64>], seeds: &[u64]) -> Vec<MadeCaption> {
        let config = generation(&self.settings);
        let texts = tch::no_grad(|| {
            let mut decoder = CachedDecoder::new(self.network, memory_bmw, config.rows_per_image());
            generate(&mut decoder, prompts, seeds, &config, &self.ends)
        });
        let made = texts.into_iter().map(|text| MadeCaption {
            caption: self.trained.tokenizer.decode(&text.ids).unwrap_or_else(|error| {
                tracing::warn!("a caption cannot be read and is left empty: {error}");
                String::new()
            }),
            log_probability: text.log_probability,
            n_tokens: text.ids.len(),
            ended: text.ended,
        });
        made.collect()
    }
}

fn generation(settings: &CaptionSettings) -> GenerationConfig {
    GenerationConfig { strategy: settings.strategy, min_tokens: settings.min_tokens, max_tokens: settings.max_tokens }
}

impl Caption for Captioner<'_> {
    fn caption(&self, images_bchw: &Tensor, keys: &[&str]) -> Vec<String> {
        self.captions(images_bchw, keys).into_iter().map(|made| made.caption).collect()
    }

    fn protocol(&self) -> String {
        serde_json::to_string(&self.settings).expect("settings are plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_over_the_default_and_checked() {
        let parse =
            |settings: &[&str]| CaptionSettings::parse(&settings.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(parse(&[]).unwrap(), CaptionSettings::default());
        let sampled = parse(&["strategy={sample: {temperature: 0.7, top_p: 0.9}}", "max_tokens=12"]).unwrap();
        let strategy = Strategy::Sample { temperature: 0.7, top_k: None, top_p: Some(0.9) };
        assert_eq!(sampled, CaptionSettings { strategy, max_tokens: 12, ..CaptionSettings::default() });
        assert_eq!(parse(&["strategy=greedy"]).unwrap().strategy, Strategy::Greedy);
        let error = parse(&["max_token=12"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `max_tokens`?"), "{error}");
        assert!(parse(&["strategy={beam: {width: 3}}"]).unwrap_err().to_string().contains("length_penalty"));
    }
}
