//! Answers and classes from a trained captioner: by its head, or in words.

use sparc_core::answers::AnswerList;
use sparc_core::objectives::coca::HeadTask;
use sparc_core::{Answer, AskedQuestion, Caption, Classify, Encoder, ImageFeatures, Matcher, PatchPath};
use sparc_core::{RegionEncoder, TextBatch, TextFeatures, seed};
use sparc_data::TokenizedText;
use sparc_models::networks::{Coca, Network};
use tch::Tensor;

use crate::captioning::{CaptionSettings, Captioner};
use crate::choices::HeadFile;
use crate::error::Error;
use crate::evaluation::Trained;

/// Questions answered together.
const QUESTIONS_AT_ONCE: usize = 128;

/// Where answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The head chooses from its list.
    Closed,
    /// The decoder goes on from the question.
    Generated,
}

impl AnswerSource {
    /// The head of a network that has one for answers, or else the decoder.
    pub fn of(head: Option<&HeadFile>) -> AnswerSource {
        match head {
            Some(HeadFile { task: HeadTask::Vqa, .. }) => AnswerSource::Closed,
            _ => AnswerSource::Generated,
        }
    }
}

/// A trained captioner that answers questions.
pub struct Answerer<'a> {
    trained: &'a Trained,
    network: &'a Coca,
    way: Way<'a>,
}

enum Way<'a> {
    Closed(AnswerList),
    Generated(Captioner<'a>),
}

impl<'a> Answerer<'a> {
    /// Answers of a run from this source; `settings` are of generated ones, over a greedy search of 1 to 8 tokens.
    ///
    /// # Errors
    ///
    /// A network without a text decoder or without a head for answers, or settings that do not fit.
    pub fn new(
        trained: &'a Trained,
        head: Option<&HeadFile>,
        source: AnswerSource,
        settings: &[String],
    ) -> Result<Answerer<'a>, Error> {
        let Network::Coca(network) = &trained.network else {
            let name = trained.plan.config.objective.name();
            return Err(Error::Answers(format!(
                "{} was trained with {name}, which has no text decoder; give a run of coca or sycoca",
                trained.run.display()
            )));
        };
        let way = match (source, head) {
            (AnswerSource::Closed, Some(HeadFile { task: HeadTask::Vqa, outputs, .. })) => {
                Way::Closed(AnswerList::new(outputs.clone()).map_err(|reason| {
                    Error::Answers(format!("{}: {reason}", trained.run.join(crate::choices::HEAD).display()))
                })?)
            }
            (AnswerSource::Closed, _) => {
                return Err(Error::Answers(format!(
                    "{} has no head for answers; fine-tune it (configs/coca/daquar_nano.yaml), or ask for generated ones",
                    trained.run.display()
                )));
            }
            (AnswerSource::Generated, _) => {
                Way::Generated(Captioner::new(trained, CaptionSettings::for_answers(settings)?)?)
            }
        };
        Ok(Answerer { trained, network, way })
    }

    /// A question as the decoder reads it, one that cannot be read being empty.
    fn encode(&self, question: &str) -> TokenizedText {
        let tokenizer = &self.trained.tokenizer;
        tokenizer.encode_question(question).unwrap_or_else(|error| {
            tracing::warn!("\"{question}\" could not be tokenised and counts as empty: {error}");
            // The beginning token, which decoding starts from, is there still.
            tokenizer.encode_question("").unwrap_or(TokenizedText::EMPTY)
        })
    }

    /// What the decoder sees of the images that these questions are about, `[Q, M, W]`.
    fn memory(&self, memory_bmw: &Tensor, questions: &[AskedQuestion]) -> Tensor {
        let images: Vec<i64> = questions.iter().map(|question| question.image as i64).collect();
        memory_bmw.index_select(0, &Tensor::from_slice(&images).to_device(memory_bmw.device()))
    }

    fn choose(&self, list: &AnswerList, memory_qmw: &Tensor, questions: &[AskedQuestion]) -> Vec<String> {
        let texts: Vec<TokenizedText> = questions.iter().map(|question| self.encode(question.question)).collect();
        let text = self.trained.tokenizer.pad(&texts).to_device(memory_qmw.device());
        let states_qlw = self.network.caption_states(&self.network.text_tokens(&text).tokens_blw, memory_qmw);
        let chosen_q = self.network.answer_logits(&states_qlw, &text.mask_bl).argmax(1, false);
        let chosen = Vec::<i64>::try_from(chosen_q).expect("a tensor of indices");
        chosen.into_iter().map(|place| list.answers()[place as usize].clone()).collect()
    }

    fn write(&self, captioner: &Captioner, memory_qmw: &Tensor, questions: &[AskedQuestion]) -> Vec<String> {
        let settings = captioner.settings();
        let context = self.trained.plan.config.model.text.context_length as usize;
        let prompts: Vec<Vec<i64>> = questions
            .iter()
            .map(|asked| {
                let question = format!("{} {}", settings.prompt, asked.question);
                let ids = self.encode(question.trim()).ids;
                // A question that leaves no room for the answer is cut.
                ids.into_iter().take(context - settings.max_tokens).map(i64::from).collect()
            })
            .collect();
        let seeds: Vec<u64> = questions
            .iter()
            .map(|asked| seed::derive(settings.seed, &[b"answer", asked.key.as_bytes(), asked.question.as_bytes()]))
            .collect();
        captioner.go_on(memory_qmw, &prompts, &seeds).into_iter().map(|made| made.caption).collect()
    }
}

