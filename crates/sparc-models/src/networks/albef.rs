//! Networks that match pairs: two towers, a fusion encoder that reads a text with an image, and what follows them
//! without a gradient.
//!
//! ALBEF (Li et al. 2021): heads for matching and for masked words, momentum copies, queues of earlier embeddings. NAS
//! (AAAI 2025) puts a visual dictionary between the patches and the fusion encoder.

mod matching;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sparc_core::objectives::albef::MaskingVocabulary;
use sparc_core::objectives::nas::{ClassToken, TokenMode, VisualTokens};
use sparc_core::{Encoder, ImageFeatures, Matcher, PatchPath, TextBatch, TextFeatures};
use tch::{Device, Kind, Tensor};

use super::SpecialTokens;
use crate::fusion::FusionEncoder;
use crate::heads::{LanguageHead, MatchingHead, TokenGate};
use crate::layers::Linear;
use crate::momentum::{start_copy, update_copy};
use crate::pair_queue::PairQueue;
use crate::text::{TextConfig, TextTransformer};
use crate::visual_dictionary::{DictionaryConfig, VisualDictionary};
use crate::vit::{ImagePool, Vit, VitConfig};
use crate::{Init, ParameterBuilder, Parameters, TowerShape, differences};

// Dimension letters: b batch, n rows of the global batch, r pairs, p patches, m image tokens, l tokens, w width,
// d shared space, v vocabulary, k masked tokens.

/// What makes a network that matches pairs of two towers. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionConfig {
    /// Blocks of the fusion encoder, as wide as the text tower's; 6 in ALBEF.
    pub layers: i64,
}

/// How a dictionary stands between patches and the fusion encoder (NAS).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VisualTokensConfig {
    /// The dictionary.
    pub dictionary: DictionaryConfig,
    /// What the fusion encoder sees of a patch.
    pub tokens: TokenMode,
    /// Whether it sees the image's class token.
    pub class_token: ClassToken,
}

/// Configuration of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlbefConfig {
    /// Image tower; it has a class token.
    pub image: VitConfig,
    /// Text tower, bidirectional.
    pub text: TextConfig,
    /// Width D of the shared space.
    pub embed_dim: i64,
    /// Whether the projections into it have a bias; they have one in ALBEF.
    pub adapter_bias: bool,
    /// Whether BOS and EOS are among the tokens that are compared with patches.
    pub special_tokens: SpecialTokens,
    /// Initial inverse temperature.
    pub logit_scale_init: f64,
    /// The inverse temperature is clamped to `[1, this]` after each step.
    pub logit_scale_max: f64,
    /// The fusion encoder.
    pub fusion: FusionConfig,
    /// What the momentum copies keep of themselves at each step.
    pub momentum: f64,
    /// Most keys of the queues.
    pub queue_size: i64,
    /// The ids that masked words need.
    pub masking: MaskingVocabulary,
    /// A dictionary, for NAS.
    pub visual_tokens: Option<VisualTokensConfig>,
}

impl AlbefConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.image.validate()?;
        for (name, value) in [
            ("text.context_length", self.text.context_length),
            ("text.vocab_size", self.text.vocab_size),
            ("embed_dim", self.embed_dim),
            ("fusion.layers", self.fusion.layers),
        ] {
            if value < 1 {
                return Err(format!("{name} must be at least 1, got {value}"));
            }
        }
        if self.image.pool != ImagePool::Cls {
            return Err("image.pool must be cls: the class token is what ALBEF contrasts".into());
        }
        if !(self.logit_scale_init >= 1.0 && self.logit_scale_init <= self.logit_scale_max) {
            return Err(format!(
                "logit_scale_init {} must lie in [1, logit_scale_max = {}]",
                self.logit_scale_init, self.logit_scale_max
            ));
        }
        if !(0.0..=1.0).contains(&self.momentum) || self.queue_size < 0 {
            return Err(format!("momentum {} or queue_size {} is impossible", self.momentum, self.queue_size));
        }
        let MaskingVocabulary { mask_id, first_id, n_ids } = self.masking;
        if n_ids != self.text.vocab_size || !(0..n_ids).contains(&mask_id) || !(0..n_ids).contains(&first_id) {
            return Err(format!("{:?} does not fit a vocabulary of {}", self.masking, self.text.vocab_size));
        }
        self.visual_tokens
            .map_or(Ok(()), |visual| visual.dictionary.validate().map_err(|reason| format!("dictionary.{reason}")))
    }
}

