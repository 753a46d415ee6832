//! Tests of SPARC's loss: the reference values, the scalar reference, gradients, invariances, edge cases.

use proptest::prelude::*;
use sparc_testing::{assert_close, check_gradient, cube, random, scalar, values};
use tch::{Kind, Tensor};

use super::*;

fn config() -> SparcConfig {
    SparcConfig {
        lambda_global: 0.5,
        lambda_local: 1.0,
        weights: AlignmentWeights::Minmax,
        threshold: Threshold::InversePatches,
        detach_weights: false,
        reduction: Reduction::Token,
        local_temperature: LocalTemperature::Shared,
        eps: 1e-6,
    }
}

/// The reference input: B=3, P=5, N=4, d=3, mask rows 1111/1110/1000, 1/τ = 10.
struct Example {
    patches: Tensor,
    tokens: Tensor,
    mask: Tensor,
    scale: Tensor,
}

fn example() -> Example {
    let wave = |count: i64, shape: &[i64], f: fn(f64) -> f64| {
        Tensor::from_slice(&(0..count).map(|k| f(k as f64)).collect::<Vec<_>>()).reshape(shape)
    };
    Example {
        patches: wave(45, &[3, 5, 3], |k| (0.7 * k + 0.3).sin()),
        tokens: wave(36, &[3, 4, 3], |k| (0.5 * k - 0.2).cos()),
        mask: mask_of(&[4, 3, 1], 4),
        scale: Tensor::from(10.0f64),
    }
}

fn mask_of(lengths: &[i64], width: i64) -> Tensor {
    let lengths = Tensor::from_slice(lengths).unsqueeze(1);
    Tensor::arange(width, (Kind::Int64, tch::Device::Cpu)).unsqueeze(0).lt_tensor(&lengths)
}

fn local(patches: &Tensor, tokens: &Tensor, mask: &Tensor, scale: &Tensor, config: &SparcConfig) -> Tensor {
    let pooled = tokens.select(1, 0);
    let inputs = SparcInputs {
        patches_bpd: patches,
        tokens_bld: tokens,
        mask_bl: mask,
        image: Gathered::single(&pooled),
        text: Gathered::single(&pooled),
        row_offset: 0,
        logit_scale: scale,
        local_logit_scale: scale,
        denominator: None,
    };
    sparc_loss(&inputs, &SparcConfig { lambda_global: 0.0, ..config.clone() }).total
}

impl Example {
    fn local(&self, config: &SparcConfig) -> f64 {
        scalar(&local(&self.patches, &self.tokens, &self.mask, &self.scale, config))
    }
}

#[test]
fn weights_have_the_reference_values() {
    let e = example();
    let weights = alignment_weights(&e.patches, &e.tokens, &e.mask, &config());
    for (b, l, expected) in [
        (0, 0, [0.3113681850, 0.1892325851, 0.0, 0.3132022668, 0.1861969632]),
        (0, 1, [0.0, 0.3679265314, 0.2616212357, 0.0, 0.3704522329]),
        (2, 0, [0.2317385440, 0.0, 0.5417738979, 0.2264875581, 0.0]),
    ] {
        for (actual, expected) in values(&weights.get(b).get(l)).into_iter().zip(expected) {
            assert_close(actual, expected, 1e-9);
        }
    }
}

#[test]
fn losses_have_the_reference_values() {
    let e = example();
    let caption = SparcConfig { reduction: Reduction::Caption, ..config() };
    assert_close(e.local(&config()), 0.0510759282, 1e-9);
    assert_close(e.local(&caption), 0.0353144702, 1e-9);
    let dense = |c: &SparcConfig| SparcConfig { threshold: Threshold::Fixed(0.0), ..c.clone() };
    assert_close(e.local(&dense(&config())), 0.0510798660, 1e-9);
    assert_close(e.local(&dense(&caption)), 0.0352262476, 1e-9);
    let softmax = |c: &SparcConfig| SparcConfig { weights: AlignmentWeights::Softmax, ..dense(c) };
    assert_close(e.local(&softmax(&config())), 0.3016520359, 1e-9);
    assert_close(e.local(&softmax(&caption)), 0.2137795231, 1e-9);
    let unit = Example { patches: l2_normalize(&e.patches), ..example() };
    assert_close(unit.local(&config()), 0.0965338674, 1e-9);
    let equal = Example { patches: e.patches.narrow(1, 0, 1).expand([3, 5, 3], false).contiguous(), ..example() };
    assert_close(equal.local(&config()), 4.9194388879, 1e-9);
    assert_close(equal.local(&caption), 3.7750140452, 1e-9);
}

