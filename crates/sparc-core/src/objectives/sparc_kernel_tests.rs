//! The fused kernel of SPARC's local loss against the composition of tch operations.

use proptest::prelude::*;
use sparc_testing::{assert_close, random, scalar, values};
use tch::{Device, Kind, Tensor};

use super::*;

const CONFIG: SparcConfig = SparcConfig {
    lambda_global: 0.0,
    lambda_local: 1.0,
    weights: AlignmentWeights::Minmax,
    threshold: Threshold::InversePatches,
    detach_weights: false,
    reduction: Reduction::Token,
    local_temperature: LocalTemperature::Shared,
    eps: 1e-6,
};

/// What goes into L_f.
struct Input {
    patches: Tensor,
    tokens: Tensor,
    mask: Tensor,
    scale: Tensor,
}

impl Input {
    fn random(b: i64, l: i64, p: i64, d: i64, seed: i64) -> Self {
        Self {
            patches: random(&[b, p, d], seed),
            tokens: random(&[b, l, d], seed + 1),
            mask: random(&[b, l], seed + 2).gt(-0.5),
            scale: Tensor::from(7.0f64),
        }
    }

    fn to_kind(&self, kind: Kind) -> Self {
        Self {
            patches: self.patches.to_kind(kind),
            tokens: self.tokens.to_kind(kind),
            mask: self.mask.shallow_clone(),
            scale: self.scale.to_kind(kind),
        }
    }

    fn loss(&self, kernel: Kernel, config: &SparcConfig) -> LossTerms {
        let pooled = self.tokens.select(1, 0);
        let inputs = SparcInputs {
            patches_bpd: &self.patches,
            tokens_bld: &self.tokens,
            mask_bl: &self.mask,
            image: Gathered::single(&pooled),
            text: Gathered::single(&pooled),
            row_offset: 0,
            logit_scale: &self.scale,
            local_logit_scale: &self.scale,
            denominator: None,
        };
        sparc_loss_by(kernel, &inputs, config)
    }

    /// The loss, both diagnostics and the gradients of patches, tokens and scale.
    fn run(&self, kernel: Kernel, config: &SparcConfig) -> Vec<Tensor> {
        let leaf = |x: &Tensor| x.detach().copy().set_requires_grad(true);
        let leaves = Self {
            patches: leaf(&self.patches),
            tokens: leaf(&self.tokens),
            mask: self.mask.shallow_clone(),
            scale: leaf(&self.scale),
        };
        let terms = leaves.loss(kernel, config);
        terms.total.backward();
        let mut results = vec![terms.total.detach()];
        results.extend(terms.diagnostics.iter().map(|(_, value)| value.shallow_clone()));
        results.extend([&leaves.patches, &leaves.tokens, &leaves.scale].map(Tensor::grad));
        results
    }

    /// The largest difference between the kernels in value, gradients and sizes of groups, relative to values
    /// above 1. Accuracies are left out: between equal cosines rounding decides which is nearest.
    fn difference(&self, config: &SparcConfig) -> f64 {
        let (fused, composed) = (self.run(Kernel::Fused, config), self.run(Kernel::Composed, config));
        let pairs = fused.iter().zip(&composed).enumerate().filter(|(i, _)| *i != ACCURACY);
        pairs.map(|(_, (a, b))| relative(a, b)).fold(0.0, f64::max)
    }
}

/// Where [`Input::run`] has the accuracy.
const ACCURACY: usize = 1;

fn relative(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!((a.kind(), a.size()), (b.kind(), b.size()));
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    if a.numel() == 0 {
        return 0.0;
    }
    let difference = scalar(&((&a - &b).abs() / b.abs().clamp_min(1.0)).max());
    assert!(difference.is_finite(), "{difference} between {a} and {b}");
    difference
}

