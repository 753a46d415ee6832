//! Tests of ALBEF: references in scalar loops, gradients, invariances, what a negative may never be.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, random, rows, scalar, values};
use tch::Device;

use super::*;
use crate::seed::uniforms;

mod reference {
    //! The equations in scalar f64 loops.

    use crate::objectives::clip::reference::{cosine, log_sum_exp};

    pub fn softmax(row: &[f64]) -> Vec<f64> {
        let sum = log_sum_exp(row);
        row.iter().map(|x| (x - sum).exp()).collect()
    }

    /// One direction of L_itc. `right[b]` are the columns that are right ones for row b.
    pub fn direction(
        rows: &[Vec<f64>],
        momentum: &[Vec<f64>],
        keys: &[Vec<f64>],
        edited: Option<(&[Vec<f64>], &[f64])>,
        right: &[Vec<usize>],
        (s, alpha): (f64, f64),
    ) -> f64 {
        let mut total = 0.0;
        for b in 0..rows.len() {
            let mut logits: Vec<f64> = keys.iter().map(|key| s * cosine(&rows[b], key)).collect();
            if let Some((edited, found)) = edited
                && found[b] == 1.0
            {
                logits.push(s * cosine(&rows[b], &edited[b]));
            }
            let teacher: Vec<f64> = keys.iter().map(|key| s * cosine(&momentum[b], key)).collect();
            let (teacher, sum) = (softmax(&teacher), log_sum_exp(&logits));
            for (k, q) in teacher.iter().enumerate() {
                let hard = if right[b].contains(&k) { 1.0 / right[b].len() as f64 } else { 0.0 };
                total -= (alpha * q + (1.0 - alpha) * hard) * (logits[k] - sum);
            }
        }
        total / rows.len() as f64
    }
}

/// Everything a contrast needs, of 4 rows and 3 earlier keys, all f64.
struct Rows {
    image: Tensor,
    text: Tensor,
    momentum_image: Tensor,
    momentum_text: Tensor,
    image_queue: Tensor,
    text_queue: Tensor,
    ids: Tensor,
    queue_ids: Tensor,
    edited: Tensor,
    /// Whether a row has an edited image; the second has none.
    found: Tensor,
    scale: Tensor,
}

impl Rows {
    fn new(b: i64, q: i64, seed: i64) -> Rows {
        let row = |n: i64, add: i64| random(&[n, 3], seed + add);
        Rows {
            image: row(b, 0),
            text: row(b, 1),
            momentum_image: row(b, 2),
            momentum_text: row(b, 3),
            image_queue: row(q, 4),
            text_queue: row(q, 5),
            // Rows 0 and 1 are of one image, and so is the first earlier key.
            ids: Tensor::arange(b, (Kind::Int64, Device::Cpu)).clamp_min(1),
            queue_ids: Tensor::arange(q, (Kind::Int64, Device::Cpu)) * 100 + 1,
            edited: row(b, 6),
            found: Tensor::arange(b, (Kind::Int64, Device::Cpu)).ne(1),
            scale: Tensor::from(4.0f64),
        }
    }

