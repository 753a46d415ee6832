//! Tests of GLoRIA: references in scalar loops, known values, invariances, gradients, simulated processes.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, cube, random, rows, scalar, values};

use super::*;
use crate::sample_inputs::{Known, captions};
use crate::tensor_math::masked_mean;

mod reference {
    //! The equations in scalar f64 loops, c_l formed.

    use super::super::{GloriaConfig, WordAggregation};
    use crate::objectives::clip::reference::{cosine, log_sum_exp};

    /// CE over texts and CE over images of τ₃ Z.
    pub fn local_losses(
        patches: &[Vec<Vec<f64>>],
        tokens: &[Vec<Vec<f64>>],
        lengths: &[usize],
        [attention, word, logit]: [f64; 3],
        config: &GloriaConfig,
    ) -> (f64, f64) {
        let b = patches.len();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let score = |i: usize, j: usize| {
            let words = &tokens[j][..lengths[j]];
            if words.is_empty() {
                return 0.0;
            }
            let width = words[0].len();
            let divisor = if config.scale_by_sqrt_width { (width as f64).sqrt() } else { 1.0 };
            let sim = |l: usize, p: usize| dot(&words[l], &patches[i][p]) / divisor;
            let attended = |l: usize, p: usize| {
                if !config.word_softmax {
                    return sim(l, p);
                }
                let all: Vec<f64> = (0..words.len()).map(|l| sim(l, p)).collect();
                (sim(l, p) - log_sum_exp(&all)).exp()
            };
            let exponents: Vec<f64> = (0..words.len())
                .map(|l| {
                    let logits: Vec<f64> = (0..patches[i].len()).map(|p| attention * attended(l, p)).collect();
                    let total = log_sum_exp(&logits);
                    let context: Vec<f64> = (0..width)
                        .map(|d| logits.iter().zip(&patches[i]).map(|(logit, v)| (logit - total).exp() * v[d]).sum())
                        .collect();
                    word * cosine(&context, &words[l])
                })
                .collect();
            let count = match config.aggregation {
                WordAggregation::Sum => 1.0,
                WordAggregation::Mean => words.len() as f64,
            };
            log_sum_exp(&exponents) - f64::ln(count)
        };
        let (mut over_texts, mut over_images) = (0.0, 0.0);
        for a in 0..b {
            let row: Vec<f64> = (0..b).map(|j| logit * score(a, j)).collect();
            let column: Vec<f64> = (0..b).map(|i| logit * score(i, a)).collect();
            over_texts += log_sum_exp(&row) - row[a];
            over_images += log_sum_exp(&column) - column[a];
        }
        (over_texts / b as f64, over_images / b as f64)
    }
}

fn config() -> GloriaConfig {
    GloriaConfig {
        lambda_global: 0.0,
        lambda_local: 1.0,
        scale_by_sqrt_width: true,
        word_softmax: false,
        aggregation: WordAggregation::Sum,
        temperatures: Temperatures::Learned,
        attention_scale_init: 4.0,
        word_scale_init: 5.0,
        logit_scale_init: 10.0,
    }
}

/// All leaves of a loss: patches, tokens, three scales.
struct Leaves([Tensor; 5]);

impl Leaves {
    fn new(patches: &Tensor, tokens: &Tensor, scales: [f64; 3]) -> Leaves {
        let [attention, word, logit] = scales.map(Tensor::from);
        Leaves([patches.copy(), tokens.copy(), attention, word, logit].map(|leaf| leaf.set_requires_grad(true)))
    }

    fn loss(&self, mask: &Tensor, config: &GloriaConfig, block: (i64, i64)) -> LossTerms {
        let [patches, tokens, attention_scale, word_scale, logit_scale] = &self.0;
        let (image, text) = (patches.mean_dim([1i64].as_slice(), false, None::<Kind>), masked_mean(tokens, mask));
        let inputs = GloriaInputs {
            patches: Gathered::single(patches),
            tokens: Gathered::single(tokens),
            mask: Gathered::single(mask),
            image: Gathered::single(&image),
            text: Gathered::single(&text),
            row_offset: 0,
            attention_scale,
            word_scale,
            logit_scale,
        };
        gloria_in_blocks(&inputs, config, block)
    }
}

