//! Tests of FILIP: references in scalar loops, known values, invariances, gradients, simulated processes.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, cube, random, scalar, values};

use super::*;
use crate::sample_inputs::{Known, captions, prefix_mask};

mod reference {
    //! Equations 3–5 in scalar f64 loops.

    use crate::objectives::clip::reference::{cosine, log_sum_exp};

    /// CE over texts of I, CE over images of T.
    pub fn losses(patches: &[Vec<Vec<f64>>], tokens: &[Vec<Vec<f64>>], lengths: &[usize], s: f64) -> (f64, f64) {
        let b = patches.len();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let largest = |values: Vec<f64>| values.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let (mut over_texts, mut over_images) = (0.0, 0.0);
        for a in 0..b {
            let image = |i: usize, j: usize| {
                let words = &tokens[j][..lengths[j]];
                if words.is_empty() {
                    return 0.0;
                }
                mean(patches[i].iter().map(|v| largest(words.iter().map(|t| cosine(v, t)).collect())).collect())
            };
            let text = |j: usize, i: usize| {
                mean(
                    tokens[j][..lengths[j]]
                        .iter()
                        .map(|t| largest(patches[i].iter().map(|v| cosine(v, t)).collect()))
                        .collect(),
                )
            };
            let row: Vec<f64> = (0..b).map(|j| s * image(a, j)).collect();
            let column: Vec<f64> = (0..b).map(|i| s * text(a, i)).collect();
            over_texts += log_sum_exp(&row) - row[a];
            over_images += log_sum_exp(&column) - column[a];
        }
        (over_texts / b as f64, over_images / b as f64)
    }
}

fn inputs<'a>(patches: &'a Tensor, tokens: &'a Tensor, mask: &'a Tensor, logit_scale: &'a Tensor) -> FilipInputs<'a> {
    FilipInputs {
        patches: Gathered::single(patches),
        tokens: Gathered::single(tokens),
        mask: Gathered::single(mask),
        row_offset: 0,
        logit_scale,
    }
}