    fn inputs(&self, edited: bool) -> ContrastInputs<'_> {
        ContrastInputs {
            image_bd: &self.image,
            text_bd: &self.text,
            momentum_image: Gathered::single(&self.momentum_image),
            momentum_text: Gathered::single(&self.momentum_text),
            image_queue_qd: &self.image_queue,
            text_queue_qd: &self.text_queue,
            image_ids: Gathered::single(&self.ids),
            queue_ids_q: &self.queue_ids,
            edited: edited.then_some(EditedImages { image_bd: &self.edited, found_b: &self.found }),
            row_offset: 0,
            logit_scale: &self.scale,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_contrast_agrees_with_the_reference(
        b in 2i64..6, q in 0i64..5, seed in 0i64..1000, alpha in 0.0f64..1.0, edited in any::<bool>(), same in any::<bool>(),
    ) {
        let all = Rows::new(b, q, seed);
        let positives = if same { Positives::SameImage } else { Positives::Pair };
        let ids: Vec<f64> = [values(&all.ids), values(&all.queue_ids)].concat();
        let right: Vec<Vec<usize>> = (0..b as usize)
            .map(|row| if same { (0..ids.len()).filter(|&k| ids[k] == ids[row]).collect() } else { vec![row] })
            .collect();
        let keys = |batch: &Tensor, queue: &Tensor| rows(&Tensor::cat(&[batch, queue], 0));
        let of_images = reference::direction(
            &rows(&all.image), &rows(&all.momentum_image), &keys(&all.momentum_text, &all.text_queue), None, &right,
            (4.0, alpha),
        );
        let (wrong, found) = (rows(&all.edited), values(&all.found));
        let of_texts = reference::direction(
            &rows(&all.text), &rows(&all.momentum_text), &keys(&all.momentum_image, &all.image_queue),
            edited.then_some((wrong.as_slice(), found.as_slice())), &right, (4.0, alpha),
        );
        let contrast = contrast(&all.inputs(edited), positives, alpha);
        assert_close(scalar(&contrast.value), 0.5 * (of_images + of_texts), 1e-10);
    }
}

#[test]
fn gradients_of_the_contrast_match_central_differences() {
    let all = Rows::new(4, 3, 5);
    let value = |inputs: ContrastInputs| contrast(&inputs, Positives::SameImage, 0.4).value;
    check_gradient(&all.image, 1e-6, |x| value(ContrastInputs { image_bd: x, ..all.inputs(true) }));
    check_gradient(&all.text, 1e-6, |x| value(ContrastInputs { text_bd: x, ..all.inputs(true) }));
    check_gradient(&all.edited, 1e-6, |x| {
        let edited = EditedImages { image_bd: x, found_b: &all.found };
        value(ContrastInputs { edited: Some(edited), ..all.inputs(true) })
    });
}

#[test]
fn targets_and_keys_get_no_gradient() {
    let all = Rows::new(4, 3, 5);
    let leaf = all.momentum_image.copy().set_requires_grad(true);
    let keys = ContrastInputs { momentum_image: Gathered::single(&leaf), ..all.inputs(false) };
    assert!(!contrast(&keys, Positives::Pair, 0.4).value.requires_grad());
    // The scale's gradient is that of the logits alone: with targets held, the value rises by it.
    let scale = all.scale.copy().set_requires_grad(true);
    let inputs = ContrastInputs { logit_scale: &scale, ..all.inputs(false) };
    contrast(&inputs, Positives::Pair, 0.0).value.backward();
    let hard_only = scalar(&scale.grad());
    let at = |s: f64| {
        let scale = Tensor::from(s);
        scalar(&contrast(&ContrastInputs { logit_scale: &scale, ..all.inputs(false) }, Positives::Pair, 0.0).value)
    };
    assert_close(hard_only, (at(4.0 + 1e-6) - at(4.0 - 1e-6)) / 2e-6, 1e-5);
}

#[test]
fn ranks_add_up_to_the_whole() {
    let all = Rows::new(12, 5, 9);
    let leaves = [all.image.copy(), all.text.copy(), all.edited.copy(), Tensor::from(5.0f64)];
    for positives in [Positives::Pair, Positives::SameImage] {
        assert_ranks_add_up(12, &leaves, |leaves, part| {
            let [image, text, edited, scale] = leaves else { unreachable!() };
            let inputs = ContrastInputs {
                image_bd: &part.of(image),
                text_bd: &part.of(text),
                momentum_image: Gathered { local: &part.of(&all.momentum_image), global: &all.momentum_image },
                momentum_text: Gathered { local: &part.of(&all.momentum_text), global: &all.momentum_text },
                image_ids: Gathered { local: &part.of(&all.ids), global: &all.ids },
                edited: Some(EditedImages { image_bd: &part.of(edited), found_b: &part.of(&all.found) }),
                row_offset: part.offset,
                logit_scale: scale,
                ..all.inputs(false)
            };
            contrast(&inputs, positives, 0.4).value
        });
    }
}

#[test]
fn scaling_changes_nothing() {
    let all = Rows::new(4, 3, 2);
    let value = scalar(&contrast(&all.inputs(true), Positives::Pair, 0.4).value);
    let scaled = Rows {
        image: &all.image * 3.0,
        momentum_text: &all.momentum_text * 0.1,
        image_queue: &all.image_queue * 7.0,
        edited: &all.edited * 2.0,
        ..Rows::new(4, 3, 2)
    };
    assert_close(scalar(&contrast(&scaled.inputs(true), Positives::Pair, 0.4).value), value, 1e-10);
}

#[test]
fn without_momentum_queue_and_distillation_it_is_clip() {
    let all = Rows::new(5, 0, 3);
    let inputs = ContrastInputs {
        momentum_image: Gathered::single(&all.image),
        momentum_text: Gathered::single(&all.text),
        ..all.inputs(false)
    };
    let clip = crate::objectives::clip::clip_loss(&crate::objectives::clip::ClipInputs {
        image: Gathered::single(&all.image),
        text: Gathered::single(&all.text),
        row_offset: 0,
        logit_scale: &all.scale,
    });
    assert_close(scalar(&contrast(&inputs, Positives::Pair, 0.0).value), scalar(&clip.total), 1e-10);
}

#[test]
fn negatives_are_drawn_by_the_softmax_and_never_of_the_same_image() {
    let ids = Tensor::from_slice(&[7i64, 7, 8, 9]);
    let logits = Tensor::from_slice(&[50.0f64, 60.0, 1.0, 2.0]).repeat([4, 1]);
    let n = 4000;
    let mut hits = [[0usize; 4]; 4];
    for draw in 0..n {
        let uniform = Tensor::from_slice(&uniforms(1, &[b"draw"], draw * 4, 4));
        let found =
            hard_negatives(&logits, Gathered::single(&ids), Gathered::single(&distinct(ids.size()[0])), &uniform);
        assert_eq!(values(&found.found_b), [1.0; 4]);
        for (row, column) in values(&found.columns_b).into_iter().enumerate() {
            hits[row][column as usize] += 1;
        }
    }
    // Rows 0 and 1 are two captions of one image: neither is the other's negative, however similar.
    let share = |row: usize, column: usize| hits[row][column] as f64 / n as f64;
    for row in [0, 1] {
        assert_eq!((hits[row][0], hits[row][1]), (0, 0));
        assert!((share(row, 3) - 1.0 / (1.0 + (-1.0f64).exp())).abs() < 0.03, "{}", share(row, 3));
    }
    assert_eq!((hits[2][2], hits[3][3]), (0, 0));
    assert!(share(2, 1) > 0.99 && share(3, 1) > 0.99);
}

#[test]
fn a_draw_never_fails_and_never_takes_what_it_may_not() {
    let ids = Tensor::from_slice(&[1i64, 1, 2]);
    let nearly_one = 1.0 - f64::EPSILON / 2.0;
    for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
        // Hopeless columns, infinite ones, numbers that are none, and every end of the numbers drawn with.
        for logits in [[0.0f64, 0.0, -1e4], [f64::NAN; 3], [0.0, 0.0, f64::NEG_INFINITY], [f64::INFINITY, 0.0, 0.0]] {
            for uniform in [0.0, 0.5, nearly_one] {
                let logits = Tensor::from_slice(&logits).repeat([3, 1]).to_kind(kind);
                let drawn = hard_negatives(
                    &logits,
                    Gathered::single(&ids),
                    Gathered::single(&distinct(3)),
                    &Tensor::from_slice(&[uniform; 3]),
                );
                let columns = values(&drawn.columns_b);
                assert_eq!(columns[..2], [2.0, 2.0], "{kind:?} {uniform}");
                assert!(columns[2] < 2.0);
            }
        }
    }
    // One image alone has no negative, and says so.
    let alone = hard_negatives(
        &random(&[2, 2], 1),
        Gathered::single(&Tensor::from_slice(&[4i64, 4])),
        Gathered::single(&distinct(2)),
        &Tensor::from_slice(&[0.1, 0.9]),
    );
    assert_eq!((values(&alone.found_b), values(&alone.columns_b)), (vec![0.0; 2], vec![0.0; 2]));
}