#[test]
fn gives_the_known_value() {
    let known = Known::new();
    let leaves = Leaves::new(&known.patches_bpd, &known.tokens_bld, [4.0, 5.0, 10.0]);
    let value = scalar(&leaves.loss(&known.mask_bl, &config(), (2, 2)).total);
    assert_close(value, 4.940_807_009_5 + 1.904_659_265_0, 1e-9);
}

#[test]
fn the_global_term_is_twice_clips() {
    let known = Known::new();
    let leaves = Leaves::new(&known.patches_bpd, &known.tokens_bld, [4.0, 5.0, 10.0]);
    let config = GloriaConfig { lambda_global: 1.0, lambda_local: 0.0, ..config() };
    let value = scalar(&leaves.loss(&known.mask_bl, &config, (2, 2)).total);
    let expected = crate::objectives::clip::reference::contrastive(&rows(&known.image_bd), &rows(&known.text_bd), 10.0);
    assert_close(value, expected.0 + expected.1, 1e-10);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_reference(
        b in 1i64..6, p in 1i64..6, l in 1i64..5, d in 2i64..5, seed in 0i64..1000,
        block in (1i64..6, 1i64..6), switches in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let config = GloriaConfig {
            scale_by_sqrt_width: switches.0,
            word_softmax: switches.1,
            aggregation: if switches.2 { WordAggregation::Sum } else { WordAggregation::Mean },
            ..config()
        };
        let patches = random(&[b, p, d], seed);
        let (tokens, mask, lengths) = captions(b, l, d, seed);
        let scales = [2.0, 3.0, 4.0];
        let expected = reference::local_losses(&cube(&patches), &cube(&tokens), &lengths, scales, &config);
        let value = Leaves::new(&patches, &tokens, scales).loss(&mask, &config, block).total;
        assert_close(scalar(&value), expected.0 + expected.1, 1e-9);
    }

    #[test]
    fn blocks_equal_the_whole(b in 2i64..6, seed in 0i64..1000, a in 1i64..4, c in 1i64..4) {
        let patches = random(&[b, 3, 3], seed);
        let (tokens, mask, _) = captions(b, 3, 3, seed);
        let run = |block| {
            let leaves = Leaves::new(&patches, &tokens, [2.0, 3.0, 4.0]);
            let terms = leaves.loss(&mask, &GloriaConfig { lambda_global: 0.7, ..config() }, block);
            terms.total.backward();
            let mut numbers = vec![scalar(&terms.total)];
            numbers.extend(terms.diagnostics.iter().map(|(_, value)| scalar(value)));
            leaves.0.iter().for_each(|leaf| numbers.extend(values(&leaf.grad())));
            numbers
        };
        for (blocks, whole) in run((a, c)).into_iter().zip(run((b, b))) {
            assert_close(blocks, whole, 1e-10);
        }
    }

    #[test]
    fn patch_order_and_padding_change_nothing(b in 2i64..5, seed in 0i64..1000) {
        let patches = random(&[b, 4, 3], seed);
        let (tokens, mask, _) = captions(b, 3, 3, seed);
        let value = |patches: &Tensor, tokens: &Tensor, mask: &Tensor| {
            scalar(&Leaves::new(patches, tokens, [4.0, 5.0, 10.0]).loss(mask, &config(), (2, 2)).total)
        };
        let padded_tokens = Tensor::cat(&[&tokens, &(random(&[b, 2, 3], 9) * f64::NAN)], 1);
        let padded_mask = Tensor::cat(&[&mask, &mask.new_zeros([b, 2], (Kind::Bool, tch::Device::Cpu))], 1);
        let expected = value(&patches, &tokens, &mask);
        assert_close(value(&patches.flip([1]), &padded_tokens, &padded_mask), expected, 1e-9);
    }
}

