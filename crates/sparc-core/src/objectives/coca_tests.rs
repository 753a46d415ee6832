//! Tests of CoCa's loss: scalar reference, gradients, chunks, padding, processes, normalisations.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, cube, random, rows, scalar, values};

use super::*;
use crate::Gathered;
use crate::objectives::clip::reference;
use crate::sample_inputs::prefix_mask;

pub(in crate::objectives) mod caption_reference {
    //! L_cap in scalar f64 loops.

    use crate::objectives::clip::reference::log_sum_exp;

    /// `states[b][t]`, `vocabulary[v]`, `ids[b][t]` of captions of these lengths: the sum of all
    /// cross-entropies and how many there are.
    pub fn cross_entropy(
        states: &[Vec<Vec<f64>>],
        vocabulary: &[Vec<f64>],
        ids: &[Vec<f64>],
        lengths: &[usize],
    ) -> (f64, usize) {
        let (mut sum, mut count) = (0.0, 0);
        for (b, &length) in lengths.iter().enumerate() {
            for t in 1..length {
                let logits: Vec<f64> =
                    vocabulary.iter().map(|row| row.iter().zip(&states[b][t - 1]).map(|(a, c)| a * c).sum()).collect();
                sum += log_sum_exp(&logits) - logits[ids[b][t] as usize];
                count += 1;
            }
        }
        (sum, count)
    }
}

struct Sample {
    states: Tensor,
    vocabulary: Tensor,
    ids: Tensor,
    mask: Tensor,
    lengths: Vec<usize>,
    image: Tensor,
    text: Tensor,
}

impl Sample {
    /// `b` captions of up to 5 tokens over 7 pieces; lengths 0 and 1 among them from b = 3 on.
    fn new(b: i64, seed: i64) -> Sample {
        let lengths: Vec<i64> = (0..b).map(|i| [5, 3, 1, 0, 4, 2][((i + seed) % 6) as usize]).collect();
        Sample {
            states: random(&[b, 5, 4], seed),
            vocabulary: random(&[7, 4], seed + 1),
            ids: (random(&[b, 5], seed + 2) * 100.0).to_kind(Kind::Int64).remainder(7),
            mask: prefix_mask(&lengths, 5),
            lengths: lengths.into_iter().map(|length| length as usize).collect(),
            image: random(&[b, 3], seed + 3),
            text: random(&[b, 3], seed + 4),
        }
    }

    fn caption(&self) -> CaptionInputs<'_> {
        CaptionInputs {
            states_blw: &self.states,
            vocabulary_vw: &self.vocabulary,
            ids_bl: &self.ids,
            mask_bl: &self.mask,
            denominator: None,
        }
    }

    fn loss(&self, config: &CocaConfig) -> LossTerms {
        let scale = Tensor::from(6.0f64);
        coca_loss(
            &CocaInputs {
                contrastive: ClipInputs {
                    image: Gathered::single(&self.image),
                    text: Gathered::single(&self.text),
                    row_offset: 0,
                    logit_scale: &scale,
                },
                caption: Some(self.caption()),
            },
            config,
        )
    }
}

const CONFIG: CocaConfig =
    CocaConfig { lambda_contrastive: 1.0, lambda_caption: 2.0, normalisation: Normalisation::OpenClip, head: None };

fn caption_value(inputs: &CaptionInputs, normalisation: Normalisation) -> Tensor {
    captioning(inputs, normalisation, LOGITS_AT_ONCE).0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_equations(b in 1i64..8, seed in 0i64..1000) {
        let sample = Sample::new(b, seed);
        let (sum, count) = caption_reference::cross_entropy(
            &cube(&sample.states), &rows(&sample.vocabulary), &rows(&sample.ids), &sample.lengths);
        let (forward, backward) = reference::contrastive(&rows(&sample.image), &rows(&sample.text), 6.0);
        let open_clip = sample.loss(&CONFIG);
        assert_close(scalar(&open_clip.total), 0.5 * (forward + backward) + 2.0 * sum / count.max(1) as f64, 1e-10);
        let paper = sample.loss(&CocaConfig { normalisation: Normalisation::Paper, ..CONFIG });
        assert_close(scalar(&paper.total), forward + backward + 2.0 * sum / b as f64, 1e-10);
        // The two captioning terms differ by the mean number of predicted tokens.
        let ratio = scalar(paper.get("caption").unwrap()) / scalar(open_clip.get("caption").unwrap());
        if count > 0 {
            assert_close(ratio, count as f64 / b as f64, 1e-10);
        }
    }
}

#[test]
fn gradients_match_central_differences() {
    let sample = Sample::new(6, 3);
    for normalisation in [Normalisation::OpenClip, Normalisation::Paper] {
        check_gradient(&sample.states, 1e-6, |states| {
            caption_value(&CaptionInputs { states_blw: states, ..sample.caption() }, normalisation)
        });
        check_gradient(&sample.vocabulary, 1e-6, |vocabulary| {
            caption_value(&CaptionInputs { vocabulary_vw: vocabulary, ..sample.caption() }, normalisation)
        });
    }
}

#[test]
fn chunks_equal_the_whole() {
    let sample = Sample::new(6, 1);
    let run = |logits_at_once: i64| {
        let leaves = [&sample.states, &sample.vocabulary].map(|x| x.detach().copy().set_requires_grad(true));
        let inputs = CaptionInputs { states_blw: &leaves[0], vocabulary_vw: &leaves[1], ..sample.caption() };
        let (value, accuracy) = captioning(&inputs, Normalisation::OpenClip, logits_at_once);
        value.backward();
        let mut all = vec![scalar(&value), scalar(&accuracy)];
        all.extend(leaves.iter().flat_map(|leaf| values(&leaf.grad())));
        all
    };
    let whole = run(1 << 20);
    for logits_at_once in [0, 7, 25] {
        for (chunked, whole) in run(logits_at_once).into_iter().zip(&whole) {
            assert_close(chunked, *whole, 1e-12);
        }
    }
}

