//! The objectives as configuration: what each needs from the network, and its value on a batch.

use serde::{Deserialize, Serialize};
use sparc_core::objectives::albef::AlbefConfig;
use sparc_core::objectives::clip::{ClipInputs, clip_loss};
use sparc_core::objectives::cloc::{ClocConfig, ClocInputs, Grounding, cloc_loss};
use sparc_core::objectives::coca::CocaConfig;
use sparc_core::objectives::filip::{FilipConfig, FilipInputs, filip_loss, keep_tokens};
use sparc_core::objectives::gloria::{GloriaConfig, GloriaInputs, Temperatures, gloria_loss};
use sparc_core::objectives::mgca::{self, CrossAttention, MgcaConfig, MgcaInputs, mgca_loss};
use sparc_core::objectives::pacl::{Embedder, PaclConfig, PaclInputs, pacl_loss};
use sparc_core::objectives::siglip::{SiglipConfig, SiglipInputs, siglip_loss};
use sparc_core::objectives::sparc::{LocalTemperature, SparcConfig, SparcInputs, sparc_loss};
use sparc_core::objectives::sycoca::SycocaConfig;
use sparc_core::tensor_math::without_padding;
use sparc_core::{Gathered, LossTerms, PairScore};
use sparc_models::heads::{HeadsConfig, LearnedScalar};
use sparc_models::networks::DualEncoder;
use tch::{Kind, Tensor};

use crate::features::Features;
use crate::matching::NasObjective;

/// The objectives, one key each: `objective: {sparc: {…}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// CLIP's contrastive loss; it has no settings.
    Clip(ClipConfig),
    /// SigLIP's pairwise sigmoid loss.
    Siglip(SiglipConfig),
    /// FILIP's token-wise maximum similarity.
    Filip(FilipConfig),
    /// PACL's patch alignment.
    Pacl(PaclConfig),
    /// GLoRIA's attention-based local alignment.
    Gloria(GloriaConfig),
    /// MGCA's three granularities.
    Mgca(MgcaConfig),
    /// SPARC.
    Sparc(SparcConfig),
    /// CLOC; it learns from regions.
    Cloc(ClocConfig),
    /// CoCa's contrast and captioning.
    Coca(CocaConfig),
    /// SyCoCa: CoCa with attentive masks and text-guided masked image modelling.
    Sycoca(SycocaConfig),
    /// ALBEF's contrast with momentum, matching and masked words.
    Albef(AlbefConfig),
    /// NAS: ALBEF with a visual dictionary and edited negatives.
    Nas(NasObjective),
    /// Several, weighed and added: `sum: [{weight: 1, objective: {clip: {}}}, …]`.
    Sum(Vec<Weighted>),
}

/// CLIP has no settings beyond the model's temperature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {}

/// A part of a sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// What the part is multiplied by.
    pub weight: f64,
    /// The part; no sum itself.
    pub objective: Objective,
}

impl Objective {
    /// The objective's stem; of a sum, its parts' joined by `_`.
    pub fn name(&self) -> String {
        match self {
            Objective::Sum(parts) => parts.iter().map(|part| part.objective.stem()).collect::<Vec<_>>().join("_"),
            single => single.stem().to_owned(),
        }
    }