/// What a momentum copy is made of: everything but the matching head and the temperature.
#[derive(Debug)]
pub struct Encoders {
    image_tower: Vit,
    text_tower: TextTransformer,
    image_adapter: Linear,
    text_adapter: Linear,
    gate: Option<TokenGate>,
    fusion: FusionEncoder,
    language: LanguageHead,
}

/// Images in the tower's width.
#[derive(Debug)]
pub struct ImageVectors {
    /// Class tokens, `[B, W]`.
    pub class_bw: Tensor,
    /// Patches, `[B, P, W]`.
    pub patches_bpw: Tensor,
}

impl Encoders {
    fn new(builder: &ParameterBuilder, config: &AlbefConfig) -> Encoders {
        let (image, text) = (config.image.size.shape(), config.text.size.shape());
        let adapter = |name: &str, width: i64| {
            let deviation = (width as f64).powf(-0.5);
            Linear::new(&builder.under(name), width, config.embed_dim, config.adapter_bias, Init::Normal(deviation))
        };
        let gated = config.visual_tokens.is_some_and(|visual| visual.tokens == TokenMode::Gated);
        let fusion = TowerShape { depth: config.fusion.layers, ..text };
        Encoders {
            image_tower: Vit::new(&builder.under("image"), config.image),
            text_tower: TextTransformer::new(&builder.under("text"), config.text),
            image_adapter: adapter("image_adapter", image.width),
            text_adapter: adapter("text_adapter", text.width),
            gate: gated.then(|| TokenGate::new(&builder.under("gate"), image.width)),
            fusion: FusionEncoder::new(&builder.under("fusion"), fusion, image.width),
            language: LanguageHead::new(&builder.under("language"), text.width, config.text.vocab_size),
        }
    }

    /// Normalised images `[B, 3, H, W]` through the tower.
    ///
    /// # Panics
    ///
    /// If they have another size than the configured one.
    pub fn image_vectors(&self, images_bchw: &Tensor) -> ImageVectors {
        let output = self.image_tower.forward(images_bchw);
        ImageVectors { class_bw: output.pooled_bw, patches_bpw: output.patches_bpw }
    }

    /// Texts through the tower, `[B, L, W]`; the first token's vector stands for the whole text.
    ///
    /// # Panics
    ///
    /// If they are longer than the context.
    pub fn text_vectors(&self, text: &TextBatch) -> Tensor {
        self.text_tower.forward(text)
    }

    /// Vectors of images or patches in the shared space, `[…, W]` → `[…, D]`.
    pub fn embed_image(&self, x: &Tensor) -> Tensor {
        self.image_adapter.forward(x)
    }

    /// Vectors of texts or tokens in the shared space, `[…, W]` → `[…, D]`.
    pub fn embed_text(&self, x: &Tensor) -> Tensor {
        self.text_adapter.forward(x)
    }

    /// Texts `[R, L, W]` that have looked at image tokens `[R, M, W]`, `[R, L, W]`.
    pub fn fuse(&self, tokens_rlw: &Tensor, mask_rl: &Tensor, image_rmw: &Tensor) -> Tensor {
        self.fusion.forward(tokens_rlw, mask_rl, image_rmw)
    }

    /// Which words stood at masked places, by their fused vectors: `[K, W]` → `[K, V]`.
    pub fn words(&self, fused_kw: &Tensor) -> Tensor {
        self.language.forward(fused_kw, self.text_tower.token_embedding())
    }
}

/// What a step hands on for [`Albef::follow`]: rows of the global batch.
#[derive(Debug)]
pub struct Seen {
    /// The momentum copies' image embeddings, `[N, D]`.
    pub momentum_image_nd: Tensor,
    /// Their text embeddings, `[N, D]`.
    pub momentum_text_nd: Tensor,
    /// Which image each row is of, `[N]`, `i64`.
    pub image_ids_n: Tensor,
    /// Patches `[N, P, W]` and their codes `[N, P]`, of a network with a dictionary.
    pub patches: Option<(Tensor, Tensor)>,
}

/// The network.
#[derive(Debug)]
pub struct Albef {
    config: AlbefConfig,
    encoders: Encoders,
    matching: MatchingHead,
    log_scale: Tensor,
    parameters: Parameters,
    momentum: Encoders,
    momentum_parameters: Parameters,
    queue: PairQueue,
    dictionary: Option<VisualDictionary>,
}