#[test]
fn rows_draw_among_all_columns_what_one_process_would() {
    let ids = Tensor::from_slice(&[0i64, 1, 2, 2, 4, 5]);
    let (logits, uniform) = (random(&[6, 6], 3), Tensor::from_slice(&uniforms(5, &[b"draw"], 0, 6)));
    let whole = values(
        &hard_negatives(&logits, Gathered::single(&ids), Gathered::single(&distinct(ids.size()[0])), &uniform)
            .columns_b,
    );
    let part = hard_negatives(
        &logits.narrow(0, 3, 3),
        Gathered { local: &ids.narrow(0, 3, 3), global: &ids },
        Gathered { local: &distinct(6).narrow(0, 3, 3), global: &distinct(6) },
        &Tensor::from_slice(&uniforms(5, &[b"draw"], 3, 3)),
    );
    assert_eq!(values(&part.columns_b), whole[3..]);
}

/// Token ids of texts that all differ, in their second token.
fn distinct(n: i64) -> Tensor {
    let second = Tensor::arange(n, (Kind::Int64, tch::Device::Cpu));
    Tensor::stack(&[second.ones_like(), second], 1)
}

#[test]
fn the_same_text_of_another_image_is_no_negative() {
    let ids = Tensor::from_slice(&[0i64, 1, 2]);
    let texts = Tensor::from_slice(&[5i64, 6, 0, 5, 6, 0, 5, 6, 7]).view([3, 3]);
    let logits = Tensor::from_slice(&[9.0f64, 9.0, 0.0]).repeat([3, 1]);
    let drawn = hard_negatives(
        &logits,
        Gathered::single(&ids),
        Gathered::single(&texts),
        &Tensor::from_slice(&[0.0, 0.5, 0.9]),
    );
    assert_eq!(values(&drawn.columns_b)[..2], [2.0, 2.0]);
    let all_alike = Tensor::ones([3, 2], (Kind::Int64, tch::Device::Cpu));
    let none =
        hard_negatives(&logits, Gathered::single(&ids), Gathered::single(&all_alike), &Tensor::from_slice(&[0.5; 3]));
    assert_eq!(values(&none.found_b), [0.0; 3]);
}

