//! Tests of PACL: references in scalar loops, known values, invariances, gradients, simulated processes.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, cube, random, rows, scalar, values};

use super::*;
use crate::sample_inputs::Known;

mod reference {
    //! The equations in scalar f64 loops, u formed.

    use super::super::PooledPatches;
    use crate::objectives::clip::reference::{cosine, log_sum_exp};

    /// CE over texts and CE over images of s φ.
    pub fn losses(
        patches: &[Vec<Vec<f64>>],
        text: &[Vec<f64>],
        s: f64,
        attention: f64,
        pooled: PooledPatches,
    ) -> (f64, f64) {
        let b = patches.len();
        let score = |i: usize, j: usize| {
            let logits: Vec<f64> = patches[i].iter().map(|v| attention * cosine(v, &text[j])).collect();
            let total = log_sum_exp(&logits);
            let mut pool = vec![0.0; text[j].len()];
            for (logit, v) in logits.iter().zip(&patches[i]) {
                let norm = match pooled {
                    PooledPatches::Raw => 1.0,
                    PooledPatches::Unit => v.iter().map(|x| x * x).sum::<f64>().sqrt(),
                };
                pool.iter_mut().zip(v).for_each(|(sum, x)| *sum += (logit - total).exp() * x / norm);
            }
            s * cosine(&pool, &text[j])
        };
        let (mut over_texts, mut over_images) = (0.0, 0.0);
        for a in 0..b {
            let row: Vec<f64> = (0..b).map(|j| score(a, j)).collect();
            let column: Vec<f64> = (0..b).map(|i| score(i, a)).collect();
            over_texts += log_sum_exp(&row) - row[a];
            over_images += log_sum_exp(&column) - column[a];
        }
        (over_texts / b as f64, over_images / b as f64)
    }
}

fn config() -> PaclConfig {
    PaclConfig {
        attention_scale: 1.0,
        pooled_patches: PooledPatches::Raw,
        temperature: LocalTemperature::Shared,
        embedder: Embedder::Linear,
    }
}

fn loss(patches: &Tensor, text: &Tensor, scale: &Tensor, config: &PaclConfig, block: (i64, i64)) -> LossTerms {
    let inputs = PaclInputs {
        patches: Gathered::single(patches),
        text: Gathered::single(text),
        row_offset: 0,
        logit_scale: scale,
    };
    pacl_in_blocks(&inputs, config, block)
}

#[test]
fn gives_the_known_value() {
    let known = Known::new();
    let value = loss(&known.patches_bpd, &known.text_bd, &Tensor::from(10.0f64), &config(), (2, 2)).total;
    assert_close(scalar(&value), 0.5 * (0.973_199_951_2 + 0.973_652_348_0), 1e-9);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_reference(
        b in 1i64..6, p in 1i64..6, d in 2i64..5, seed in 0i64..1000, block in (1i64..6, 1i64..6), unit in any::<bool>(),
    ) {
        let pooled_patches = if unit { PooledPatches::Unit } else { PooledPatches::Raw };
        let config = PaclConfig { attention_scale: 3.0, pooled_patches, ..config() };
        let (patches, text) = (random(&[b, p, d], seed), random(&[b, d], seed + 1));
        let expected = reference::losses(&cube(&patches), &rows(&text), 7.0, 3.0, pooled_patches);
        let value = loss(&patches, &text, &Tensor::from(7.0f64), &config, block).total;
        assert_close(scalar(&value), 0.5 * (expected.0 + expected.1), 1e-9);
    }

    #[test]
    fn blocks_equal_the_whole(b in 2i64..6, seed in 0i64..1000, a in 1i64..4, c in 1i64..4) {
        let run = |block| {
            let leaves = [random(&[b, 3, 3], seed), random(&[b, 3], seed + 1), Tensor::from(5.0f64)]
                .map(|leaf| leaf.set_requires_grad(true));
            let value = loss(&leaves[0], &leaves[1], &leaves[2], &config(), block).total;
            value.backward();
            let mut numbers = vec![scalar(&value)];
            leaves.iter().for_each(|leaf| numbers.extend(values(&leaf.grad())));
            numbers
        };
        for (blocks, whole) in run((a, c)).into_iter().zip(run((b, b))) {
            assert_close(blocks, whole, 1e-10);
        }
    }

    #[test]
    fn patch_order_and_scale_of_texts_change_nothing(b in 2i64..5, seed in 0i64..1000) {
        let (patches, text, scale) = (random(&[b, 4, 3], seed), random(&[b, 3], seed + 1), Tensor::from(5.0f64));
        let value = scalar(&loss(&patches, &text, &scale, &config(), (2, 2)).total);
        let other = loss(&patches.flip([1]), &(text * 4.0), &scale, &config(), (2, 2)).total;
        assert_close(scalar(&other), value, 1e-10);
    }
}

