//! Tests of MGCA: references in scalar loops, known values, invariances, gradients, simulated processes.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, cube, random, rows, scalar, values};

use super::*;
use crate::sample_inputs::{Known, captions};
use crate::tensor_math::masked_mean;

mod reference {
    //! The equations in scalar f64 loops.

    use crate::objectives::clip::reference::{cosine, log_sum_exp};

    /// Parameter-free attention of one query to unit context vectors.
    fn attend(query: &[f64], context: &[Vec<f64>], scale: f64) -> Vec<f64> {
        let logits: Vec<f64> = context.iter().map(|key| scale * cosine(query, key)).collect();
        let total = log_sum_exp(&logits);
        let mut sum = vec![0.0; query.len()];
        for (logit, key) in logits.iter().zip(context) {
            let norm = key.iter().map(|x| x * x).sum::<f64>().sqrt();
            sum.iter_mut().zip(key).for_each(|(sum, x)| *sum += (logit - total).exp() * x / norm);
        }
        sum
    }

    fn own_context(tokens: &[Vec<f64>], contexts: &[Vec<f64>], scale: f64) -> f64 {
        let n = tokens.len();
        let loss = |l: usize| {
            let row: Vec<f64> = (0..n).map(|k| scale * cosine(&tokens[l], &contexts[k])).collect();
            let column: Vec<f64> = (0..n).map(|k| scale * cosine(&tokens[k], &contexts[l])).collect();
            0.5 * (log_sum_exp(&row) - row[l] + log_sum_exp(&column) - column[l])
        };
        (0..n).map(loss).sum::<f64>() / n as f64
    }

    /// CTA with parameter-free attention at scale `attention`.
    pub fn token_alignment(
        patches: &[Vec<Vec<f64>>],
        tokens: &[Vec<Vec<f64>>],
        lengths: &[usize],
        scale: f64,
        attention: f64,
    ) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for ((patches, tokens), &length) in patches.iter().zip(tokens).zip(lengths) {
            let words = &tokens[..length];
            if words.is_empty() {
                continue;
            }
            let word_contexts: Vec<_> = words.iter().map(|word| attend(word, patches, attention)).collect();
            let patch_contexts: Vec<_> = patches.iter().map(|patch| attend(patch, words, attention)).collect();
            sum += own_context(words, &word_contexts, scale) + own_context(patches, &patch_contexts, scale);
            count += 1.0;
        }
        sum / f64::max(count, 1.0)
    }

    /// CPA with Sinkhorn's normalisation as the authors write it: on exp(o / ε), shares of 1/K and 1/B.
    pub fn prototype_alignment(
        image: &[Vec<f64>],
        text: &[Vec<f64>],
        prototypes: &[Vec<f64>],
        eps: f64,
        iterations: u32,
        temperature: f64,
    ) -> f64 {
        let (b, k) = (image.len(), prototypes.len());
        let scores = |rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
            rows.iter().map(|row| prototypes.iter().map(|prototype| cosine(row, prototype)).collect()).collect()
        };
        let codes = |scores: &[Vec<f64>]| {
            let mut q: Vec<Vec<f64>> = scores.iter().map(|row| row.iter().map(|o| (o / eps).exp()).collect()).collect();
            for _ in 0..iterations {
                for j in 0..k {
                    let sum: f64 = q.iter().map(|row| row[j]).sum();
                    q.iter_mut().for_each(|row| row[j] /= sum * k as f64);
                }
                for row in &mut q {
                    let sum: f64 = row.iter().sum();
                    row.iter_mut().for_each(|x| *x /= sum * b as f64);
                }
            }
            q.iter_mut().flatten().for_each(|x| *x *= b as f64);
            q
        };
        let cross = |codes: &[Vec<f64>], scores: &[Vec<f64>]| {
            let row = |codes: &[f64], scores: &[f64]| {
                let logits: Vec<f64> = scores.iter().map(|o| o / temperature).collect();
                let total = log_sum_exp(&logits);
                -codes.iter().zip(&logits).map(|(q, logit)| q * (logit - total)).sum::<f64>()
            };
            codes.iter().zip(scores).map(|(codes, scores)| row(codes, scores)).sum::<f64>() / b as f64
        };
        let (image, text) = (scores(image), scores(text));
        0.5 * (cross(&codes(&image), &text) + cross(&codes(&text), &image))
    }
}