fn any_config() -> impl Strategy<Value = SparcConfig> {
    let weights =
        prop_oneof![Just(AlignmentWeights::Minmax), Just(AlignmentWeights::Softmax), Just(AlignmentWeights::None)];
    let threshold = prop_oneof![
        Just(Threshold::InversePatches),
        Just(Threshold::Fixed(0.0)),
        (0.0..1.0f64).prop_map(Threshold::Fixed)
    ];
    let reduction = prop_oneof![Just(Reduction::Token), Just(Reduction::Caption)];
    (weights, threshold, reduction, any::<bool>()).prop_map(|(weights, threshold, reduction, detach_weights)| {
        SparcConfig { weights, threshold, reduction, detach_weights, ..CONFIG }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn fused_equals_composed(
        // Of one dimension, directions have no gradient: what is compared would be rounding over a length near 0.
        config in any_config(), b in 1i64..5, l in 1i64..8, p in 1i64..10, d in 2i64..7, scale in -5.0f64..40.0,
        seed in 0i64..10_000,
    ) {
        let input = Input { scale: Tensor::from(scale), ..Input::random(b, l, p, d, seed) };
        prop_assert!(input.difference(&config) < 1e-10);
    }

    #[test]
    fn fused_equals_composed_where_similarities_tie(config in any_config(), seed in 0i64..10_000) {
        // Small whole numbers: minima and maxima are shared, rows flat, vectors zero.
        let input = Input::random(3, 5, 6, 2, seed);
        let whole = |x: &Tensor| (x * 1.3).round();
        let input = Input { patches: whole(&input.patches), tokens: whole(&input.tokens), ..input };
        prop_assert!(input.difference(&config) < 1e-10);
    }
}

#[test]
fn accuracies_agree_without_ties() {
    for seed in 0..20 {
        let input = Input::random(3, 6, 5, 4, seed);
        let [fused, composed] =
            [Kernel::Fused, Kernel::Composed].map(|kernel| scalar(&input.run(kernel, &CONFIG)[ACCURACY]));
        assert_close(fused, composed, 1e-7);
    }
    // Equal tokens are equally near: the first of them is taken for the nearest.
    let input = Input::random(1, 4, 5, 3, 0);
    let tokens = input.tokens.narrow(1, 0, 1).expand([1, 4, 3], false).contiguous();
    let mask = Tensor::ones([1, 4], (Kind::Bool, Device::Cpu));
    assert_eq!(scalar(&Input { tokens, mask, ..input }.run(Kernel::Fused, &CONFIG)[ACCURACY]), 0.25);
}

#[test]
fn large_random_inputs_agree_in_every_precision() {
    for weights in [AlignmentWeights::Minmax, AlignmentWeights::Softmax, AlignmentWeights::None] {
        let config = SparcConfig { weights, ..CONFIG };
        let input = Input::random(5, 21, 49, 64, 1);
        assert!(input.difference(&config) < 1e-10);
        // A weight within rounding of the threshold may fall on either side.
        assert!(input.to_kind(Kind::Float).difference(&config) < 1e-4);
    }
}

#[test]
fn edge_cases_agree() {
    let mask_of = |lengths: &[i64]| {
        let lengths = Tensor::from_slice(lengths).unsqueeze(1);
        Tensor::arange(4, (Kind::Int64, Device::Cpu)).unsqueeze(0).lt_tensor(&lengths)
    };
    let cases = [
        ("equal patches", Tensor::ones([2, 5, 3], tch::kind::DOUBLE_CPU), [4, 2]),
        ("zero patches", Tensor::zeros([2, 5, 3], tch::kind::DOUBLE_CPU), [4, 2]),
        ("one patch", random(&[2, 1, 3], 1), [4, 2]),
        ("one token", random(&[2, 5, 3], 1), [1, 1]),
        ("an empty caption", random(&[2, 5, 3], 1), [0, 3]),
        ("nothing but padding", random(&[2, 5, 3], 1), [0, 0]),
    ];
    for (name, patches, lengths) in cases {
        for reduction in [Reduction::Token, Reduction::Caption] {
            let input =
                Input { patches: patches.shallow_clone(), mask: mask_of(&lengths), ..Input::random(2, 4, 5, 3, 2) };
            let config = SparcConfig { reduction, ..CONFIG };
            assert!(input.difference(&config) < 1e-10, "{name}");
            assert!(input.to_kind(Kind::Float).difference(&config) < 1e-4, "{name}");
        }
    }
}

#[test]
fn padding_may_hold_nan_and_gets_no_gradient() {
    let clean = Input::random(3, 6, 5, 4, 3);
    let padding = clean.mask.logical_not().unsqueeze(-1);
    let dirty = Input { tokens: clean.tokens.masked_fill(&padding, f64::NAN), ..Input::random(3, 6, 5, 4, 3) };
    let (clean, dirty) = (clean.run(Kernel::Fused, &CONFIG), dirty.run(Kernel::Fused, &CONFIG));
    for (clean, dirty) in clean.iter().zip(&dirty) {
        assert_eq!(values(clean), values(dirty));
    }
    assert_eq!(scalar(&dirty[4].masked_select(&padding).abs().sum(Kind::Double)), 0.0);
}

#[test]
fn nan_in_a_valid_token_or_a_patch_is_not_hidden() {
    for weights in [AlignmentWeights::Minmax, AlignmentWeights::Softmax, AlignmentWeights::None] {
        for in_patches in [false, true] {
            let input = Input { mask: Tensor::ones([1, 3], (Kind::Bool, Device::Cpu)), ..Input::random(1, 3, 5, 4, 3) };
            let tensor = if in_patches { &input.patches } else { &input.tokens };
            let _ = tensor.get(0).get(1).get(2).fill_(f64::NAN);
            let loss = input.loss(Kernel::Fused, &SparcConfig { weights, ..CONFIG }).total;
            assert!(scalar(&loss).is_nan(), "{weights:?}, patches: {in_patches}");
        }
    }
}

#[test]
fn strided_inputs_agree() {
    let dense = Input::random(3, 6, 5, 4, 4);
    let expected = dense.run(Kernel::Composed, &CONFIG);
    let strided = [
        // Without a class token; every other row; dimensions swapped; one image for all.
        Tensor::cat(&[&random(&[3, 1, 4], 9), &dense.patches], 1).narrow(1, 1, 5),
        Tensor::stack(&[&dense.patches, &dense.patches], 2).select(2, 0),
        dense.patches.transpose(1, 2).contiguous().transpose(1, 2),
    ];
    for patches in strided {
        assert!(!patches.is_contiguous());
        let (patches, tokens) = (patches.set_requires_grad(true), dense.tokens.transpose(0, 1).contiguous());
        let input = Input { patches, tokens: tokens.transpose(0, 1), ..Input::random(3, 6, 5, 4, 4) };
        let loss = input.loss(Kernel::Fused, &CONFIG).total;
        loss.backward();
        assert!(relative(&loss.detach(), &expected[0]) < 1e-12);
        assert!(relative(&input.patches.grad(), &expected[3]) < 1e-12);
    }
    // One patch: the stride of that dimension is 1, which says nothing.
    let single = Input { patches: random(&[3, 4, 1], 1).transpose(1, 2), ..Input::random(3, 6, 1, 4, 4) };
    assert_eq!(single.patches.stride(), [4, 1, 1]);
    assert!(single.difference(&CONFIG) < 1e-10);
    let shared = Input { patches: random(&[1, 5, 4], 1).expand([3, 5, 4], false), ..Input::random(3, 6, 5, 4, 4) };
    assert!(shared.difference(&CONFIG) < 1e-10);
}

#[test]
fn half_precision_goes_in_and_comes_out() {
    for kind in [Kind::BFloat16, Kind::Half] {
        let input = Input::random(4, 6, 5, 8, 5);
        let input = Input { patches: input.patches.to_kind(kind), tokens: input.tokens.to_kind(kind), ..input };
        let (fused, composed) = (input.run(Kernel::Fused, &CONFIG), input.run(Kernel::Composed, &CONFIG));
        assert_eq!((fused[0].kind(), fused[3].kind(), fused[4].kind()), (Kind::Float, kind, kind));
        assert!(relative(&fused[0], &composed[0]) < 1e-5);
        for (fused, composed) in fused[3..].iter().zip(&composed[3..]) {
            assert!(relative(fused, composed) < 1e-2);
        }
    }
}

#[test]
fn gradients_go_only_where_they_are_wanted() {
    let input = Input::random(3, 6, 5, 4, 6);
    let expected = input.run(Kernel::Composed, &CONFIG);
    for wanted in 1..8 {
        let leaf = |i: i32, x: &Tensor| x.detach().copy().set_requires_grad(wanted & (1 << i) != 0);
        let leaves = [leaf(0, &input.patches), leaf(1, &input.tokens), leaf(2, &input.scale)];
        let [patches, tokens, scale] = leaves.each_ref().map(Tensor::shallow_clone);
        Input { patches, tokens, scale, mask: input.mask.shallow_clone() }
            .loss(Kernel::Fused, &CONFIG)
            .total
            .backward();
        for (i, leaf) in leaves.iter().enumerate() {
            assert_eq!(leaf.grad().defined(), leaf.requires_grad());
            if leaf.requires_grad() {
                assert!(relative(&leaf.grad(), &expected[3 + i]) < 1e-10);
            }
        }
    }
    assert!(!input.loss(Kernel::Fused, &CONFIG).total.requires_grad());
    let leaf = Input { patches: input.patches.copy().set_requires_grad(true), ..Input::random(3, 6, 5, 4, 6) };
    let value = tch::no_grad(|| leaf.loss(Kernel::Fused, &CONFIG).total);
    assert!(!value.requires_grad());
    assert_close(scalar(&value), scalar(&expected[0]), 1e-12);
}

#[test]
fn second_derivatives_second_runs_and_changed_inputs_are_errors() {
    let input = Input { patches: random(&[3, 5, 4], 1).set_requires_grad(true), ..Input::random(3, 6, 5, 4, 7) };
    let loss = || input.loss(Kernel::Fused, &CONFIG).total;
    let error = Tensor::f_run_backward(&[loss()], &[&input.patches], true, true).unwrap_err();
    assert!(error.to_string().contains("no second derivative"), "{error}");
    let twice = loss();
    twice.backward();
    assert!(twice.f_backward().is_err());
    let changed = loss();
    let _ = tch::no_grad(|| input.tokens.shallow_clone().fill_(1.0));
    let error = changed.f_backward().unwrap_err();
    assert!(error.to_string().contains("modified by an inplace operation"), "{error}");
}

#[test]
fn results_are_bitwise_the_same_on_any_number_of_threads() {
    let input = Input::random(7, 19, 49, 96, 8).to_kind(Kind::Float);
    let threads = tch::get_num_threads();
    let run = |count: i32| {
        tch::set_num_threads(count);
        let results = input.run(Kernel::Fused, &CONFIG);
        tch::set_num_threads(threads);
        results.iter().map(values).collect::<Vec<_>>()
    };
    let one = run(1);
    for count in [1, 2, 3] {
        assert_eq!(run(count), one);
    }
}

#[test]
fn the_kernel_is_chosen_by_device_and_kind() {
    let kernel = |patches: &Tensor, tokens: &Tensor| {
        let input =
            Input { patches: patches.shallow_clone(), tokens: tokens.shallow_clone(), ..Input::random(2, 3, 4, 5, 0) };
        let pooled = input.tokens.select(1, 0);
        Kernel::of(&SparcInputs {
            patches_bpd: &input.patches,
            tokens_bld: &input.tokens,
            mask_bl: &input.mask,
            image: Gathered::single(&pooled),
            text: Gathered::single(&pooled),
            row_offset: 0,
            logit_scale: &input.scale,
            local_logit_scale: &input.scale,
            denominator: None,
        })
    };
    let (patches, tokens) = (random(&[2, 4, 5], 0), random(&[2, 3, 5], 0));
    assert_eq!(kernel(&patches, &tokens), Kernel::Fused);
    assert_eq!(kernel(&patches.to_kind(Kind::BFloat16), &tokens.to_kind(Kind::Float)), Kernel::Fused);
    assert_eq!(kernel(&patches, &tokens.to_kind(Kind::Float)), Kernel::Composed);
    assert_eq!(kernel(&patches.to_kind(Kind::Int64), &tokens), Kernel::Composed);
}