impl Albef {
    /// Name of the temperature parameter, ln(1/τ).
    pub const LOGIT_SCALE: &'static str = "logit_scale";
    /// What names of the copies' parameters, the queues' and the dictionary's tensors begin with.
    const STATES: [&'static str; 3] = ["momentum", "queue", "dictionary"];

    /// Builds the network with values that depend on `seed` alone; the copies start equal, the queues and the
    /// dictionary empty.
    ///
    /// # Panics
    ///
    /// If the configuration does not validate.
    pub fn new(config: AlbefConfig, seed: u64, kind: Kind, device: Device) -> Albef {
        let mut network = Albef::build(config, ParameterBuilder::new(seed, kind, device), (kind, device));
        start_copy(&mut network.momentum_parameters, &network.parameters).expect("a copy is built like the original");
        network
    }

    /// The network with parameters of a builder's; the copies' are 0.
    pub(super) fn build(config: AlbefConfig, builder: ParameterBuilder, (kind, device): (Kind, Device)) -> Albef {
        config.validate().expect("a valid configuration");
        let copies = ParameterBuilder::blank(kind, device);
        let (encoders, momentum) = (Encoders::new(&builder, &config), Encoders::new(&copies, &config));
        let matching = MatchingHead::new(&builder.under("matching"), config.text.size.shape().width);
        let log_scale = builder.create(Self::LOGIT_SCALE, &[], Init::Constant(config.logit_scale_init.ln()));
        let width = config.image.size.shape().width;
        Albef {
            encoders,
            matching,
            log_scale,
            parameters: builder.finish(),
            momentum,
            momentum_parameters: copies.finish(),
            queue: PairQueue::new(config.queue_size, config.embed_dim, kind, device),
            dictionary: config.visual_tokens.map(|visual| VisualDictionary::new(visual.dictionary, width, device)),
            config,
        }
    }

    /// As it was built.
    pub fn config(&self) -> &AlbefConfig {
        &self.config
    }

    /// All parameters that are trained, by name.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parts that are trained.
    pub fn online(&self) -> &Encoders {
        &self.encoders
    }

    /// Their momentum copies. Nothing of them wants a gradient.
    pub fn momentum(&self) -> &Encoders {
        &self.momentum
    }

    /// Keys of earlier batches.
    pub fn queue(&self) -> &PairQueue {
        &self.queue
    }

    /// The dictionary, of NAS.
    pub fn dictionary(&self) -> Option<&VisualDictionary> {
        self.dictionary.as_ref()
    }

    /// Inverse temperature 1/τ of the contrast, a scalar with gradient.
    pub fn logit_scale(&self) -> Tensor {
        self.log_scale.exp()
    }

    /// Codes `[B, P]` of patches `[B, P, W]`, and what the dictionary makes of them; `None` without a dictionary.
    ///
    /// # Panics
    ///
    /// If the dictionary has no codes yet.
    pub fn look_up(&self, patches_bpw: &Tensor) -> Option<(Tensor, VisualTokens)> {
        let dictionary = self.dictionary.as_ref()?;
        let index_bp = dictionary.nearest(patches_bpw);
        let tokens = VisualTokens::of(patches_bpw, &index_bp, dictionary.codes());
        Some((index_bp, tokens))
    }

    /// What the fusion encoder reads of images, `[B, M, W]`: the class token and the patches, or what `tokens` has in
    /// their place. Positives and negatives, training and evaluation come this way.
    pub fn image_sequence(&self, encoders: &Encoders, image: &ImageVectors, tokens: Option<&VisualTokens>) -> Tensor {
        let patches_bpw = match (tokens, &encoders.gate) {
            (None, _) => image.patches_bpw.shallow_clone(),
            (Some(tokens), Some(gate)) => gate.forward(tokens),
            (Some(tokens), None) => tokens.quantised_bpc.shallow_clone(),
        };
        match self.config.visual_tokens.map(|visual| visual.class_token) {
            None | Some(ClassToken::Keep) => Tensor::cat(&[image.class_bw.unsqueeze(1), patches_bpw], 1),
            Some(ClassToken::Drop) => patches_bpw,
        }
    }

    /// Logits of "no match" and "match", `[R, 2]`, of texts `[R, L, W]` that have looked at their images.
    pub fn match_fused(&self, fused_rlw: &Tensor) -> Tensor {
        self.matching.forward(fused_rlw)
    }

    /// Starts an empty dictionary from the patches of images `[B, 3, H, W]` of the global batch.
    pub fn start_dictionary(&mut self, images_bchw: &Tensor, run_seed: u64) {
        let Some(dictionary) = self.dictionary.as_mut().filter(|dictionary| !dictionary.is_started()) else { return };
        let patches_bpw = tch::no_grad(|| self.encoders.image_vectors(images_bchw).patches_bpw);
        dictionary.start(&patches_bpw.flatten(0, 1), run_seed);
    }

    /// Clamps the inverse temperature to `[1, logit_scale_max]` and moves the momentum copies. ALBEF moves them between
    /// its encoders and its copies of the next step; no parameter changes in between, and its first move is none.
    pub fn after_update(&mut self) {
        let max = self.config.logit_scale_max.ln();
        let _ = tch::no_grad(|| self.log_scale.clamp_(0.0, max));
        update_copy(&mut self.momentum_parameters, &self.parameters, self.config.momentum);
    }

    /// Puts what a step has seen into the queues and the dictionary, after its loss. The number of codes that started
    /// anew.
    ///
    /// # Panics
    ///
    /// If shapes disagree.
    pub fn follow(&mut self, seen: &Seen, run_seed: u64) -> usize {
        self.queue.enqueue(&seen.momentum_image_nd, &seen.momentum_text_nd, &seen.image_ids_n);
        let (Some(dictionary), Some((patches_npw, index_np))) = (&mut self.dictionary, &seen.patches) else { return 0 };
        let assignments = dictionary.assignments(patches_npw, index_np);
        dictionary.update(&assignments, &patches_npw.flatten(0, 1), run_seed)
    }

    /// What a checkpoint holds beside the parameters, and of how many numbers it is.
    pub fn untrained(&self) -> Vec<(&'static str, usize)> {
        let state = self.state();
        let count = |prefix: &str| {
            let inside =
                state.iter().filter(|(name, _)| name.starts_with(prefix) && self.parameters.get(name).is_none());
            inside.map(|(_, tensor)| tensor.numel()).sum()
        };
        Self::STATES.iter().map(|&prefix| (prefix, count(prefix))).filter(|&(_, count)| count > 0).collect()
    }

    /// Everything that a checkpoint must hold, by name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let own = self.parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        let copies = self.momentum_parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        let dictionary = self.dictionary.as_ref().map(VisualDictionary::state).unwrap_or_default();
        let states = [copies.collect(), self.queue.state(), dictionary];
        let named = Self::STATES.iter().zip(states).flat_map(|(prefix, state): (_, BTreeMap<String, Tensor>)| {
            state.into_iter().map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor))
        });
        own.chain(named).collect()
    }

    /// Takes over a state.
    ///
    /// # Errors
    ///
    /// Every difference in names, shapes and kinds, and nothing has been copied then; or what is impossible in queues
    /// and dictionary.
    pub fn load_state(&mut self, source: &BTreeMap<String, Tensor>) -> Result<(), Vec<String>> {
        let found = differences(&self.state(), source);
        if !found.is_empty() {
            return Err(found);
        }
        let under = |prefix: &str| -> BTreeMap<String, Tensor> {
            let inside = |name: &str| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
            source.iter().filter_map(|(name, tensor)| Some((inside(name)?, tensor.shallow_clone()))).collect()
        };
        let [momentum, queue, dictionary] = Self::STATES.map(under);
        let named = |prefix: &'static str| {
            move |found: Vec<String>| found.into_iter().map(|line| format!("{prefix}.{line}")).collect::<Vec<_>>()
        };
        self.queue.load_state(&queue).map_err(named("queue"))?;
        if let Some(own) = &mut self.dictionary {
            own.load_state(&dictionary).map_err(named("dictionary"))?;
        }
        self.momentum_parameters.load(&momentum)?;
        let own = source.iter().filter(|(name, _)| self.parameters.get(name).is_some());
        let own = own.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        self.parameters.load(&own)
    }
}

impl Albef {
    fn features(&self, image: &ImageVectors) -> ImageFeatures {
        ImageFeatures {
            pooled_bd: self.encoders.embed_image(&image.class_bw),
            patches_bpd: self.encoders.embed_image(&image.patches_bpw),
            grid: self.config.image.grid(),
        }
    }
}

impl Encoder for Albef {
    fn image_size(&self) -> (i64, i64) {
        (self.config.image.image_size, self.config.image.image_size)
    }

    /// There is one way to the shared space: both paths are the same.
    fn encode_images(&self, images_bchw: &Tensor, _path: PatchPath) -> ImageFeatures {
        self.features(&self.encoders.image_vectors(images_bchw))
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        let tokens_bld = self.encoders.embed_text(&self.encoders.text_vectors(text));
        let mask_bl = match self.config.special_tokens {
            SpecialTokens::Include => text.mask_bl.shallow_clone(),
            SpecialTokens::Exclude => text.content_bl.shallow_clone(),
        };
        TextFeatures { pooled_bd: tokens_bld.select(1, 0), tokens_bld, mask_bl }
    }

    fn matcher(&self) -> Option<&dyn Matcher> {
        Some(self)
    }
}

#[cfg(test)]
#[path = "albef_tests.rs"]
mod tests;