#[test]
fn f32_agrees_with_the_reference_values() {
    let e = example();
    let value = local(
        &e.patches.to_kind(Kind::Float),
        &e.tokens.to_kind(Kind::Float),
        &e.mask,
        &e.scale.to_kind(Kind::Float),
        &config(),
    );
    assert_eq!(value.kind(), Kind::Float);
    assert_close(scalar(&value), 0.0510759282, 1e-5);
}

#[test]
fn total_has_the_reference_value() {
    let e = example();
    let image = e.patches.mean_dim([1i64].as_slice(), false, None::<Kind>);
    let text = crate::tensor_math::masked_mean(&e.tokens, &e.mask);
    let terms = sparc_loss(
        &SparcInputs {
            patches_bpd: &e.patches,
            tokens_bld: &e.tokens,
            mask_bl: &e.mask,
            image: Gathered::single(&image),
            text: Gathered::single(&text),
            row_offset: 0,
            logit_scale: &e.scale,
            local_logit_scale: &e.scale,
            denominator: None,
        },
        &config(),
    );
    assert_close(scalar(terms.get("global").unwrap()), 16.5642965312, 1e-9);
    assert_close(scalar(terms.get("local").unwrap()), 0.0510759282, 1e-9);
    assert_close(scalar(&terms.total), 8.3332241939, 1e-9);
}

#[test]
fn gradients_have_the_reference_values() {
    for (detach_weights, of_patches, of_tokens) in [
        (false, [0.1352668, 0.0882371, 0.0776787, 0.0], [-0.0853856, 0.2558995]),
        (true, [0.1578051, 0.0673346, 0.0618944, 0.0], [-0.0846437, -0.0203505]),
    ] {
        let e = example();
        let (patches, tokens) = (e.patches.set_requires_grad(true), e.tokens.set_requires_grad(true));
        local(&patches, &tokens, &e.mask, &e.scale, &SparcConfig { detach_weights, ..config() }).backward();
        let (patches, tokens) = (patches.grad(), tokens.grad());
        for (index, expected) in [[0, 0, 0], [0, 3, 1], [1, 2, 2], [2, 0, 0]].iter().zip(of_patches) {
            assert_close(patches.double_value(index), expected, 1e-6);
        }
        for (index, expected) in [[0, 0, 0], [1, 1, 1]].iter().zip(of_tokens) {
            assert_close(tokens.double_value(index), expected, 1e-6);
        }
    }
}

