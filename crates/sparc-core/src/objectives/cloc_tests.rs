//! Tests of CLOC: a reference in scalar loops, the limits of its parts, gradients, simulated processes.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, cube, random, rows, scalar, values};

use super::*;
use crate::objectives::clip::clip_loss;

mod reference {
    //! Equations 1–4 in scalar f64 loops, over a plain list of regions.

    use crate::objectives::clip::reference::{contrastive, cosine, log_sum_exp};

    pub struct Region {
        pub z: Vec<f64>,
        pub t: Vec<f64>,
        pub truth: Vec<f64>,
        pub predicted: Vec<f64>,
    }

    /// L_CLIP, the mean of both directions over regions, L_g.
    pub fn losses(
        (image, text): (&[Vec<f64>], &[Vec<f64>]),
        regions: &[Region],
        (s, s_region): (f64, f64),
        filter: Option<f64>,
    ) -> [f64; 3] {
        let (forward, backward) = contrastive(image, text, s);
        let n = regions.len() as f64;
        let (mut over_texts, mut over_regions, mut grounding) = (0.0, 0.0, 0.0);
        for (i, own) in regions.iter().enumerate() {
            let (mut texts, mut others) = (Vec::new(), Vec::new());
            for (j, other) in regions.iter().enumerate() {
                if i == j || filter.is_none_or(|largest| cosine(&own.t, &other.t) <= largest) {
                    texts.push(s_region * cosine(&own.z, &other.t));
                    others.push(s_region * cosine(&other.z, &own.t));
                }
            }
            let positive = s_region * cosine(&own.z, &own.t);
            over_texts += (log_sum_exp(&texts) - positive) / n;
            over_regions += (log_sum_exp(&others) - positive) / n;
            for k in 0..4 {
                grounding += (own.truth[k] - own.predicted[k]).powi(2) / (4.0 * n);
            }
        }
        [0.5 * (forward + backward), 0.5 * (over_texts + over_regions), grounding]
    }
}

const CONFIG: ClocConfig = ClocConfig {
    lambda_region: 1.0,
    lambda_grounding: 1.0,
    text_filter: Some(0.9),
    filter_warmup_steps: 0,
    temperature: LocalTemperature::Shared,
    region_head: RegionHead::Prompter(PrompterConfig {
        box_encoding: BoxEncoding::Sinusoidal,
        readout: Readout::PromptMean,
    }),
};

/// Image, text, regions, phrases, boxes, predictions and both scales, with slots that are valid or not.
struct Case {
    leaves: Vec<Tensor>,
    valid_bm: Tensor,
    filter: Option<f64>,
}

impl Case {
    fn new(b: i64, m: i64, d: i64, seed: i64, is_valid: impl Fn(i64) -> bool) -> Case {
        let valid: Vec<bool> = (0..b * m).map(is_valid).collect();
        let leaves = vec![
            random(&[b, d], seed),
            random(&[b, d], seed + 1),
            random(&[b, m, d], seed + 2),
            random(&[b, m, d], seed + 3),
            random(&[b, m, 4], seed + 4),
            random(&[b, m, 4], seed + 5),
            Tensor::from(7.0f64),
            Tensor::from(5.0f64),
        ];
        Case { leaves, valid_bm: Tensor::from_slice(&valid).view([b, m]), filter: Some(0.3) }
    }

    fn terms(&self) -> LossTerms {
        self.terms_of(&self.leaves, &self.valid_bm)
    }

    fn terms_of(&self, leaves: &[Tensor], valid_bm: &Tensor) -> LossTerms {
        let [image, text, regions, phrases, boxes_bm4, predicted_bm4, scale, region_scale] = leaves else {
            panic!("eight leaves");
        };
        let inputs = ClocInputs {
            image: Gathered::single(image),
            text: Gathered::single(text),
            regions: Gathered::single(regions),
            phrases: Gathered::single(phrases),
            valid: Gathered::single(valid_bm),
            grounding: Some(Grounding { boxes_bm4, predicted_bm4 }),
            row_offset: 0,
            logit_scale: scale,
            region_logit_scale: region_scale,
            text_filter: self.filter,
        };
        cloc_loss(&inputs, &CONFIG)
    }

