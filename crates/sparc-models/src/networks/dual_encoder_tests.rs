//! Tests of the dual encoder: shapes, masks, determinism, gradients, strict loading.

use std::collections::BTreeMap;

use sparc_core::{Encoder, PatchPath, TextBatch};
use sparc_testing::{random, scalar, values};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::ModelSize;
use crate::vit::ImagePool;

fn config(pool: ImagePool) -> DualEncoderConfig {
    DualEncoderConfig {
        image: VitConfig { size: ModelSize::Nano, patch_size: 8, image_size: 16, pool },
        text: TextConfig { size: ModelSize::Nano, context_length: 7, vocab_size: 11 },
        embed_dim: 24,
        dense_layer: true,
        adapter_bias: true,
        special_tokens: SpecialTokens::Exclude,
        logit_scale_init: 10.0,
        logit_scale_max: 100.0,
        heads: HeadsConfig::default(),
    }
}

fn network(seed: u64) -> DualEncoder {
    DualEncoder::new(config(ImagePool::Average), seed, Kind::Double, Device::Cpu)
}

/// Texts of these lengths with BOS = 1 in front, padded with `padding`.
fn texts(lengths: &[i64], width: i64, padding: i64) -> TextBatch {
    let lengths = Tensor::from_slice(lengths).unsqueeze(1);
    let places = Tensor::arange(width, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let mask_bl = places.lt_tensor(&lengths);
    let ids = (&places * 3i64 + &lengths).remainder(7) + 3i64;
    let ids = ids.where_self(&places.gt(0), &ids.ones_like());
    let ids_bl = ids.where_self(&mask_bl, &ids.full_like(padding));
    TextBatch { content_bl: mask_bl.logical_and(&places.gt(0)), ids_bl, mask_bl }
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    scalar(&(a - b).abs().max())
}

#[test]
fn shapes_are_as_documented() {
    for pool in [ImagePool::Average, ImagePool::Cls] {
        let network = DualEncoder::new(config(pool), 0, Kind::Double, Device::Cpu);
        let image = network.encode_images(&random(&[3, 3, 16, 16], 0), PatchPath::Local);
        assert_eq!((image.pooled_bd.size(), image.patches_bpd.size()), (vec![3, 24], vec![3, 4, 24]));
        let text = network.encode_text(&texts(&[5, 2, 0], 5, 0));
        assert_eq!((text.pooled_bd.size(), text.tokens_bld.size()), (vec![3, 24], vec![3, 5, 24]));
    }
}

#[test]
fn the_average_goes_through_the_global_path() {
    // Without the dense layer the adapter is affine: the pooled image is the mean of its patches.
    let plain = DualEncoderConfig { dense_layer: false, ..config(ImagePool::Average) };
    let network = DualEncoder::new(plain, 0, Kind::Double, Device::Cpu);
    let features = network.encode_images(&random(&[2, 3, 16, 16], 0), PatchPath::Global);
    let mean = features.patches_bpd.mean_dim([1i64].as_slice(), false, None::<Kind>);
    assert!(difference(&mean, &features.pooled_bd) < 1e-12);
}

#[test]
fn the_two_patch_paths_differ_by_the_dense_layer() {
    let (network, images) = (network(0), random(&[2, 3, 16, 16], 0));
    let local = network.encode_images(&images, PatchPath::Local);
    let global = network.encode_images(&images, PatchPath::Global);
    assert!(difference(&local.patches_bpd, &global.patches_bpd) > 1e-3);
    assert_eq!(difference(&local.pooled_bd, &global.pooled_bd), 0.0);
}

#[test]
fn padding_is_inert() {
    let network = network(0);
    let short = network.encode_text(&texts(&[4, 2], 4, 0));
    let long = network.encode_text(&texts(&[4, 2], 7, 9));
    assert!(difference(&short.pooled_bd, &long.pooled_bd) < 1e-12);
    assert!(difference(&short.tokens_bld.get(0), &long.tokens_bld.get(0).narrow(0, 0, 4)) < 1e-12);
}

#[test]
fn patches_follow_their_pixels() {
    // Patch 1 of a 2×2 grid is the top right one: only it may change when only its pixels do,
    // before attention mixes them. The embedding's patches are checked through `patchify`.
    let network = network(0);
    let images = random(&[1, 3, 16, 16], 0);
    let changed = images.copy();
    let _ = changed.narrow(2, 0, 8).narrow(3, 8, 8).fill_(7.0);
    let moved = (network.image_tower.patchify(&images) - network.image_tower.patchify(&changed))
        .abs()
        .amax([0i64, 2].as_slice(), false);
    assert_eq!(values(&moved.gt(0.0)), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn an_empty_text_is_finite_with_finite_gradients() {
    let network = network(0);
    let text = network.encode_text(&texts(&[0, 3], 3, 0));
    assert_eq!(scalar(&text.pooled_bd.get(0).abs().max()), 0.0);
    text.pooled_bd.sum(Kind::Double).backward();
    for (name, tensor) in network.parameters().iter().filter(|(name, _)| name.starts_with("text")) {
        assert!(tensor.grad().isfinite().all().int64_value(&[]) == 1, "{name}");
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    let network = network(0);
    let image = network.encode_images(&random(&[2, 3, 16, 16], 0), PatchPath::Local);
    let text = network.encode_text(&texts(&[4, 2], 4, 0));
    let similarity = image.pooled_bd.matmul(&text.pooled_bd.tr()) * network.logit_scale();
    (similarity.square().sum(Kind::Double) + image.patches_bpd.square().sum(Kind::Double)).backward();
    for (name, tensor) in network.parameters().iter() {
        assert!(tensor.grad().defined() && scalar(&tensor.grad().abs().max()) > 0.0, "{name}");
    }
}

#[test]
fn heads_are_built_used_and_clamped() {
    let heads = HeadsConfig {
        scalars: vec![(LearnedScalar::SiglipLogitScale, 10.0), (LearnedScalar::SiglipLogitBias, -10.0)],
        mutual_attention: Some(8),
        prototypes: Some(5),
        residual_branch: true,
        ..HeadsConfig::default()
    };
    let with = |heads: HeadsConfig| DualEncoderConfig { heads, ..config(ImagePool::Average) };
    let mut network = DualEncoder::new(with(heads), 0, Kind::Double, Device::Cpu);
    assert_eq!(scalar(&network.scalar(LearnedScalar::SiglipLogitBias)), -10.0);
    assert!((scalar(&network.scalar(LearnedScalar::SiglipLogitScale)) - 10.0).abs() < 1e-9);
    assert_eq!(network.prototypes().unwrap().size(), [5, 24]);
    let (images, texts) = (random(&[2, 3, 16, 16], 0), texts(&[4, 2], 4, 0));
    let image = network.encode_images(&images, PatchPath::Local);
    let plain = self::network(0).encode_images(&images, PatchPath::Local);
    assert!(difference(&image.patches_bpd, &plain.patches_bpd) > 1e-3);
    // What a word sees depends on its own image, what a patch sees not on padding.
    let text = network.encode_text(&texts);
    let attend =
        |tokens: &Tensor| network.mutual_attention().unwrap().forward(tokens, &text.mask_bl, &image.patches_bpd);
    let (words, patches) = attend(&text.tokens_bld);
    assert_eq!((words.size(), patches.size()), (vec![2, 4, 24], vec![2, 4, 24]));
    let no_padding = text.mask_bl.unsqueeze(-1);
    let noisy = text.tokens_bld.where_self(&no_padding, &text.tokens_bld.full_like(f64::NAN));
    assert_eq!(difference(&attend(&noisy).1, &patches), 0.0);
    let parameter = network.parameters().get("siglip.logit_scale").unwrap().shallow_clone();
    let _ = tch::no_grad(|| parameter.shallow_clone().fill_(9.0));
    network.clamp_logit_scales();
    assert!((scalar(&network.scalar(LearnedScalar::SiglipLogitScale)) - 100.0).abs() < 1e-9);
    let wrong = with(HeadsConfig { scalars: vec![(LearnedScalar::GloriaWordScale, 0.5)], ..HeadsConfig::default() });
    assert!(wrong.validate().unwrap_err().contains("gloria.word_scale"));
}

#[test]
fn regions_are_embedded_by_box_and_found_by_phrase() {
    use sparc_core::objectives::cloc::{BoxEncoding, PrompterConfig, Readout};
    let prompter = PrompterConfig { box_encoding: BoxEncoding::Sinusoidal, readout: Readout::PromptMean };
    let with = |region_head, grounding| {
        let heads = HeadsConfig { region_head: Some(region_head), grounding, ..HeadsConfig::default() };
        DualEncoderConfig { heads, ..config(ImagePool::Cls) }
    };
    let network = |config| DualEncoder::new(config, 0, Kind::Double, Device::Cpu);
    let images = random(&[2, 3, 16, 16], 0);
    let boxes =
        Tensor::from_slice(&[0.0f32, 0.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0]).view([1, 2, 4]).expand([2, 2, 4], false);
    let valid = Tensor::ones([2, 2], (Kind::Bool, Device::Cpu));
    let phrases = random(&[2, 2, 24], 3);
    for (head, grounds) in
        [(RegionHead::Prompter(prompter), true), (RegionHead::Prompter(prompter), false), (RegionHead::RoiAlign, false)]
    {
        let network = network(with(head, grounds));
        let regions = network.region_encoder().unwrap();
        let embedded = regions.encode_regions(&images, &boxes, &valid);
        assert_eq!(embedded.size(), [2, 2, 24]);
        // Another box and another image are another region.
        assert!(difference(&embedded.select(1, 0), &embedded.select(1, 1)) > 1e-3);
        assert!(difference(&embedded.get(0), &embedded.get(1)) > 1e-3);
        match regions.ground_phrases(&images, &phrases, &valid) {
            Some(found) => assert!(grounds && found.size() == [2, 2, 4] && scalar(&found.max()) <= 1.0),
            None => assert!(!grounds),
        }
        // The rest of the network starts as it would without.
        let name = "image_adapter.weight";
        let plain = self::network(0);
        assert_eq!(difference(network.parameters().get(name).unwrap(), plain.parameters().get(name).unwrap()), 0.0);
    }
    assert!(self::network(0).region_encoder().is_none());
    assert!(with(RegionHead::RoiAlign, true).validate().unwrap_err().contains("grounds phrases"));
}

#[test]
fn values_depend_on_the_seed_and_the_name_alone() {
    let (a, b) = (network(5), network(5));
    for ((name, x), (_, y)) in a.parameters().iter().zip(b.parameters().iter()) {
        assert!(values(x) == values(y), "{name}");
    }
    let other = network(6);
    let name = "image.blocks.0.attn.qkv.weight";
    assert!(difference(a.parameters().get(name).unwrap(), other.parameters().get(name).unwrap()) > 0.01);
    // A network with one more layer starts the shared ones with the same values.
    let plain = DualEncoderConfig { dense_layer: false, ..config(ImagePool::Average) };
    let plain = DualEncoder::new(plain, 5, Kind::Double, Device::Cpu);
    assert_eq!(difference(a.parameters().get(name).unwrap(), plain.parameters().get(name).unwrap()), 0.0);
}

#[test]
fn loading_reports_every_difference_and_copies_nothing() {
    let mut network = network(0);
    let mut source: BTreeMap<String, Tensor> =
        network.parameters().iter().map(|(name, tensor)| (name.to_owned(), tensor.detach().copy() + 1.0)).collect();
    source.remove("image.norm.weight");
    source.insert("image.norm.bias".into(), Tensor::zeros([5], tch::kind::DOUBLE_CPU));
    source.insert("surplus".into(), Tensor::zeros([5], tch::kind::DOUBLE_CPU));
    let before = values(network.parameters().get("text.norm.weight").unwrap());
    let found = network.parameters_mut().load(&source).unwrap_err();
    assert_eq!(
        found,
        [
            "shape: image.norm.bias is [5] in the file, [128] in the model",
            "missing: image.norm.weight [128]",
            "unknown: surplus",
        ]
    );
    assert!(values(network.parameters().get("text.norm.weight").unwrap()) == before);
}

#[test]
fn the_temperature_is_clamped() {
    let mut network = network(0);
    assert!((scalar(&network.logit_scale()) - 10.0).abs() < 1e-9);
    let _ = tch::no_grad(|| network.log_scale.shallow_clone().fill_(9.0));
    network.clamp_logit_scales();
    assert!((scalar(&network.logit_scale()) - 100.0).abs() < 1e-9);
}