fn config() -> MgcaConfig {
    MgcaConfig {
        lambda_instance: 0.0,
        lambda_token: 1.0,
        lambda_prototype: 0.0,
        attention: CrossAttention::ParameterFree { scale: 10.0 },
        token_temperature: LocalTemperature::Shared,
        n_prototypes: 5,
        sinkhorn_eps: 0.05,
        sinkhorn_iterations: 3,
        prototype_temperature: 0.2,
        freeze_prototypes_steps: 0,
    }
}

/// Patches, tokens, prototypes and one scale, as leaves.
struct Leaves([Tensor; 4]);

impl Leaves {
    fn new(patches: &Tensor, tokens: &Tensor, scale: f64) -> Leaves {
        let prototypes = random(&[5, patches.size()[2]], 31);
        Leaves(
            [patches.copy(), tokens.copy(), prototypes, Tensor::from(scale)].map(|leaf| leaf.set_requires_grad(true)),
        )
    }

    fn loss(&self, mask: &Tensor, config: &MgcaConfig) -> LossTerms {
        let [patches, tokens, prototypes_md, scale] = &self.0;
        let CrossAttention::ParameterFree { scale: attention } = config.attention else { unreachable!() };
        let (image, text) = (patches.mean_dim([1i64].as_slice(), false, None::<Kind>), masked_mean(tokens, mask));
        let words = without_padding(tokens, mask);
        mgca_loss(
            &MgcaInputs {
                words_bld: tokens,
                word_contexts_bld: &attend(&words, patches, None, attention),
                patches_bpd: patches,
                patch_contexts_bpd: &attend(patches, &words, Some(mask), attention),
                mask_bl: mask,
                image: Gathered::single(&image),
                text: Gathered::single(&text),
                row_offset: 0,
                prototypes_md,
                logit_scale: scale,
                token_logit_scale: scale,
                denominator: None,
            },
            config,
        )
    }
}

#[test]
fn gives_the_known_value() {
    let known = Known::new();
    let value = Leaves::new(&known.patches_bpd, &known.tokens_bld, 10.0).loss(&known.mask_bl, &config()).total;
    assert_close(scalar(&value), 2.820_105_932_9, 1e-9);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_reference(b in 1i64..6, p in 1i64..5, l in 1i64..5, d in 2i64..5, seed in 0i64..1000) {
        let patches = random(&[b, p, d], seed);
        let (tokens, mask, lengths) = captions(b, l, d, seed);
        let leaves = Leaves::new(&patches, &tokens, 6.0);
        let config = MgcaConfig {
            lambda_prototype: 1.0, sinkhorn_eps: 0.3, attention: CrossAttention::ParameterFree { scale: 4.0 }, ..config()
        };
        let terms = leaves.loss(&mask, &config);
        let token = reference::token_alignment(&cube(&patches), &cube(&tokens), &lengths, 6.0, 4.0);
        assert_close(scalar(terms.get("token").unwrap()), token, 1e-9);
        let image = patches.mean_dim([1i64].as_slice(), false, None::<Kind>);
        let text = masked_mean(&tokens, &mask);
        // An empty caption pools to zero, whose cosine the loops cannot take.
        if lengths.iter().all(|&length| length > 0) {
            let prototypes = rows(&leaves.0[2]);
            let expected = reference::prototype_alignment(&rows(&image), &rows(&text), &prototypes, 0.3, 3, 0.2);
            assert_close(scalar(terms.get("prototype").unwrap()), expected, 1e-9);
        }
    }

    #[test]
    fn patch_order_and_padding_change_nothing(b in 2i64..5, seed in 0i64..1000) {
        let patches = random(&[b, 4, 3], seed);
        let (tokens, mask, _) = captions(b, 3, 3, seed);
        let value = |patches: &Tensor, tokens: &Tensor, mask: &Tensor| {
            scalar(&Leaves::new(patches, tokens, 5.0).loss(mask, &config()).total)
        };
        let padded_tokens = Tensor::cat(&[&tokens, &(random(&[b, 2, 3], 9) * f64::NAN)], 1);
        let padded_mask = Tensor::cat(&[&mask, &mask.new_zeros([b, 2], (Kind::Bool, tch::Device::Cpu))], 1);
        let expected = value(&patches, &tokens, &mask);
        assert_close(value(&patches.flip([1]), &padded_tokens, &padded_mask), expected, 1e-10);
    }
}