    fn reference(&self) -> [f64; 3] {
        let [image, text, regions, phrases, boxes, predicted, scale, region_scale] = &self.leaves[..] else {
            panic!("eight leaves");
        };
        let (z, t, l, p) = (cube(regions), cube(phrases), cube(boxes), cube(predicted));
        let valid = values(&self.valid_bm);
        let m = z[0].len();
        let list: Vec<_> = (0..valid.len())
            .filter(|&slot| valid[slot] > 0.0)
            .map(|slot| (slot / m, slot % m))
            .map(|(i, j)| reference::Region {
                z: z[i][j].clone(),
                t: t[i][j].clone(),
                truth: l[i][j].clone(),
                predicted: p[i][j].clone(),
            })
            .collect();
        reference::losses((&rows(image), &rows(text)), &list, (scalar(scale), scalar(region_scale)), self.filter)
    }

    /// The value, and the gradient at every leaf (empty where there is none).
    fn gradients(&self) -> (f64, Vec<Vec<f64>>) {
        let leaves: Vec<Tensor> = self.leaves.iter().map(|leaf| leaf.detach().copy().set_requires_grad(true)).collect();
        let total = self.terms_of(&leaves, &self.valid_bm).total;
        total.backward();
        let gradient = |leaf: &Tensor| if leaf.grad().defined() { values(&leaf.grad()) } else { Vec::new() };
        (scalar(&total), leaves.iter().map(gradient).collect())
    }
}