#[test]
fn matching_is_the_mean_over_valid_pairs() {
    let logits = random(&[6, 2], 4);
    let labels = Tensor::from_slice(&[1i64, 1, 0, 0, 0, 0]);
    let valid = Tensor::from_slice(&[true, true, true, false, true, true]);
    let of = |logits: &Tensor| {
        matching(&MatchingInputs { logits_r2: logits, labels_r: &labels, valid: Gathered::single(&valid) })
    };
    let mut expected = 0.0;
    for (row, (logits, label)) in rows(&logits).iter().zip([1usize, 1, 0, 0, 0, 0]).enumerate() {
        if row != 3 {
            expected -= reference::softmax(logits)[label].ln() / 5.0;
        }
    }
    assert_close(scalar(&of(&logits).value), expected, 1e-12);
    check_gradient(&logits, 1e-6, |logits| of(logits).value);
    // What was not found may hold anything.
    let noisy = logits.copy();
    let _ = noisy.narrow(0, 3, 1).fill_(f64::NAN);
    assert_close(scalar(&of(&noisy).value), expected, 1e-12);
    let sure = (labels.one_hot(2).to_kind(Kind::Double) - 0.5) * 20.0;
    assert_eq!((scalar(&of(&sure).accuracy), scalar(&of(&sure).positive_recall)), (1.0, 1.0));
    let never = Tensor::from_slice(&[5.0f64, 0.0]).repeat([6, 1]);
    assert_close(scalar(&of(&never).accuracy), 0.6, 1e-6);
    assert_eq!(scalar(&of(&never).positive_recall), 0.0);
}

#[test]
fn matching_of_ranks_adds_up() {
    let labels = Tensor::arange(12, (Kind::Int64, Device::Cpu)).remainder(3).eq(0).to_kind(Kind::Int64);
    let valid = Tensor::arange(12, (Kind::Int64, Device::Cpu)).ge(5);
    assert_ranks_add_up(12, &[random(&[12, 2], 1)], |leaves, part| {
        let valid = Gathered { local: &part.of(&valid), global: &valid };
        matching(&MatchingInputs { logits_r2: &part.of(&leaves[0]), labels_r: &part.of(&labels), valid }).value
    });
}