#[test]
fn gradients_match_central_differences() {
    let (patches, text, scale) = (random(&[4, 3, 3], 1), random(&[4, 3], 2), Tensor::from(4.0f64));
    for pooled_patches in [PooledPatches::Raw, PooledPatches::Unit] {
        let config = PaclConfig { pooled_patches, attention_scale: 2.0, ..config() };
        check_gradient(&patches, 2e-6, |patches| loss(patches, &text, &scale, &config, (3, 2)).total);
        check_gradient(&text, 2e-6, |text| loss(&patches, text, &scale, &config, (3, 2)).total);
        check_gradient(&scale, 2e-6, |scale| loss(&patches, &text, scale, &config, (3, 2)).total);
    }
}

#[test]
fn ranks_add_up_to_the_whole() {
    let leaves = [random(&[12, 4, 3], 5), random(&[12, 3], 6), Tensor::from(7.0f64)];
    assert_ranks_add_up(12, &leaves, |leaves, rows| {
        let [patches, text, scale] = leaves else { unreachable!() };
        let inputs = PaclInputs {
            patches: Gathered { local: &rows.of(patches), global: patches },
            text: Gathered { local: &rows.of(text), global: text },
            row_offset: rows.offset,
            logit_scale: scale,
        };
        pacl_in_blocks(&inputs, &config(), (5, 4)).total
    });
}

#[test]
fn zero_patches_and_texts_give_finite_gradients() {
    let zeros = |shape: &[i64]| Tensor::zeros(shape, tch::kind::DOUBLE_CPU);
    for (patches, text) in [(zeros(&[3, 2, 4]), random(&[3, 4], 1)), (random(&[3, 2, 4], 1), zeros(&[3, 4]))] {
        let (patches, text) = (patches.set_requires_grad(true), text.set_requires_grad(true));
        let value = loss(&patches, &text, &Tensor::from(9.0f64), &config(), (3, 3)).total;
        value.backward();
        assert_close(scalar(&value), 3.0f64.ln(), 1e-12);
        assert!(values(&patches.grad()).iter().chain(&values(&text.grad())).all(|g| g.is_finite()));
    }
}

#[test]
fn blocks_are_small_where_texts_are_few() {
    assert_eq!(block(64, 196, 512), (8, 64));
    assert_eq!(block(4096, 196, 512), (1, 4096));
    assert_eq!(block(100_000, 196, 512), (1, 5349));
}

#[test]
fn both_ways_to_the_pooled_length_agree() {
    // 7 wide: pooled vectors for 2 texts, the Gram matrix for 30.
    let (weights, values_apd) = (random(&[3, 30, 5], 1), random(&[3, 5, 7], 2));
    let all = pooled_squared(&weights, &values_apd);
    let few = pooled_squared(&weights.narrow(1, 0, 2), &values_apd);
    assert!((all.narrow(1, 0, 2) - few).abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn patches_that_cancel_make_no_cosine_above_one() {
    let patches = Tensor::from_slice(&[1.0f32, 2e-4, -1.0, 2e-4]).view([1, 2, 2]);
    let text = Tensor::from_slice(&[0.0f32, 1.0]).view([1, 2]);
    for texts in [1, 9] {
        let scores = scores(&patches, &text.repeat([texts, 1]), 1.0, PooledPatches::Raw);
        assert!((scores - 1.0).abs().max().double_value(&[]) < 1e-6, "{texts} texts");
    }
}

#[test]
fn nothing_to_score_gives_empty_scores() {
    for (a, c) in [(0, 3), (3, 0)] {
        assert_eq!(scores(&random(&[a, 2, 4], 1), &random(&[c, 4], 2), 1.0, PooledPatches::Raw).size(), [a, c]);
    }
}

#[test]
fn wrong_values_are_named() {
    let wrong = PaclConfig { attention_scale: f64::NAN, ..config() };
    assert!(wrong.validate().unwrap_err().contains("attention_scale"));
}