#[test]
fn what_stands_at_padding_changes_nothing() {
    let sample = Sample::new(6, 0);
    let value = scalar(&caption_value(&sample.caption(), Normalisation::OpenClip));
    let states = sample.states.where_self(&sample.mask.unsqueeze(-1), &Tensor::from(f64::NAN));
    let ids = sample.ids.where_self(&sample.mask, &Tensor::from(3i64));
    let inputs = CaptionInputs { states_blw: &states, ids_bl: &ids, ..sample.caption() };
    assert_eq!(scalar(&caption_value(&inputs, Normalisation::OpenClip)), value);
    let longer = |x: &Tensor| Tensor::cat(&[x, &x.narrow(1, 0, 2).zeros_like()], 1);
    let (states, ids, mask) = (longer(&sample.states), longer(&sample.ids), longer(&sample.mask));
    let inputs = CaptionInputs { states_blw: &states, ids_bl: &ids, mask_bl: &mask, ..sample.caption() };
    assert_close(scalar(&caption_value(&inputs, Normalisation::OpenClip)), value, 1e-12);
}

#[test]
fn a_state_predicts_the_next_token_and_nothing_else() {
    // States that point at the next token cost next to nothing; at their own token, much.
    let ids = Tensor::from_slice(&[0i64, 1, 2, 3]).view([1, 4]);
    let states = Tensor::from_slice(&[1i64, 2, 3, 0]).one_hot(4).to_kind(Kind::Double).unsqueeze(0) * 50.0;
    let vocabulary = Tensor::eye(4, tch::kind::DOUBLE_CPU);
    let mask = prefix_mask(&[4], 4);
    let inputs = CaptionInputs {
        states_blw: &states,
        vocabulary_vw: &vocabulary,
        ids_bl: &ids,
        mask_bl: &mask,
        denominator: None,
    };
    assert!(scalar(&caption_value(&inputs, Normalisation::OpenClip)) < 1e-12);
    let own = states.roll(1, 1);
    let inputs = CaptionInputs { states_blw: &own, ..inputs };
    assert_close(scalar(&caption_value(&inputs, Normalisation::OpenClip)), 50.0, 1e-9);
}

#[test]
fn captions_without_a_token_to_predict_cost_nothing() {
    let sample = Sample::new(2, 0);
    for length in [0, 1] {
        let mask = prefix_mask(&[length, length], 5);
        let states = sample.states.copy().set_requires_grad(true);
        let inputs = CaptionInputs { states_blw: &states, mask_bl: &mask, ..sample.caption() };
        let value = caption_value(&inputs, Normalisation::OpenClip);
        assert_eq!(scalar(&value), 0.0);
        value.backward();
        assert!(values(&states.grad()).iter().all(|gradient| *gradient == 0.0));
    }
}

#[test]
fn processes_with_uneven_captions_add_up_to_the_whole() {
    let sample = Sample::new(12, 2);
    let leaves =
        [sample.states.copy(), sample.vocabulary.copy(), sample.image.copy(), sample.text.copy(), Tensor::from(5.0f64)];
    for normalisation in [Normalisation::OpenClip, Normalisation::Paper] {
        assert_ranks_add_up(12, &leaves, |leaves, part| {
            let [states, vocabulary, image, text, scale] = leaves else { unreachable!() };
            let masks: Vec<Tensor> =
                (0..part.ranks).map(|rank| sample.mask.narrow(0, rank * part.size, part.size)).collect();
            let counts: Vec<Tensor> = masks.iter().map(caption_denominator).collect();
            let denominator = Tensor::stack(&counts, 0).mean(Kind::Double);
            let inputs = CocaInputs {
                contrastive: ClipInputs {
                    image: Gathered { local: &part.of(image), global: image },
                    text: Gathered { local: &part.of(text), global: text },
                    row_offset: part.offset,
                    logit_scale: scale,
                },
                caption: Some(CaptionInputs {
                    states_blw: &part.of(states),
                    vocabulary_vw: vocabulary,
                    ids_bl: &part.of(&sample.ids),
                    mask_bl: &part.of(&sample.mask),
                    denominator: Some(&denominator),
                }),
            };
            coca_loss(&inputs, &CocaConfig { normalisation, ..CONFIG }).total
        });
    }
}

#[test]
fn wrong_values_are_named() {
    let wrong = CocaConfig { lambda_caption: -1.0, ..CONFIG };
    assert!(wrong.validate().unwrap_err().contains("lambda_caption"));
    let nothing = CocaConfig { lambda_caption: 0.0, lambda_contrastive: 0.0, ..CONFIG };
    assert!(nothing.validate().unwrap_err().contains("nothing to minimise"));
}

#[test]
#[should_panic(expected = "states must be [B, L, W] and the vocabulary [V, W], got [3, 5, 4] and [7, 5]")]
fn a_shape_bug_panics_with_the_numbers() {
    let sample = Sample::new(3, 0);
    let vocabulary = random(&[7, 5], 0);
    let _ = caption_value(&CaptionInputs { vocabulary_vw: &vocabulary, ..sample.caption() }, Normalisation::Paper);
}