    fn stem(&self) -> &'static str {
        match self {
            Objective::Clip(_) => "clip",
            Objective::Siglip(_) => "siglip",
            Objective::Filip(_) => "filip",
            Objective::Pacl(_) => "pacl",
            Objective::Gloria(_) => "gloria",
            Objective::Mgca(_) => "mgca",
            Objective::Sparc(_) => "sparc",
            Objective::Cloc(_) => "cloc",
            Objective::Coca(_) => "coca",
            Objective::Sycoca(_) => "sycoca",
            Objective::Albef(_) => "albef",
            Objective::Nas(_) => "nas",
            Objective::Sum(_) => "sum",
        }
    }

    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the key under `objective`.
    pub fn validate(&self) -> Result<(), String> {
        let checked = match self {
            Objective::Clip(_) => Ok(()),
            Objective::Siglip(config) => config.validate(),
            Objective::Filip(config) => config.validate(),
            Objective::Pacl(config) => config.validate(),
            Objective::Gloria(config) => config.validate(),
            Objective::Mgca(config) => config.validate(),
            Objective::Sparc(config) => config.validate(),
            Objective::Cloc(config) => config.validate(),
            Objective::Coca(config) => config.validate(),
            Objective::Sycoca(config) => config.validate(),
            Objective::Albef(config) => config.validate(),
            Objective::Nas(config) => config.validate(),
            Objective::Sum(parts) => return validate_sum(parts),
        };
        checked.map_err(|reason| format!("{}.{reason}", self.stem()))
    }

    /// The parts; of a single objective, itself.
    fn parts(&self) -> Vec<&Objective> {
        match self {
            Objective::Sum(parts) => parts.iter().map(|part| &part.objective).collect(),
            single => vec![single],
        }
    }

    /// What the network must bring along; `logit_scale_init` is the start of temperatures that an
    /// objective has for itself.
    pub fn heads(&self, logit_scale_init: f64) -> HeadsConfig {
        let mut heads = HeadsConfig::default();
        let own = |choice: LocalTemperature, scalar: LearnedScalar| {
            (choice == LocalTemperature::Own).then_some((scalar, logit_scale_init))
        };
        for part in self.parts() {
            match part {
                Objective::Clip(_)
                | Objective::Coca(_)
                | Objective::Sycoca(_)
                | Objective::Albef(_)
                | Objective::Nas(_)
                | Objective::Sum(_) => {}
                Objective::Siglip(config) => heads.scalars.extend([
                    (LearnedScalar::SiglipLogitScale, config.logit_scale_init),
                    (LearnedScalar::SiglipLogitBias, config.logit_bias_init),
                ]),
                Objective::Filip(config) => {
                    heads.scalars.extend(own(config.temperature, LearnedScalar::FilipLogitScale));
                }
                Objective::Pacl(config) => {
                    heads.scalars.extend(own(config.temperature, LearnedScalar::PaclLogitScale));
                    heads.residual_branch = config.embedder == Embedder::Residual;
                }
                Objective::Gloria(config) if config.temperatures == Temperatures::Learned => {
                    if config.lambda_local > 0.0 {
                        heads.scalars.extend([
                            (LearnedScalar::GloriaAttentionScale, config.attention_scale_init),
                            (LearnedScalar::GloriaWordScale, config.word_scale_init),
                        ]);
                    }
                    heads.scalars.push((LearnedScalar::GloriaLogitScale, config.logit_scale_init));
                }
                Objective::Gloria(_) => {}
                Objective::Mgca(config) => {
                    if config.lambda_token > 0.0 {
                        heads.scalars.extend(own(config.token_temperature, LearnedScalar::MgcaTokenLogitScale));
                        if let CrossAttention::Learned { width } = config.attention {
                            heads.mutual_attention = Some(width);
                        }
                    }
                    heads.prototypes = (config.lambda_prototype > 0.0).then_some(config.n_prototypes);
                }
                Objective::Sparc(config) if config.lambda_local > 0.0 => {
                    heads.scalars.extend(own(config.local_temperature, LearnedScalar::SparcLogitScale));
                }
                Objective::Sparc(_) => {}
                Objective::Cloc(config) => {
                    heads.scalars.extend(own(config.temperature, LearnedScalar::ClocLogitScale));
                    heads.region_head = Some(config.region_head);
                    heads.grounding = config.lambda_grounding > 0.0;
                }
            }
        }
        heads
    }

    /// Whether batches must have annotated regions.
    pub fn learns_from_regions(&self) -> bool {
        self.parts().iter().any(|part| matches!(part, Objective::Cloc(_)))
    }

    /// Whether it trains a captioner, not two towers alone.
    pub fn is_captioner(&self) -> bool {
        matches!(self, Objective::Coca(_) | Objective::Sycoca(_))
    }

    /// Whether it trains a fusion encoder that matches pairs.
    pub fn is_matcher(&self) -> bool {
        matches!(self, Objective::Albef(_) | Objective::Nas(_))
    }

    /// What retrieval and classification compare: what the objective contrasts.
    pub fn pair_score(&self) -> PairScore {
        match self {
            Objective::Filip(_) => PairScore::TokenMaxima,
            Objective::Pacl(config) => PairScore::PooledByText {
                attention_scale: config.attention_scale,
                pooled_patches: config.pooled_patches,
            },
            Objective::Sum(parts) if parts.len() == 1 => parts[0].objective.pair_score(),
            Objective::Clip(_)
            | Objective::Siglip(_)
            | Objective::Gloria(_)
            | Objective::Mgca(_)
            | Objective::Sparc(_)
            | Objective::Cloc(_)
            | Objective::Coca(_)
            | Objective::Sycoca(_)
            | Objective::Albef(_)
            | Objective::Nas(_)
            | Objective::Sum(_) => PairScore::Pooled,
        }
    }

    /// Whether pooled embeddings of images and texts are contrasted; if not, comparing them says little.
    pub fn trains_pooled(&self) -> bool {
        match self {
            Objective::Clip(_) | Objective::Siglip(_) | Objective::Cloc(_) => true,
            Objective::Filip(_) | Objective::Pacl(_) => false,
            Objective::Gloria(config) => config.lambda_global > 0.0,
            Objective::Mgca(config) => config.lambda_instance > 0.0 || config.lambda_prototype > 0.0,
            Objective::Sparc(config) => config.lambda_global > 0.0,
            Objective::Coca(config) => config.lambda_contrastive > 0.0,
            Objective::Sycoca(config) => config.lambda_contrastive > 0.0,
            Objective::Albef(config) => config.lambda_contrast > 0.0,
            Objective::Nas(config) => config.albef.lambda_contrast > 0.0,
            Objective::Sum(parts) => parts.iter().any(|part| part.objective.trains_pooled()),
        }
    }

    /// The objective's value on a batch's features; `updates` is the number of optimizer steps made.
    ///
    /// # Panics
    ///
    /// If the network was not built with [`Objective::heads`], or the objective trains one of another kind: the plan
    /// refuses both.
    pub fn loss(&self, network: &DualEncoder, features: &Features, updates: u64) -> LossTerms {
        match self {
            Objective::Clip(_) => clip(network, features),
            Objective::Siglip(_) => siglip(network, features),
            Objective::Filip(config) => filip(network, features, config),
            Objective::Pacl(config) => pacl(network, features, config),
            Objective::Gloria(config) => gloria(network, features, config),
            Objective::Mgca(config) => mgca(network, features, config, updates),
            Objective::Sparc(config) => sparc(network, features, config),
            Objective::Cloc(config) => cloc(network, features, config, updates),
            Objective::Coca(_) | Objective::Sycoca(_) | Objective::Albef(_) | Objective::Nas(_) => {
                panic!("{} trains a network of its own", self.stem())
            }
            Objective::Sum(parts) => LossTerms::sum(
                parts
                    .iter()
                    .map(|part| (part.objective.stem(), part.weight, part.objective.loss(network, features, updates)))
                    .collect(),
            ),
        }
    }
}