fn any_config() -> impl Strategy<Value = SparcConfig> {
    let weights =
        prop_oneof![Just(AlignmentWeights::Minmax), Just(AlignmentWeights::Softmax), Just(AlignmentWeights::None)];
    let threshold = prop_oneof![Just(Threshold::InversePatches), (0.0..0.9f64).prop_map(Threshold::Fixed)];
    let reduction = prop_oneof![Just(Reduction::Token), Just(Reduction::Caption)];
    (weights, threshold, reduction).prop_map(|(weights, threshold, reduction)| SparcConfig {
        weights,
        threshold,
        reduction,
        ..config()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_scalar_reference(
        config in any_config(), lengths in prop::collection::vec(0i64..6, 1..5), p in 1i64..8, d in 1i64..5,
        scale in 0.5f64..30.0, seed in 0i64..10_000,
    ) {
        let b = lengths.len() as i64;
        let (patches, tokens) = (random(&[b, p, d], seed), random(&[b, 6, d], seed + 1));
        let value = local(&patches, &tokens, &mask_of(&lengths, 6), &Tensor::from(scale), &config);
        let lengths: Vec<usize> = lengths.iter().map(|&l| l as usize).collect();
        let (forward, backward) = reference::local_loss(&cube(&patches), &cube(&tokens), &lengths, scale, &config);
        assert_close(scalar(&value), 0.5 * (forward + backward), 1e-9);
    }

    #[test]
    fn scaling_tokens_permuting_patches_and_appending_padding_change_nothing(seed in 0i64..10_000, factor in 0.1f64..9.0) {
        let (patches, tokens) = (random(&[3, 5, 4], seed), random(&[3, 4, 4], seed + 1));
        let (mask, scale) = (mask_of(&[4, 2, 1], 4), Tensor::from(8.0f64));
        let value = scalar(&local(&patches, &tokens, &mask, &scale, &config()));
        assert_close(scalar(&local(&patches, &(&tokens * factor), &mask, &scale, &config())), value, 1e-9);
        assert_close(scalar(&local(&patches.flip([1]), &tokens, &mask, &scale, &config())), value, 1e-9);
        let padding = Tensor::full([3, 3, 4], f64::NAN, tch::kind::DOUBLE_CPU);
        let padded = Tensor::cat(&[&tokens, &padding], 1);
        assert_close(scalar(&local(&patches, &padded, &mask_of(&[4, 2, 1], 7), &scale, &config())), value, 1e-12);
    }

    #[test]
    fn rows_of_weights_sum_to_one_and_drop_a_patch(p in 2i64..9, seed in 0i64..10_000) {
        let (patches, tokens) = (random(&[2, p, 4], seed), random(&[2, 3, 4], seed + 1));
        let weights = alignment_weights(&patches, &tokens, &mask_of(&[3, 2], 3), &config());
        for row in cube(&weights).iter().enumerate().flat_map(|(b, rows)| rows[..3 - b].to_vec()) {
            assert_close(row.iter().sum::<f64>(), 1.0, 1e-12);
            prop_assert!(row.contains(&0.0));
        }
    }
}

#[test]
fn gradients_match_central_differences() {
    // Away from the kinks of the threshold, the switches' gradients are smooth.
    for (weights, reduction, detached) in [
        (AlignmentWeights::Minmax, Reduction::Token, false),
        (AlignmentWeights::Minmax, Reduction::Caption, false),
        (AlignmentWeights::Softmax, Reduction::Token, false),
        (AlignmentWeights::None, Reduction::Token, true),
    ] {
        let config = SparcConfig { weights, reduction, detach_weights: detached, ..config() };
        let e = example();
        check_gradient(&e.patches, 1e-6, |patches| local(patches, &e.tokens, &e.mask, &e.scale, &config));
        check_gradient(&e.tokens, 1e-6, |tokens| local(&e.patches, tokens, &e.mask, &e.scale, &config));
        check_gradient(&e.scale, 1e-6, |scale| local(&e.patches, &e.tokens, &e.mask, scale, &config));
    }
}

#[test]
fn captions_do_not_see_each_other() {
    let e = example();
    let patches = e.patches.set_requires_grad(true);
    // Without sample 1's tokens, nothing may flow into its patches.
    local(&patches, &e.tokens, &mask_of(&[4, 0, 1], 4), &e.scale, &config()).backward();
    assert_eq!(scalar(&patches.grad().get(1).abs().max()), 0.0);
    assert!(scalar(&patches.grad().get(0).abs().max()) > 0.0);
}

#[test]
fn one_token_captions_cost_nothing() {
    let e = example();
    assert_eq!(scalar(&local(&e.patches, &e.tokens, &mask_of(&[1, 1, 1], 4), &e.scale, &config())), 0.0);
}

#[test]
fn edge_cases_are_finite_with_finite_gradients() {
    for kind in [Kind::Float, Kind::Double] {
        let cases = [
            ("equal patches", Tensor::ones([2, 5, 3], (kind, tch::Device::Cpu)), vec![4, 2]),
            ("zero patches", Tensor::zeros([2, 5, 3], (kind, tch::Device::Cpu)), vec![4, 2]),
            ("one patch", random(&[2, 1, 3], 1).to_kind(kind), vec![4, 2]),
            ("one token", random(&[2, 5, 3], 1).to_kind(kind), vec![1, 1]),
            ("an empty caption", random(&[2, 5, 3], 1).to_kind(kind), vec![0, 3]),
            ("nothing but padding", random(&[2, 5, 3], 1).to_kind(kind), vec![0, 0]),
        ];
        for (name, patches, lengths) in cases {
            for reduction in [Reduction::Token, Reduction::Caption] {
                let patches = patches.detach().copy().set_requires_grad(true);
                let tokens = random(&[2, 4, 3], 2).to_kind(kind).set_requires_grad(true);
                let scale = Tensor::from(100.0).to_kind(kind).set_requires_grad(true);
                let value =
                    local(&patches, &tokens, &mask_of(&lengths, 4), &scale, &SparcConfig { reduction, ..config() });
                value.backward();
                for tensor in [&value, &patches.grad(), &tokens.grad(), &scale.grad()] {
                    assert!(tensor.isfinite().all().int64_value(&[]) == 1, "{name}, {kind:?}: {tensor}");
                }
            }
        }
    }
}

#[test]
fn all_but_equal_patches_in_f32_are_grouped_equally() {
    // Rounding noise in otherwise equal similarities must not be blown up to weights of 0 and 1.
    let patches =
        (Tensor::ones([1, 6, 8], tch::kind::FLOAT_CPU) + random(&[1, 6, 8], 3).to_kind(Kind::Float) * 1e-8) * 100.0;
    let tokens = random(&[1, 2, 8], 4).to_kind(Kind::Float);
    let weights = alignment_weights(&patches, &tokens, &mask_of(&[2], 2), &config());
    assert!(scalar(&(weights - 1.0 / 6.0).abs().max()) < 1e-6);
}

#[test]
fn bf16_inputs_are_computed_in_f32() {
    let e = example();
    let narrow = |x: &Tensor| x.to_kind(Kind::BFloat16);
    let value = local(&narrow(&e.patches), &narrow(&e.tokens), &e.mask, &e.scale, &config());
    assert_eq!(value.kind(), Kind::Float);
    // bf16 keeps 8 bits: inputs are off by up to 0.4 %, logits of up to 10 by a few hundredths.
    assert!((scalar(&value) - 0.0510759).abs() < 0.01, "{value}");
}

#[test]
fn processes_with_uneven_tokens_add_up_to_the_whole() {
    let (patches, tokens, scale) = (random(&[6, 5, 3], 1), random(&[6, 4, 3], 2), Tensor::from(6.0f64));
    let mask = mask_of(&[4, 3, 1, 0, 2, 4], 4);
    for reduction in [Reduction::Token, Reduction::Caption] {
        let config = SparcConfig { reduction, ..config() };
        let pooled = tokens.select(1, 0);
        let run = |parts: i64| {
            let patches = patches.detach().copy().set_requires_grad(true);
            let size = 6 / parts;
            let denominators: Vec<Tensor> =
                (0..parts).map(|i| denominator(&mask.narrow(0, i * size, size), reduction)).collect();
            let denominator = Tensor::stack(&denominators, 0).mean(Kind::Double);
            let losses: Vec<Tensor> = (0..parts)
                .map(|i| {
                    let part = |x: &Tensor| x.narrow(0, i * size, size);
                    let inputs = SparcInputs {
                        patches_bpd: &part(&patches),
                        tokens_bld: &part(&tokens),
                        mask_bl: &part(&mask),
                        image: Gathered { local: &part(&pooled), global: &pooled },
                        text: Gathered { local: &part(&pooled), global: &pooled },
                        row_offset: i * size,
                        logit_scale: &scale,
                        local_logit_scale: &scale,
                        denominator: Some(&denominator),
                    };
                    sparc_loss(&inputs, &config).total
                })
                .collect();
            let mean = Tensor::stack(&losses, 0).mean(Kind::Double);
            mean.backward();
            (scalar(&mean), patches.grad())
        };
        let whole = run(1);
        for parts in [2, 3] {
            let split = run(parts);
            assert_close(split.0, whole.0, 1e-12);
            assert!(scalar(&(split.1 - &whole.1).abs().max()) < 1e-12);
        }
    }
}

#[test]
fn wrong_values_are_named() {
    let wrong = SparcConfig { threshold: Threshold::Fixed(1.5), ..config() };
    assert!(wrong.validate().unwrap_err().contains("threshold"));
    let nothing = SparcConfig { lambda_global: 0.0, lambda_local: 0.0, ..config() };
    assert!(nothing.validate().unwrap_err().contains("lambda_global"));
}