#[test]
fn gradients_match_central_differences() {
    let patches = random(&[4, 3, 3], 1);
    let (tokens, mask, _) = captions(4, 3, 3, 2);
    // Codes carry no gradient: with all prototypes' codes equal (ε large) they hardly move either.
    let config = MgcaConfig { lambda_instance: 0.5, lambda_prototype: 0.3, sinkhorn_eps: 1e9, ..config() };
    for index in 0..4 {
        check_gradient(&Leaves::new(&patches, &tokens, 4.0).0[index].detach(), 2e-6, |leaf| {
            let mut leaves = Leaves::new(&patches, &tokens, 4.0);
            leaves.0[index] = leaf.shallow_clone();
            leaves.loss(&mask, &config).total
        });
    }
}

#[test]
fn codes_are_balanced_and_rows_of_shares() {
    let codes = sinkhorn(&(random(&[40, 8], 3) / 0.5), 60);
    for row in rows(&codes) {
        assert_close(row.iter().sum::<f64>(), 1.0, 1e-12);
    }
    for share in values(&codes.mean_dim([0i64].as_slice(), false, None::<Kind>)) {
        assert_close(share, 1.0 / 8.0, 1e-6);
    }
    // What exp(o / ε) would overflow in f32 stays finite.
    let large = Tensor::from_slice(&[900.0f32, -900.0, 0.0, 900.0]).view([2, 2]);
    assert!(values(&sinkhorn(&large, 3)).iter().all(|code| code.is_finite()));
}

#[test]
fn ranks_add_up_to_the_whole() {
    let (tokens, mask, _) = captions(12, 4, 3, 8);
    let leaves = [random(&[12, 4, 3], 5), tokens, random(&[5, 3], 31), Tensor::from(7.0f64)];
    assert_ranks_add_up(12, &leaves, |leaves, rank| {
        let [patches, tokens, prototypes_md, scale] = leaves else { unreachable!() };
        let (image, text) = (patches.mean_dim([1i64].as_slice(), false, None::<Kind>), masked_mean(tokens, &mask));
        let (words, own, own_mask) = (rank.of(tokens), rank.of(patches), rank.of(&mask));
        let mean = denominator(&mask) / rank.ranks as f64;
        mgca_loss(
            &MgcaInputs {
                words_bld: &words,
                word_contexts_bld: &attend(&words, &own, None, 10.0),
                patches_bpd: &own,
                patch_contexts_bpd: &attend(&own, &words, Some(&own_mask), 10.0),
                mask_bl: &own_mask,
                image: Gathered { local: &rank.of(&image), global: &image },
                text: Gathered { local: &rank.of(&text), global: &text },
                row_offset: rank.offset,
                prototypes_md,
                logit_scale: scale,
                token_logit_scale: scale,
                denominator: Some(&mean),
            },
            &MgcaConfig { lambda_instance: 1.0, lambda_prototype: 1.0, ..config() },
        )
        .total
    });
}

#[test]
fn empty_captions_give_finite_gradients() {
    let (patches, tokens) = (random(&[2, 3, 3], 1), random(&[2, 2, 3], 2) * f64::NAN);
    let mask = Tensor::zeros([2, 2], (Kind::Bool, tch::Device::Cpu));
    let leaves = Leaves::new(&patches, &tokens, 5.0);
    let value = leaves.loss(&mask, &config()).total;
    value.backward();
    assert_eq!(scalar(&value), 0.0);
    assert!(values(&leaves.0[0].grad()).iter().all(|g| *g == 0.0));
}

#[test]
fn wrong_values_are_named() {
    for (config, name) in [
        (MgcaConfig { lambda_token: 0.0, ..config() }, "all three weights"),
        (MgcaConfig { n_prototypes: 1, ..config() }, "n_prototypes"),
        (MgcaConfig { sinkhorn_eps: 0.0, ..config() }, "sinkhorn_eps"),
        (MgcaConfig { attention: CrossAttention::Learned { width: 0 }, ..config() }, "attention.learned.width"),
    ] {
        assert!(config.validate().unwrap_err().contains(name));
    }
}