#[test]
fn gradients_match_central_differences() {
    let patches = random(&[4, 3, 3], 1);
    let (tokens, mask, _) = captions(4, 3, 3, 2);
    let with = |index: usize, leaf: &Tensor| {
        let mut leaves = Leaves::new(&patches, &tokens, [2.0, 3.0, 4.0]);
        leaves.0[index] = leaf.shallow_clone();
        leaves.loss(&mask, &GloriaConfig { lambda_global: 0.5, word_softmax: true, ..config() }, (2, 3)).total
    };
    let at = Leaves::new(&patches, &tokens, [2.0, 3.0, 4.0]).0;
    for (index, at) in at.iter().enumerate() {
        check_gradient(&at.detach(), 2e-6, |leaf| with(index, leaf));
    }
}

#[test]
fn ranks_add_up_to_the_whole() {
    let (tokens, mask, _) = captions(12, 3, 3, 8);
    let leaves = [random(&[12, 4, 3], 5), tokens, Tensor::from(2.0f64), Tensor::from(3.0f64), Tensor::from(4.0f64)];
    assert_ranks_add_up(12, &leaves, |leaves, rows| {
        let [patches, tokens, attention_scale, word_scale, logit_scale] = leaves else { unreachable!() };
        let (image, text) = (patches.mean_dim([1i64].as_slice(), false, None::<Kind>), masked_mean(tokens, &mask));
        let inputs = GloriaInputs {
            patches: Gathered { local: &rows.of(patches), global: patches },
            tokens: Gathered { local: &rows.of(tokens), global: tokens },
            mask: Gathered { local: &rows.of(&mask), global: &mask },
            image: Gathered { local: &rows.of(&image), global: &image },
            text: Gathered { local: &rows.of(&text), global: &text },
            row_offset: rows.offset,
            attention_scale,
            word_scale,
            logit_scale,
        };
        gloria_in_blocks(&inputs, &GloriaConfig { lambda_global: 1.0, ..config() }, (5, 4)).total
    });
}

#[test]
fn equal_and_zero_patches_give_finite_gradients() {
    let (tokens, mask, _) = captions(3, 2, 3, 4);
    for patches in [Tensor::ones([3, 4, 3], tch::kind::DOUBLE_CPU), Tensor::zeros([3, 4, 3], tch::kind::DOUBLE_CPU)] {
        let leaves = Leaves::new(&patches, &tokens, [4.0, 5.0, 10.0]);
        let value = leaves.loss(&mask, &config(), (3, 3)).total;
        value.backward();
        assert!(scalar(&value).is_finite());
        assert!(leaves.0.iter().all(|leaf| values(&leaf.grad()).iter().all(|g| g.is_finite())));
    }
}

#[test]
fn patches_that_cancel_make_no_cosine_above_one() {
    let patches = Tensor::from_slice(&[1.0f32, 2e-4, -1.0, 2e-4]).view([1, 2, 2]);
    let tokens = Tensor::from_slice(&[0.0f32, 1.0]).view([1, 1, 2]);
    let one = || Tensor::from(1.0f32);
    let z = score(&[patches], &[tokens, Tensor::from_slice(&[true]).view([1, 1])], &[one(), one(), one()], &config());
    // One word: Z is its cosine.
    assert_close(scalar(&z.view([])), 1.0, 1e-6);
}

#[test]
fn wrong_values_are_named() {
    for (config, name) in [
        (GloriaConfig { lambda_local: -1.0, ..config() }, "lambda_local"),
        (GloriaConfig { lambda_local: 0.0, ..config() }, "both 0"),
        (GloriaConfig { word_scale_init: 0.5, ..config() }, "word_scale_init"),
    ] {
        assert!(config.validate().unwrap_err().contains(name));
    }
}