impl Answer for Answerer<'_> {
    fn answer(&self, images_bchw: &Tensor, questions: &[AskedQuestion]) -> Vec<String> {
        tch::no_grad(|| {
            let memory_bmw = self.network.memory(&self.network.image_tokens(images_bchw, None), None);
            let answers = questions.chunks(QUESTIONS_AT_ONCE).flat_map(|questions| {
                let memory_qmw = self.memory(&memory_bmw, questions);
                match &self.way {
                    Way::Closed(list) => self.choose(list, &memory_qmw, questions),
                    Way::Generated(captioner) => self.write(captioner, &memory_qmw, questions),
                }
            });
            answers.collect()
        })
    }

    fn protocol(&self) -> String {
        match &self.way {
            Way::Closed(list) => format!("closed: one of {}", list.answers().len()),
            Way::Generated(captioner) => format!("generated: {}", captioner.protocol()),
        }
    }

    fn knows(&self, answer: &str) -> bool {
        match &self.way {
            Way::Closed(list) => list.find(answer).is_some(),
            Way::Generated(_) => true,
        }
    }
}

/// The head of a network that tells classes.
pub struct Classifier<'a> {
    network: &'a Coca,
    names: Vec<String>,
}

impl<'a> Classifier<'a> {
    /// Of a run that has one.
    pub fn of(trained: &'a Trained, head: Option<&HeadFile>) -> Option<Classifier<'a>> {
        match (&trained.network, head) {
            (Network::Coca(network), Some(HeadFile { task: HeadTask::Classification, outputs, .. })) => {
                Some(Classifier { network, names: outputs.clone() })
            }
            _ => None,
        }
    }
}

impl Classify for Classifier<'_> {
    fn class_names(&self) -> &[String] {
        &self.names
    }

    fn class_scores(&self, images_bchw: &Tensor) -> Tensor {
        self.network.class_logits(&self.network.image_tokens(images_bchw, None))
    }
}

/// A network with all that was asked of it, as evaluation sees it.
pub struct Equipped<'a> {
    /// The network.
    pub network: &'a Network,
    /// What writes captions.
    pub captioner: Option<Captioner<'a>>,
    /// What answers questions.
    pub answerer: Option<Answerer<'a>>,
    /// What tells classes.
    pub classifier: Option<Classifier<'a>>,
}

impl Encoder for Equipped<'_> {
    fn image_size(&self) -> (i64, i64) {
        self.network.image_size()
    }

    fn encode_images(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures {
        self.network.encode_images(images_bchw, path)
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        self.network.encode_text(text)
    }

    fn region_encoder(&self) -> Option<&dyn RegionEncoder> {
        self.network.region_encoder()
    }

    fn captioner(&self) -> Option<&dyn Caption> {
        self.captioner.as_ref().map(|captioner| captioner as &dyn Caption)
    }

    fn answerer(&self) -> Option<&dyn Answer> {
        self.answerer.as_ref().map(|answerer| answerer as &dyn Answer)
    }

    fn classifier(&self) -> Option<&dyn Classify> {
        self.classifier.as_ref().map(|classifier| classifier as &dyn Classify)
    }

    fn matcher(&self) -> Option<&dyn Matcher> {
        self.network.matcher()
    }
}