#[test]
fn tokens_are_masked_as_bert_does() {
    let (b, l) = (200, 100);
    let ids = Tensor::arange(b * l, (Kind::Int64, Device::Cpu)).remainder(50).view([b, l]) + 10;
    let maskable = ids.ne(10).logical_and(&ids.ne(59));
    let vocabulary = MaskingVocabulary { mask_id: 3, first_id: 5, n_ids: 1000 };
    let uniform = Tensor::from_slice(&uniforms(2, &[b"mask"], 0, 3 * (b * l) as usize)).view([3, b, l]);
    let masked = mask_tokens(&ids, &maskable, vocabulary, 0.15, &uniform);
    let count = |mask: &Tensor| scalar(&mask.sum(Kind::Double));
    let (n_maskable, n_chosen) = (count(&maskable), count(&masked.chosen_bl));
    assert!((n_chosen / n_maskable - 0.15).abs() < 0.01);
    assert_eq!(count(&masked.chosen_bl.logical_and(&maskable.logical_not())), 0.0);
    assert_eq!(values(&masked.targets_m), values(&ids.masked_select(&masked.chosen_bl)));
    // Nothing else has changed; of the chosen, 80 % are masked, and about 10 % stay (with 1 in 995 of the drawn).
    assert_eq!(count(&masked.ids_bl.ne_tensor(&ids).logical_and(&masked.chosen_bl.logical_not())), 0.0);
    assert!((count(&masked.ids_bl.eq(3)) / n_chosen - 0.8).abs() < 0.03);
    let stayed = masked.chosen_bl.logical_and(&masked.ids_bl.eq_tensor(&ids));
    assert!((count(&stayed) / n_chosen - 0.1).abs() < 0.03);
    let drawn = masked.ids_bl.masked_select(&masked.chosen_bl);
    assert!(scalar(&drawn.max()) < 1000.0 && scalar(&drawn.max()) > 900.0 && scalar(&drawn.min()) == 3.0);
}

#[test]
fn a_random_token_is_never_the_mask() {
    let uniform = Tensor::from_slice(&uniforms(2, &[b"mask"], 0, 3 * 4000)).view([3, 40, 100]);
    let ids = Tensor::ones([40, 100], (Kind::Int64, Device::Cpu));
    for mask_id in [5, 7, 9] {
        let vocabulary = MaskingVocabulary { mask_id, first_id: 5, n_ids: 10 };
        // Of the chosen, a tenth is random: chosen is everything, and the fate is moved there.
        let _ = uniform.get(1).fill_(0.95);
        let drawn = mask_tokens(&ids, &ids.ge(0), vocabulary, 1.0, &uniform).ids_bl;
        let seen: Vec<i64> = (0..10).filter(|&id| scalar(&drawn.eq(id).sum(Kind::Double)) > 0.0).collect();
        assert_eq!(seen, (5..10).filter(|&id| id != mask_id).collect::<Vec<_>>());
    }
}

fn language_inputs<'a>(
    logits: &'a Tensor,
    teacher: &'a Tensor,
    targets: &'a Tensor,
    chosen: &'a Tensor,
) -> LanguageInputs<'a> {
    LanguageInputs {
        logits_mv: logits,
        momentum_logits_mv: teacher,
        targets_m: targets,
        chosen: Gathered::single(chosen),
    }
}