fn validate_sum(parts: &[Weighted]) -> Result<(), String> {
    if parts.is_empty() {
        return Err("sum: needs at least one part".into());
    }
    for (index, part) in parts.iter().enumerate() {
        let stem = part.objective.stem();
        if matches!(part.objective, Objective::Sum(_)) {
            return Err(format!("sum[{index}]: a sum inside a sum; list its parts here"));
        }
        if part.objective.is_captioner() || part.objective.is_matcher() {
            return Err(format!("sum[{index}]: {stem} trains a network of its own and cannot be a part of a sum"));
        }
        if !(part.weight.is_finite() && part.weight > 0.0) {
            return Err(format!("sum[{index}].weight must be a finite number above 0, got {}", part.weight));
        }
        if parts[..index].iter().any(|other| other.objective.stem() == stem) {
            return Err(format!("sum[{index}]: {stem} is there twice; give it one weight"));
        }
        part.objective.validate().map_err(|reason| format!("sum[{index}].objective.{reason}"))?;
    }
    Ok(())
}

/// The network's inverse temperature, or the objective's own.
pub(crate) fn temperature(network: &DualEncoder, choice: LocalTemperature, own: LearnedScalar) -> Tensor {
    match choice {
        LocalTemperature::Shared => network.logit_scale(),
        LocalTemperature::Own => network.scalar(own),
    }
}