fn diagnostic(terms: &LossTerms, name: &str) -> f64 {
    scalar(&terms.diagnostics.iter().find(|(known, _)| known == name).unwrap().1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_reference(
        (b, m, d) in (1i64..5, 1i64..4, 2i64..5), seed in 0i64..1000, pattern in 1u32..4096,
        filter in proptest::option::of(-0.5f64..0.9),
    ) {
        let case = Case { filter, ..Case::new(b, m, d, seed, |slot| pattern >> (slot % 12) & 1 == 1) };
        let valid = values(&case.valid_bm);
        let n_with = valid.chunks(m as usize).filter(|slots| slots.iter().any(|v| *v > 0.0)).count();
        prop_assume!(n_with > 0);
        let terms = case.terms();
        let [clip, region, grounding] = case.reference();
        assert_close(scalar(terms.get("contrastive").unwrap()), clip, 1e-10);
        assert_close(scalar(terms.get("region").unwrap()), region, 1e-10);
        assert_close(scalar(terms.get("grounding").unwrap()), grounding, 1e-10);
        let lambda = n_with as f64 / b as f64;
        assert_close(scalar(&terms.total), clip + lambda * (region + grounding), 1e-10);
        assert_close(diagnostic(&terms, "region_share"), lambda, 1e-12);
    }

    #[test]
    fn slots_and_images_may_change_places(seed in 0i64..1000, pattern in 1u32..4096) {
        let case = Case::new(4, 3, 3, seed, |slot| pattern >> slot & 1 == 1);
        let value = scalar(&case.terms().total);
        let flipped = |dims: [i64; 1], from: usize| {
            let flip = |leaf: &Tensor| if leaf.dim() >= from { leaf.flip(dims) } else { leaf.copy() };
            let leaves: Vec<Tensor> = case.leaves.iter().map(flip).collect();
            scalar(&case.terms_of(&leaves, &case.valid_bm.flip(dims)).total)
        };
        assert_close(flipped([0], 2), value, 1e-10);
        // Inside the images only what has slots is moved.
        assert_close(flipped([1], 3), value, 1e-10);
    }
}

#[test]
fn gradients_match_central_differences() {
    let case = Case::new(3, 2, 3, 4, |slot| slot != 2 && slot != 5);
    for index in 0..case.leaves.len() {
        check_gradient(&case.leaves[index], 1e-6, |leaf| {
            let mut leaves: Vec<Tensor> = case.leaves.iter().map(Tensor::shallow_clone).collect();
            leaves[index] = leaf.shallow_clone();
            case.terms_of(&leaves, &case.valid_bm).total
        });
    }
}

#[test]
fn chunked_rows_equal_the_whole() {
    let unit = |seed: i64| l2_normalize(&random(&[7, 3], seed));
    let (rows_rd, columns_qd, texts_rd) = (unit(1), unit(2), unit(3));
    let place_r = Tensor::arange(7, (Kind::Int64, tch::Device::Cpu));
    let run = |rows_at_once: i64| {
        let leaves = [&rows_rd, &columns_qd, &Tensor::from(6.0f64)].map(|x| x.detach().copy().set_requires_grad(true));
        let [rows_rd, columns_qd, scale] = &leaves;
        let filter = Some((&texts_rd, &texts_rd, 0.2));
        let logits =
            FilteredLogits { rows_rd, columns_qd, filter, scale, place_r: &place_r, weight: 0.3, rows_at_once };
        let contrasted = logits.contrast();
        let diagnostics = [scalar(&contrasted.accuracy), scalar(&contrasted.filtered_share)];
        let value = contrasted.with_gradients(rows_rd, columns_qd, scale);
        value.backward();
        (scalar(&value), leaves.map(|leaf| values(&leaf.grad())).concat(), diagnostics)
    };
    let whole = run(7);
    assert!(whole.2[1] > 0.0 && whole.2[1] < 1.0);
    for rows_at_once in [1, 3] {
        let chunked = run(rows_at_once);
        assert_close(chunked.0, whole.0, 1e-12);
        assert_eq!(chunked.2, whole.2);
        for (chunked, whole) in chunked.1.iter().zip(&whole.1) {
            assert_close(*chunked, *whole, 1e-12);
        }
    }
}

#[test]
fn without_regions_it_is_clip_bit_for_bit() {
    for kind in [Kind::Double, Kind::Float] {
        let mut case = Case::new(5, 3, 4, 9, |_| false);
        case.leaves.iter_mut().for_each(|leaf| *leaf = leaf.to_kind(kind));
        // What stands in unused slots must reach nothing.
        for leaf in &mut case.leaves[2..6] {
            let _ = leaf.fill_(f64::NAN);
        }
        let (value, gradients) = case.gradients();
        let clip = {
            let leaves: Vec<Tensor> =
                [0, 1, 6].map(|index: usize| case.leaves[index].detach().copy().set_requires_grad(true)).into();
            let inputs = ClipInputs {
                image: Gathered::single(&leaves[0]),
                text: Gathered::single(&leaves[1]),
                row_offset: 0,
                logit_scale: &leaves[2],
            };
            let total = clip_loss(&inputs).total;
            total.backward();
            (scalar(&total), leaves.iter().map(|leaf| values(&leaf.grad())).collect::<Vec<_>>())
        };
        assert_eq!(value, clip.0);
        for (ours, theirs) in [0, 1, 6].into_iter().zip(&clip.1) {
            assert_eq!(&gradients[ours], theirs);
        }
        // Zeros, not absent: an optimizer's moments go on, whatever the last batch held.
        for index in [2, 3, 5, 7] {
            assert!(!gradients[index].is_empty() && gradients[index].iter().all(|g| *g == 0.0), "leaf {index}");
        }
    }
}

#[test]
fn unused_slots_are_inert() {
    let case = Case::new(4, 3, 3, 2, |slot| slot % 3 != 1);
    let (value, gradients) = case.gradients();
    let mut noisy =
        Case { leaves: case.leaves.iter().map(Tensor::copy).collect(), valid_bm: case.valid_bm.copy(), ..case };
    for leaf in &mut noisy.leaves[2..6] {
        let _ = leaf.narrow(1, 1, 1).fill_(f64::NAN);
    }
    let (same, finite) = noisy.gradients();
    assert_eq!(value, same);
    assert_eq!(gradients, finite);
}

#[test]
fn processes_with_uneven_regions_add_up() {
    // Images 0 to 3 hold none, 4 has all slots, the others some: three of four processes differ, one has nothing.
    let case = Case::new(12, 3, 4, 21, |slot| slot >= 12 && (slot < 15 || slot % 5 < 2));
    let mut leaves: Vec<Tensor> = case.leaves.iter().map(Tensor::shallow_clone).collect();
    leaves.push(case.valid_bm.shallow_clone());
    assert_ranks_add_up(12, &leaves, |leaves, part| {
        let local: Vec<Tensor> =
            leaves.iter().map(|leaf| if leaf.dim() > 0 { part.of(leaf) } else { leaf.shallow_clone() }).collect();
        let gathered = |index: usize| Gathered { local: &local[index], global: &leaves[index] };
        let inputs = ClocInputs {
            image: gathered(0),
            text: gathered(1),
            regions: gathered(2),
            phrases: gathered(3),
            valid: gathered(8),
            grounding: Some(Grounding { boxes_bm4: &local[4], predicted_bm4: &local[5] }),
            row_offset: part.offset,
            logit_scale: &leaves[6],
            region_logit_scale: &leaves[7],
            text_filter: Some(0.3),
        };
        cloc_loss(&inputs, &CONFIG).total
    });
}

#[test]
fn a_phrase_that_is_there_once_has_the_sum_of_its_copies_gradients() {
    let case = Case { filter: Some(0.9), ..Case::new(3, 2, 4, 5, |slot| slot != 4) };
    let distinct_ud = random(&[3, 4], 77);
    let row_of_slot = Tensor::from_slice(&[0i64, 1, 1, 2, 0, 0]);
    let run = |phrases_bmd: &Tensor| {
        let mut leaves: Vec<Tensor> = case.leaves.iter().map(Tensor::shallow_clone).collect();
        leaves[3] = phrases_bmd.shallow_clone();
        let terms = case.terms_of(&leaves, &case.valid_bm);
        terms.total.backward();
        terms
    };
    let once_ud = distinct_ud.detach().copy().set_requires_grad(true);
    let shared = run(&once_ud.index_select(0, &row_of_slot).view([3, 2, 4]));
    let copies_sd = distinct_ud.index_select(0, &row_of_slot).detach().set_requires_grad(true);
    let copied = run(&copies_sd.view([3, 2, 4]));
    assert_eq!(scalar(&shared.total), scalar(&copied.total));
    let summed_ud = distinct_ud.zeros_like().index_add(0, &row_of_slot, &copies_sd.grad());
    for (a, b) in values(&once_ud.grad()).into_iter().zip(values(&summed_ud)) {
        assert_close(a, b, 1e-14);
    }
    // Equal phrases are no negatives of each other: (0, 5) and (1, 2), seen from both sides, of 5 · 4 pairs.
    assert_close(diagnostic(&shared, "filtered_share"), 4.0 / 20.0, 1e-12);
}

#[test]
fn the_filter_leaves_out_near_copies_and_keeps_the_diagonal() {
    // Three regions of one phrase: without negatives nothing is left to lose.
    let mut case = Case::new(1, 3, 2, 0, |_| true);
    case.leaves[3] = Tensor::from_slice(&[1.0f64, 0.0, 2.0, 0.0, 5.0, 1e-9]).view([1, 3, 2]);
    case.filter = Some(0.9);
    assert_eq!(scalar(case.terms().get("region").unwrap()), 0.0);
    case.filter = None;
    assert!(scalar(case.terms().get("region").unwrap()) > 0.5);
    assert_eq!(diagnostic(&case.terms(), "filtered_share"), 0.0);
}

#[test]
fn the_iou_is_that_of_the_boxes_in_the_image() {
    let boxes = Tensor::from_slice(&[0.0f64, 0.0, 0.5, 1.0, 0.2, 0.2, 0.4, 0.4, 0.0, 0.0, 1.0, 1.0]).view([1, 3, 4]);
    let predicted = Tensor::from_slice(&[0.0f64, 0.0, 1.0, 1.0, 0.4, 0.4, 0.2, 0.2, -1.0, -1.0, 2.0, 2.0]);
    let mut case = Case::new(1, 3, 2, 0, |_| true);
    (case.leaves[4], case.leaves[5]) = (boxes, predicted.view([1, 3, 4]));
    assert_close(diagnostic(&case.terms(), "grounding_iou"), (0.5 + 0.0 + 1.0) / 3.0, 1e-12);
}

#[test]
fn wrong_settings_are_named() {
    CONFIG.validate().unwrap();
    for (wrong, field) in [
        (ClocConfig { lambda_region: 0.0, ..CONFIG }, "lambda_region"),
        (ClocConfig { lambda_grounding: -1.0, ..CONFIG }, "lambda_grounding"),
        (ClocConfig { text_filter: Some(1.0), ..CONFIG }, "text_filter"),
        (ClocConfig { region_head: RegionHead::RoiAlign, ..CONFIG }, "lambda_grounding must be 0"),
    ] {
        assert!(wrong.validate().unwrap_err().contains(field));
    }
    let warm = ClocConfig { filter_warmup_steps: 10, ..CONFIG };
    assert_eq!([warm.filter_after(9), warm.filter_after(10)], [None, Some(0.9)]);
}

#[test]
#[should_panic(expected = "regions must be [2, M, D]")]
fn a_shape_bug_panics_with_the_numbers() {
    let mut case = Case::new(2, 2, 3, 0, |_| true);
    case.leaves[2] = random(&[3, 2, 3], 0);
    let _ = case.terms();
}