#[test]
fn language_agrees_with_the_reference() {
    let (logits, teacher) = (random(&[3, 5], 1), random(&[3, 5], 2));
    let targets = Tensor::from_slice(&[4i64, 0, 2]);
    let chosen = Tensor::from_slice(&[true, false, true, true]).view([2, 2]);
    let mut expected = 0.0;
    for (row, target) in [4usize, 0, 2].into_iter().enumerate() {
        let (shares, soft) = (reference::softmax(&rows(&logits)[row]), reference::softmax(&rows(&teacher)[row]));
        for v in 0..5 {
            let q = 0.3 * soft[v] + 0.7 * f64::from(u8::from(v == target));
            expected -= q * shares[v].ln() / 3.0;
        }
    }
    let of = |logits: &Tensor| language(&language_inputs(logits, &teacher, &targets, &chosen), 0.3);
    assert_close(scalar(&of(&logits)), expected, 1e-12);
    check_gradient(&logits, 1e-6, of);
    // A batch in which nothing is masked has no loss and harms nothing.
    let none = random(&[0, 5], 1).set_requires_grad(true);
    let nothing = Tensor::zeros([2, 2], (Kind::Bool, Device::Cpu));
    let value = language(&language_inputs(&none, &none, &targets.narrow(0, 0, 0), &nothing), 0.3);
    assert_eq!(scalar(&value), 0.0);
}

#[test]
fn language_of_ranks_adds_up() {
    // Uneven numbers of masked tokens: rank means would not average to the whole.
    let chosen = Tensor::arange(36, (Kind::Int64, Device::Cpu)).remainder(7).lt(3).view([12, 3]);
    let ids = Tensor::arange(36, (Kind::Int64, Device::Cpu)).remainder(5).view([12, 3]);
    let teacher = random(&[12, 3, 5], 2);
    assert_ranks_add_up(12, &[random(&[12, 3, 5], 1)], |leaves, part| {
        let own = part.of(&chosen);
        let at = |x: &Tensor| x.masked_select(&own.unsqueeze(-1)).view([-1, 5]);
        language(
            &LanguageInputs {
                logits_mv: &at(&part.of(&leaves[0])),
                momentum_logits_mv: &at(&part.of(&teacher)),
                targets_m: &part.of(&ids).masked_select(&own),
                chosen: Gathered { local: &own, global: &chosen },
            },
            0.4,
        )
    });
}

fn config() -> AlbefConfig {
    AlbefConfig {
        lambda_contrast: 1.0,
        lambda_matching: 1.0,
        lambda_language: 1.0,
        distillation: 0.4,
        distillation_warmup_steps: 10,
        momentum: 0.995,
        queue_size: 64,
        positives: Positives::Pair,
        masked_share: 0.15,
    }
}

#[test]
fn wrong_values_are_named() {
    assert!(config().validate().is_ok());
    for (wrong, name) in [
        (AlbefConfig { lambda_matching: -1.0, ..config() }, "lambda_matching"),
        (AlbefConfig { distillation: 1.5, ..config() }, "distillation"),
        (AlbefConfig { momentum: f64::NAN, ..config() }, "momentum"),
        (AlbefConfig { queue_size: -1, ..config() }, "queue_size"),
        (AlbefConfig { masked_share: 0.0, ..config() }, "masked_share"),
    ] {
        assert!(wrong.validate().unwrap_err().contains(name));
    }
}

#[test]
fn distillation_rises_linearly() {
    let shares: Vec<f64> = [0, 5, 10, 1000].map(|step| config().distillation_at(step)).into();
    assert_eq!(shares, [0.0, 0.2, 0.4, 0.4]);
    assert_eq!(AlbefConfig { distillation_warmup_steps: 0, ..config() }.distillation_at(0), 0.4);
}

#[test]
fn the_total_is_the_weighted_sum() {
    let all = Rows::new(4, 3, 5);
    let labels = Tensor::from_slice(&[1i64, 0]);
    let valid = Tensor::from_slice(&[true, true]);
    let logits = random(&[2, 2], 1);
    let judged = matching(&MatchingInputs { logits_r2: &logits, labels_r: &labels, valid: Gathered::single(&valid) });
    let (contrast, matching) = (contrast(&all.inputs(false), Positives::Pair, 0.4), scalar(&judged.value));
    let expected = scalar(&contrast.value) + 2.0 * matching + 0.5 * 3.0;
    let weights = AlbefConfig { lambda_matching: 2.0, lambda_language: 0.5, ..config() };
    let terms = albef_loss(contrast, judged, Tensor::from(3.0f64), &weights);
    assert_close(scalar(&terms.total), expected, 1e-12);
    assert_close(scalar(terms.get("matching").unwrap()), matching, 1e-12);
}