fn clip(network: &DualEncoder, Features { image, text, .. }: &Features) -> LossTerms {
    clip_loss(&ClipInputs {
        image: Gathered::single(&image.pooled_bd),
        text: Gathered::single(&text.pooled_bd),
        row_offset: 0,
        logit_scale: &network.logit_scale(),
    })
}

fn siglip(network: &DualEncoder, Features { image, text, .. }: &Features) -> LossTerms {
    siglip_loss(&SiglipInputs {
        image: Gathered::single(&image.pooled_bd),
        text: Gathered::single(&text.pooled_bd),
        row_offset: 0,
        logit_scale: &network.scalar(LearnedScalar::SiglipLogitScale),
        logit_bias: &network.scalar(LearnedScalar::SiglipLogitBias),
    })
}

fn filip(network: &DualEncoder, Features { image, text, .. }: &Features, config: &FilipConfig) -> LossTerms {
    let kept = keep_tokens(&image.patches_bpd, &text.tokens_bld, &text.mask_bl, config.keep_tokens);
    filip_loss(&FilipInputs {
        patches: Gathered::single(&kept.patches_bkd),
        tokens: Gathered::single(&text.tokens_bld),
        mask: Gathered::single(&kept.mask_bl),
        row_offset: 0,
        logit_scale: &temperature(network, config.temperature, LearnedScalar::FilipLogitScale),
    })
}

fn pacl(network: &DualEncoder, Features { image, text, .. }: &Features, config: &PaclConfig) -> LossTerms {
    let inputs = PaclInputs {
        patches: Gathered::single(&image.patches_bpd),
        text: Gathered::single(&text.pooled_bd),
        row_offset: 0,
        logit_scale: &temperature(network, config.temperature, LearnedScalar::PaclLogitScale),
    };
    pacl_loss(&inputs, config)
}

fn gloria(network: &DualEncoder, Features { image, text, .. }: &Features, config: &GloriaConfig) -> LossTerms {
    let local = config.lambda_local > 0.0;
    let scale = |scalar: LearnedScalar, start: f64| match config.temperatures {
        Temperatures::Learned if local || scalar == LearnedScalar::GloriaLogitScale => network.scalar(scalar),
        // Fixed, or read by no term.
        Temperatures::Learned | Temperatures::Fixed => {
            Tensor::full([0i64; 0], start, (image.pooled_bd.kind(), image.pooled_bd.device()))
        }
    };
    let inputs = GloriaInputs {
        patches: Gathered::single(&image.patches_bpd),
        tokens: Gathered::single(&text.tokens_bld),
        mask: Gathered::single(&text.mask_bl),
        image: Gathered::single(&image.pooled_bd),
        text: Gathered::single(&text.pooled_bd),
        row_offset: 0,
        attention_scale: &scale(LearnedScalar::GloriaAttentionScale, config.attention_scale_init),
        word_scale: &scale(LearnedScalar::GloriaWordScale, config.word_scale_init),
        logit_scale: &scale(LearnedScalar::GloriaLogitScale, config.logit_scale_init),
    };
    gloria_loss(&inputs, config)
}

fn mgca(network: &DualEncoder, features: &Features, config: &MgcaConfig, updates: u64) -> LossTerms {
    let Features { image, text, .. } = features;
    let words_bld = without_padding(&text.tokens_bld, &text.mask_bl);
    let (word_contexts_bld, patch_contexts_bpd) = match (network.mutual_attention(), config.attention) {
        (Some(attention), _) => attention.forward(&words_bld, &text.mask_bl, &image.patches_bpd),
        (None, CrossAttention::ParameterFree { scale }) if config.lambda_token > 0.0 => (
            mgca::attend(&words_bld, &image.patches_bpd, None, scale),
            mgca::attend(&image.patches_bpd, &words_bld, Some(&text.mask_bl), scale),
        ),
        // The token-wise term has weight 0 and reads neither.
        (None, _) => (words_bld.shallow_clone(), image.patches_bpd.shallow_clone()),
    };
    let none = || Tensor::zeros([2, image.pooled_bd.size()[1]], (Kind::Float, image.pooled_bd.device()));
    let prototypes = network.prototypes().map_or_else(none, Tensor::shallow_clone);
    let frozen = updates < config.freeze_prototypes_steps;
    let token_logit_scale = if config.lambda_token > 0.0 {
        temperature(network, config.token_temperature, LearnedScalar::MgcaTokenLogitScale)
    } else {
        network.logit_scale()
    };
    let inputs = MgcaInputs {
        words_bld: &words_bld,
        word_contexts_bld: &word_contexts_bld,
        patches_bpd: &image.patches_bpd,
        patch_contexts_bpd: &patch_contexts_bpd,
        mask_bl: &text.mask_bl,
        image: Gathered::single(&image.pooled_bd),
        text: Gathered::single(&text.pooled_bd),
        row_offset: 0,
        prototypes_md: &if frozen { prototypes.detach() } else { prototypes },
        logit_scale: &network.logit_scale(),
        token_logit_scale: &token_logit_scale,
        denominator: None,
    };
    mgca_loss(&inputs, config)
}