#[test]
fn gives_the_known_value() {
    let known = Known::new();
    let scale = Tensor::from(10.0f64);
    let terms = filip_loss(&inputs(&known.patches_bpd, &known.tokens_bld, &known.mask_bl, &scale));
    assert_close(scalar(&terms.total), 2.856_692_058_6, 1e-9);
    let single = known.patches_bpd.to_kind(Kind::Float);
    let terms = filip_loss(&inputs(&single, &known.tokens_bld.to_kind(Kind::Float), &known.mask_bl, &scale));
    assert_close(scalar(&terms.total), 2.856_692_058_6, 1e-5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn kernel_and_blocks_agree_with_the_reference(
        b in 1i64..6, p in 1i64..6, l in 1i64..5, d in 2i64..5, seed in 0i64..1000, a in 1i64..6, c in 1i64..6,
    ) {
        let patches = random(&[b, p, d], seed);
        let (tokens, mask, lengths) = captions(b, l, d, seed);
        let expected = reference::losses(&cube(&patches), &cube(&tokens), &lengths, 6.0);
        let run = |loss: &dyn Fn(&FilipInputs) -> LossTerms| {
            let leaves = [patches.copy(), tokens.copy(), Tensor::from(6.0f64)].map(|leaf| leaf.set_requires_grad(true));
            let terms = loss(&inputs(&leaves[0], &leaves[1], &mask, &leaves[2]));
            assert_close(scalar(&terms.total), 0.5 * (expected.0 + expected.1), 1e-10);
            terms.total.backward();
            leaves.iter().flat_map(|leaf| values(&leaf.grad())).collect::<Vec<f64>>()
        };
        let (kernel, blocks) = (run(&by_maxima), run(&|inputs| by_blocks(inputs, (a, c))));
        for (kernel, blocks) in kernel.into_iter().zip(blocks) {
            assert_close(kernel, blocks, 1e-10);
        }
    }

    #[test]
    fn patch_order_scale_and_padding_change_nothing(b in 2i64..5, seed in 0i64..1000) {
        let patches = random(&[b, 4, 3], seed);
        let (tokens, mask, _) = captions(b, 3, 3, seed);
        let scale = Tensor::from(5.0f64);
        let value = scalar(&filip_loss(&inputs(&patches, &tokens, &mask, &scale)).total);
        let padded_tokens = Tensor::cat(&[&tokens * 3.0, random(&[b, 2, 3], 9) * f64::NAN], 1);
        let padded_mask = Tensor::cat(&[&mask, &mask.new_zeros([b, 2], (Kind::Bool, tch::Device::Cpu))], 1);
        let other = filip_loss(&inputs(&(patches.flip([1]) * 0.5), &padded_tokens, &padded_mask, &scale));
        assert_close(scalar(&other.total), value, 1e-10);
    }
}

#[test]
fn gradients_match_central_differences() {
    let patches = random(&[4, 3, 3], 1);
    let (tokens, mask, _) = captions(4, 3, 3, 2);
    let scale = Tensor::from(4.0f64);
    check_gradient(&patches, 1e-6, |patches| filip_loss(&inputs(patches, &tokens, &mask, &scale)).total);
    check_gradient(&tokens, 1e-6, |tokens| filip_loss(&inputs(&patches, tokens, &mask, &scale)).total);
    check_gradient(&scale, 1e-6, |scale| filip_loss(&inputs(&patches, &tokens, &mask, scale)).total);
}

#[test]
fn ranks_add_up_to_the_whole() {
    let (tokens, mask, _) = captions(12, 4, 3, 8);
    let leaves = [random(&[12, 5, 3], 5), tokens, Tensor::from(7.0f64)];
    assert_ranks_add_up(12, &leaves, |leaves, rows| {
        let [patches, tokens, scale] = leaves else { unreachable!() };
        filip_loss(&FilipInputs {
            patches: Gathered { local: &rows.of(patches), global: patches },
            tokens: Gathered { local: &rows.of(tokens), global: tokens },
            mask: Gathered { local: &rows.of(&mask), global: &mask },
            row_offset: rows.offset,
            logit_scale: scale,
        })
        .total
    });
}

#[test]
fn identical_orthogonal_pairs_reach_the_known_bound() {
    // Every image one patch, every text one token, all orthogonal: logits [s, 0, 0].
    let basis = Tensor::eye(3, tch::kind::DOUBLE_CPU).unsqueeze(1);
    let terms = filip_loss(&inputs(&basis, &basis, &prefix_mask(&[1, 1, 1], 1), &Tensor::from(3.0f64)));
    assert_close(scalar(&terms.total), (1.0 + 2.0 * (-3.0f64).exp()).ln(), 1e-12);
}

#[test]
fn the_tokens_most_similar_to_anything_are_kept() {
    // Patch 1 and token 0 point the same way; patch 2 is nearest to token 2; patch 0 is near to nothing.
    let patches = Tensor::from_slice(&[0.0f64, 0.0, -1.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.2]).view([1, 3, 3]);
    let tokens = Tensor::from_slice(&[3.0f64, 0.0, 0.0, -1.0, -1.0, 0.1, 0.0, 1.0, 0.0, 5.0, 0.0, 0.0]).view([1, 4, 3]);
    let kept = keep_tokens(&patches, &tokens, &prefix_mask(&[3], 4), 0.6);
    assert_eq!(values(&kept.patches_bkd), [2.0, 0.0, 0.0, 0.0, 1.0, 0.2]);
    assert_eq!(values(&kept.mask_bl), [1.0, 0.0, 1.0, 0.0]);
    let all = keep_tokens(&patches, &tokens, &prefix_mask(&[3], 4), 1.0);
    assert_eq!(all.patches_bkd.size(), [1, 3, 3]);
    // An empty caption keeps nothing and harms nothing.
    let none = keep_tokens(&patches, &(tokens * f64::NAN), &prefix_mask(&[0], 4), 0.5);
    assert_eq!((none.patches_bkd.size()[1], values(&none.mask_bl)), (2, vec![0.0; 4]));
}

#[test]
fn kept_patches_carry_the_gradient() {
    let (tokens, mask, _) = captions(2, 3, 3, 2);
    let patches = random(&[2, 4, 3], 1).set_requires_grad(true);
    keep_tokens(&patches, &tokens, &mask, 0.5).patches_bkd.sum(Kind::Double).backward();
    assert_eq!(scalar(&patches.grad().sum(Kind::Double)), 12.0);
}

#[test]
fn wrong_values_are_named() {
    let config = |keep_tokens| FilipConfig { keep_tokens, temperature: LocalTemperature::Shared };
    assert!(config(1.0).validate().is_ok());
    for keep in [0.0, 1.1, f64::NAN] {
        assert!(config(keep).validate().unwrap_err().contains("keep_tokens"));
    }
}

#[test]
fn nothing_to_score_gives_empty_scores() {
    for (a, c) in [(0, 3), (3, 0)] {
        let mask = Tensor::ones([c, 2], (Kind::Bool, tch::Device::Cpu));
        let (image, text) = scores(&random(&[a, 2, 4], 1), &random(&[c, 2, 4], 2), &mask);
        assert_eq!((image.size(), text.size()), (vec![a, c], vec![a, c]));
    }
}

#[test]
#[should_panic(expected = "mask must be bool [2, 3]")]
fn a_shape_bug_panics_with_the_numbers() {
    let (patches, tokens) = (random(&[2, 2, 2], 0), random(&[2, 3, 2], 0));
    let _ = filip_loss(&inputs(&patches, &tokens, &prefix_mask(&[1, 1], 2), &Tensor::from(1.0f64)));
}