fn cloc(network: &DualEncoder, features: &Features, config: &ClocConfig, updates: u64) -> LossTerms {
    let Features { image, text, regions } = features;
    let regions = regions.as_ref().expect("features of an objective that learns from regions");
    let inputs = ClocInputs {
        image: Gathered::single(&image.pooled_bd),
        text: Gathered::single(&text.pooled_bd),
        regions: Gathered::single(&regions.regions_bmd),
        phrases: Gathered::single(&regions.phrases_bmd),
        valid: Gathered::single(&regions.valid_bm),
        grounding: regions
            .predicted_bm4
            .as_ref()
            .map(|predicted_bm4| Grounding { boxes_bm4: &regions.boxes_bm4, predicted_bm4 }),
        row_offset: 0,
        logit_scale: &network.logit_scale(),
        region_logit_scale: &temperature(network, config.temperature, LearnedScalar::ClocLogitScale),
        text_filter: config.filter_after(updates),
    };
    cloc_loss(&inputs, config)
}

fn sparc(network: &DualEncoder, Features { image, text, .. }: &Features, config: &SparcConfig) -> LossTerms {
    let logit_scale = network.logit_scale();
    let own = config.lambda_local > 0.0 && config.local_temperature == LocalTemperature::Own;
    let local_logit_scale =
        if own { network.scalar(LearnedScalar::SparcLogitScale) } else { logit_scale.shallow_clone() };
    let inputs = SparcInputs {
        patches_bpd: &image.patches_bpd,
        tokens_bld: &text.tokens_bld,
        mask_bl: &text.mask_bl,
        image: Gathered::single(&image.pooled_bd),
        text: Gathered::single(&text.pooled_bd),
        row_offset: 0,
        logit_scale: &logit_scale,
        local_logit_scale: &local_logit_scale,
        denominator: None,
    };
    sparc_loss(&inputs, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Objective {
        let yaml: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        serde_json::from_value(serde_json::to_value(yaml).unwrap()).unwrap()
    }

    #[test]
    fn sums_are_named_after_their_parts_and_checked() {
        let part = |yaml: &str| format!("{{weight: 1.0, objective: {yaml}}}");
        let sum = |parts: &[&str]| {
            parse(&format!("sum: [{}]", parts.iter().map(|yaml| part(yaml)).collect::<Vec<_>>().join(", ")))
        };
        let filip = "{filip: {keep_tokens: 1.0, temperature: own}}";
        let good = sum(&["{clip: {}}", filip]);
        assert_eq!(good.name(), "clip_filip");
        good.validate().unwrap();
        assert_eq!(good.heads(14.0).scalars, [(LearnedScalar::FilipLogitScale, 14.0)]);
        for (bad, expected) in [
            (sum(&[]), "at least one part"),
            (sum(&["{clip: {}}", "{clip: {}}"]), "clip is there twice"),
            (sum(&["{sum: []}"]), "a sum inside a sum"),
            (sum(&["{filip: {keep_tokens: 2.0, temperature: own}}"]), "sum[0].objective.filip.keep_tokens"),
            (parse("sum: [{weight: 0, objective: {clip: {}}}]"), "sum[0].weight"),
            (
                sum(&["{clip: {}}", "{coca: {lambda_contrastive: 1, lambda_caption: 2, normalisation: open_clip}}"]),
                "sum[1]: coca trains a network of its own",
            ),
        ] {
            let error = bad.validate().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
