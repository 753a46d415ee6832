//! Tests of NAS: references in scalar loops, what an edit may touch, and the shortcut it must not leave.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, cube, random, rows, scalar, values};
use tch::Device;

use super::*;
use crate::dictionary::nearest;
use crate::objectives::albef::{MaskingVocabulary, Positives};
use crate::objectives::clip::reference::cosine;
use crate::seed::uniforms;

fn numbers(seed: u64, shape: &[i64]) -> Tensor {
    Tensor::from_slice(&uniforms(seed, &[b"test"], 0, shape.iter().product::<i64>() as usize)).view(shape)
}

fn all(k: i64) -> Tensor {
    Tensor::ones([k], (Kind::Bool, Device::Cpu))
}

fn distinct_ids(b: i64) -> Tensor {
    Tensor::arange(b, (Kind::Int64, Device::Cpu))
}

#[test]
fn scores_agree_with_the_reference() {
    let (patches, image, text) = (random(&[3, 4, 5], 1), random(&[3, 5], 2), random(&[3, 5], 3));
    let softmax = |x: &[f64]| {
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        x.iter().map(|x| x.exp() / sum).collect::<Vec<_>>()
    };
    for score in [PatchScore::Sum, PatchScore::Text, PatchScore::Image, PatchScore::ProductOfSoftmaxes] {
        let scores = rows(&patch_scores(&patches, &image, &text, score));
        for (b, scores) in scores.iter().enumerate() {
            let of = |global: &Tensor| -> Vec<f64> {
                cube(&patches)[b].iter().map(|patch| cosine(patch, &rows(global)[b])).collect()
            };
            let (t, v) = (of(&text), of(&image));
            for p in 0..4 {
                let expected = match score {
                    PatchScore::Sum => t[p] + v[p],
                    PatchScore::Text => t[p],
                    PatchScore::Image => v[p],
                    PatchScore::ProductOfSoftmaxes => softmax(&t)[p] * softmax(&v)[p],
                };
                assert_close(scores[p], expected, 1e-12);
            }
        }
    }
}

#[test]
fn the_image_alone_does_not_look_at_the_caption_and_an_empty_caption_is_not_looked_at() {
    let (patches, image, text) = (random(&[2, 4, 5], 1), random(&[2, 5], 2), random(&[2, 5], 3));
    let score = |text: &Tensor, score| values(&patch_scores(&patches, &image, text, score));
    assert_eq!(score(&text, PatchScore::Image), score(&random(&[2, 5], 9), PatchScore::Image));
    assert_ne!(score(&text, PatchScore::Sum), score(&random(&[2, 5], 9), PatchScore::Sum));
    let nothing = text.zeros_like();
    for of_text in [PatchScore::Text, PatchScore::Sum] {
        assert_eq!(score(&nothing, of_text), score(&nothing, PatchScore::Image));
    }
    let leaf = patches.copy().set_requires_grad(true);
    assert!(!patch_scores(&leaf, &image, &text, PatchScore::Sum).requires_grad());
}

#[test]
fn the_highest_are_chosen_and_the_first_of_equals() {
    let scores = Tensor::from_slice(&[0.1f32, 0.9, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]).view([2, 5]);
    assert_eq!(values(&highest(&scores, 0.5)), [1.0, 3.0, 2.0, 0.0, 1.0, 2.0]);
    assert_eq!(highest(&scores, 0.01).size(), [2, 1]);
    assert_eq!(highest(&scores, 1.0).size(), [2, 5]);
}

/// The codes that may take the place of `old`, nearest first, by the rules in scalar loops.
fn allowed(codes: &[Vec<f64>], usable: &[bool], image: &[usize], old: usize) -> Vec<usize> {
    let distance = |j: usize| codes[j].iter().zip(&codes[old]).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let mut others: Vec<usize> = (0..codes.len()).filter(|&j| j != old && usable[j] && !image.contains(&j)).collect();
    others.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    others
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn new_codes_obey_the_rules(b in 1i64..5, p in 2i64..9, k in 12i64..20, seed in 0i64..1000, neighbours in 1i64..5) {
        let codes = random(&[k, 3], seed);
        let index = (numbers(seed as u64, &[b, p]) * k as f64).floor().to_kind(Kind::Int64);
        let chosen = highest(&random(&[b, p], seed + 1), 0.6);
        let r = chosen.size()[1];
        // One code in five is dead, as far as it is in no image.
        let usable: Vec<bool> = (0..k).map(|j| (j + seed) % 5 != 0).collect();
        let usable_k = Tensor::from_slice(&usable);
        let (uniform, ids) = (numbers(seed as u64 + 7, &[b, r]), distinct_ids(b));
        let old = index.gather(1, &chosen, false);
        let tops: Vec<usize> = values(&old.select(1, 0)).into_iter().map(|j| j as usize).collect();
        for rule in [
            Replacement::NearestOther { neighbours }, Replacement::Random, Replacement::Farthest, Replacement::OtherImage,
        ] {
            let inputs = ReplacementInputs {
                codes_kc: &codes, usable_k: &usable_k, index_bp: &index, chosen_br: &chosen, image_ids_b: &ids,
                uniform_br: &uniform,
            };
            let new = rows(&replacements(&inputs, rule));
            for image in 0..b as usize {
                let own: Vec<usize> = rows(&index)[image].iter().map(|&j| j as usize).collect();
                let mut seen = BTreeMap::new();
                for (old, new) in rows(&old)[image].iter().zip(&new[image]) {
                    let (old, new) = (*old as usize, *new as usize);
                    let others = allowed(&rows(&codes), &usable, &own, old);
                    let from: Vec<usize> = match rule {
                        Replacement::NearestOther { neighbours } => {
                            others.iter().copied().take(neighbours as usize).collect()
                        }
                        Replacement::Random => others.clone(),
                        Replacement::Farthest => others.last().copied().into_iter().collect(),
                        Replacement::OtherImage => others
                            .iter()
                            .copied()
                            .filter(|j| tops.iter().enumerate().any(|(i, top)| i != image && top == j))
                            .collect(),
                    };
                    prop_assert_ne!(new, old);
                    if from.is_empty() {
                        // The nearest that the image does not have; where it has all, the nearest.
                        let relaxed = allowed(&rows(&codes), &usable, &[], old);
                        prop_assert_eq!(new, *others.first().unwrap_or(&relaxed[0]));
                    } else {
                        prop_assert!(from.contains(&new), "{:?}: {} for {} is not of {:?}", rule, new, old, from);
                    }
                    // One new code for all patches that share an old one.
                    prop_assert_eq!(*seen.entry(old).or_insert(new), new);
                }
            }
        }
    }
}

#[test]
fn every_candidate_is_drawn_about_equally_often() {
    let codes = random(&[8, 2], 3);
    let index = Tensor::from_slice(&[2i64, 5]).view([1, 2]);
    let draws = 4000;
    for (rule, n) in [(Replacement::NearestOther { neighbours: 3 }, 3), (Replacement::Random, 6)] {
        let mut hits = BTreeMap::new();
        for draw in 0..draws {
            let new = replacements(
                &ReplacementInputs {
                    codes_kc: &codes,
                    usable_k: &all(8),
                    index_bp: &index,
                    chosen_br: &Tensor::from_slice(&[0i64]).view([1, 1]),
                    image_ids_b: &distinct_ids(1),
                    uniform_br: &numbers(draw, &[1, 1]),
                },
                rule,
            );
            *hits.entry(new.int64_value(&[0, 0])).or_insert(0) += 1;
        }
        assert_eq!(hits.len(), n, "{hits:?}");
        assert!(
            hits.values().all(|&count| (f64::from(count) / draws as f64 - 1.0 / n as f64).abs() < 0.04),
            "{hits:?}"
        );
    }
}

#[test]
fn another_images_code_is_never_that_of_the_same_image() {
    let codes = random(&[6, 2], 1);
    let index = Tensor::from_slice(&[0i64, 1, 2]).view([3, 1]);
    let inputs = |ids: &Tensor| {
        let (usable, chosen, uniform) =
            (all(6), Tensor::zeros([3, 1], (Kind::Int64, Device::Cpu)), numbers(1, &[3, 1]));
        values(&replacements(
            &ReplacementInputs {
                codes_kc: &codes,
                usable_k: &usable,
                index_bp: &index,
                chosen_br: &chosen,
                image_ids_b: ids,
                uniform_br: &uniform,
            },
            Replacement::OtherImage,
        ))
    };
    // Images 0 and 1 are one: both can only take image 2's code.
    assert_eq!(inputs(&Tensor::from_slice(&[4i64, 4, 5]))[..2], [2.0, 2.0]);
}

#[test]
fn without_candidates_the_rules_are_relaxed_and_doubles_are_no_negatives() {
    // Code 1 is code 0's double; 2 is nearest to it, 3 is dead.
    let codes = Tensor::from_slice(&[0.0f32, 1.0, 0.0, 1.0, 0.5, 1.0, 5.0, 5.0]).view([4, 2]);
    let index = Tensor::from_slice(&[0i64, 2]).view([1, 2]);
    let chosen = Tensor::from_slice(&[0i64]).view([1, 1]);
    let draw = |codes: &Tensor, index: &Tensor, usable: &[bool]| {
        let inputs = ReplacementInputs {
            codes_kc: codes,
            usable_k: &Tensor::from_slice(usable),
            index_bp: index,
            chosen_br: &chosen,
            image_ids_b: &distinct_ids(1),
            uniform_br: &numbers(3, &[1, 1]),
        };
        replacements(&inputs, Replacement::NearestOther { neighbours: 10 })
    };
    // The image has 2, the only other one in use: it is taken all the same.
    assert_eq!(values(&draw(&codes, &index, &[true, true, true, false])), [2.0]);
    // None is in use: the nearest of the dead that is not the double.
    assert_eq!(values(&draw(&codes, &index, &[true, true, false, false])), [2.0]);
    // All codes are doubles: there is no edit, and the image is no negative.
    let doubles = codes.narrow(0, 0, 2);
    let index = Tensor::from_slice(&[0i64, 0]).view([1, 2]);
    let new = draw(&doubles, &index, &[true, true]);
    assert_eq!(values(&new), [0.0]);
    let edit = edit(&random(&[1, 2, 2], 1).to_kind(Kind::Float), &index, &doubles, &chosen, &new);
    assert_eq!(values(&edit.found_b), [0.0]);
}

/// Patches near to codes, their edit by `rule`, and the dictionary; f32.
fn edited(b: i64, seed: i64, rule: Replacement) -> (Tensor, Tensor, Edit) {
    let codes = random(&[32, 6], seed).to_kind(Kind::Float) * 3.0;
    let patches = (random(&[b, 10, 6], seed + 1).to_kind(Kind::Float) * 2.0).set_requires_grad(true);
    let index = nearest(&patches.view([-1, 6]), &codes).view([b, 10]);
    let (image, text) = (random(&[b, 6], seed + 2), random(&[b, 6], seed + 3));
    let chosen = highest(&patch_scores(&patches.to_kind(Kind::Double), &image, &text, PatchScore::Sum), 0.3);
    let inputs = ReplacementInputs {
        codes_kc: &codes,
        usable_k: &all(32),
        index_bp: &index,
        chosen_br: &chosen,
        image_ids_b: &distinct_ids(b),
        uniform_br: &numbers(seed as u64, &chosen.size()),
    };
    let edit = edit(&patches, &index, &codes, &chosen, &replacements(&inputs, rule));
    (patches, codes, edit)
}

#[test]
fn an_edit_touches_the_chosen_patches_alone_and_carries_no_gradient_there() {
    let (patches, codes, edit) = edited(4, 1, Replacement::NearestOther { neighbours: 10 });
    assert_eq!(values(&edit.found_b), [1.0; 4]);
    assert_eq!(values(&edit.replaced_bp.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64)), [3.0; 4]);
    let differs = |a: &Tensor, b: &Tensor| values(&a.ne_tensor(b).any_dim(2, false));
    assert_eq!(differs(&edit.original.quantised_bpc, &edit.edited.quantised_bpc), values(&edit.replaced_bp));
    assert_eq!(differs(&edit.original.continuous_bpc, &edit.edited.continuous_bpc), values(&edit.replaced_bp));
    assert_eq!(values(&vectors(&edit.index_bp, &codes)), values(&edit.edited.quantised_bpc));
    // Straight through where the patch is kept, nothing where it is not.
    edit.edited.quantised_bpc.sum(None::<Kind>).backward();
    let expected = edit.replaced_bp.logical_not().unsqueeze(-1).expand_as(&patches);
    assert_eq!(values(&patches.grad()), values(&expected));
    // What stands beside the new code is as far from it as the old patch was from the old code.
    let residual = |tokens: &VisualTokens| tokens.continuous_bpc.detach() - tokens.quantised_bpc.detach();
    assert!(scalar(&(residual(&edit.original) - residual(&edit.edited)).abs().max()) < 1e-5);
}

/// The accuracy of the best classifier that sees nothing of an image but, of every token, a few bits: which tokens
/// are exactly vectors of the dictionary, and which are exactly the patch beside them.
fn probe(positives: &VisualTokens, negatives: &VisualTokens, codes: &Tensor) -> f64 {
    let bits = |tokens: &VisualTokens| -> Vec<Vec<u8>> {
        let is_code = |x: &Tensor| {
            let flat = x.detach().reshape([-1, codes.size()[1]]);
            let code = codes.index_select(0, &nearest(&flat, codes));
            flat.eq_tensor(&code).all_dim(1, false).view([x.size()[0], x.size()[1]])
        };
        let same = tokens.quantised_bpc.detach().eq_tensor(&tokens.continuous_bpc.detach()).all_dim(2, false);
        let seen = Tensor::cat(&[is_code(&tokens.quantised_bpc), is_code(&tokens.continuous_bpc), same], 1);
        // Sorted within their kinds: where in the image an edit is, is no shortcut but the edit itself.
        let p = tokens.quantised_bpc.size()[1] as usize;
        rows(&seen)
            .into_iter()
            .map(|row| {
                row.chunks(p)
                    .flat_map(|kind| {
                        let mut kind: Vec<u8> = kind.iter().map(|&bit| bit as u8).collect();
                        kind.sort_unstable();
                        kind
                    })
                    .collect()
            })
            .collect()
    };
    let mut counts: BTreeMap<Vec<u8>, (usize, usize)> = BTreeMap::new();
    for pattern in bits(positives) {
        counts.entry(pattern).or_default().0 += 1;
    }
    for pattern in bits(negatives) {
        counts.entry(pattern).or_default().1 += 1;
    }
    let right: usize = counts.values().map(|&(positive, negative)| positive.max(negative)).sum();
    let total: usize = counts.values().map(|&(positive, negative)| positive + negative).sum();
    right as f64 / total as f64
}

#[test]
fn the_shortcut_probe_stays_at_chance() {
    for rule in [
        Replacement::NearestOther { neighbours: 10 },
        Replacement::Random,
        Replacement::Farthest,
        Replacement::OtherImage,
    ] {
        let (_, codes, edit) = edited(64, 5, rule);
        assert!(scalar(&edit.found_b.sum(Kind::Double)) == 64.0);
        assert_eq!(probe(&edit.original, &edit.edited, &codes), 0.5, "{rule:?}");
    }
}

#[test]
fn the_shortcut_probe_sees_what_would_be_broken() {
    let (patches, codes, edit) = edited(64, 5, Replacement::Random);
    let same = |x: &Tensor| VisualTokens { quantised_bpc: x.shallow_clone(), continuous_bpc: x.shallow_clone() };
    // Codes in negatives only.
    let mixed = edit.edited.quantised_bpc.where_self(&edit.replaced_bp.unsqueeze(-1), &patches);
    assert_eq!(probe(&same(&patches), &same(&mixed), &codes), 1.0);
    // The usual straight-through, v + (q − v), which is a rounding off.
    let quantised = &edit.original.quantised_bpc;
    let rounded = &patches + (quantised - &patches).detach();
    assert!(probe(&same(&rounded), &same(&edit.edited.quantised_bpc), &codes) > 0.9);
    // A new code beside which there is no residual, in a gated mixture.
    let exact = VisualTokens {
        quantised_bpc: edit.edited.quantised_bpc.shallow_clone(),
        continuous_bpc: mixed.shallow_clone(),
    };
    assert_eq!(probe(&edit.original, &exact, &codes), 1.0);
}

#[test]
fn tokens_that_differ_change_places() {
    let ids = Tensor::from_slice(&[1i64, 5, 6, 5, 2, 0, 1, 7, 7, 2, 0, 0]).view([2, 6]);
    let words = ids.ge(5);
    let mut seen = BTreeMap::new();
    for draw in 0..200 {
        let swapped = swap_tokens(&ids, &words, &numbers(draw, &[2, 2]));
        // The second caption has no two words that differ: it is as it was, and said not to be a negative.
        assert_eq!(values(&swapped.found_b), [1.0, 0.0]);
        assert_eq!(values(&swapped.ids_bl.get(1)), values(&ids.get(1)));
        *seen.entry(values(&swapped.ids_bl.get(0)).iter().map(|&id| id as i64).collect::<Vec<_>>()).or_insert(0) += 1;
    }
    let found: Vec<Vec<i64>> = seen.into_keys().collect();
    assert_eq!(found, [[1, 5, 5, 6, 2, 0], [1, 6, 5, 5, 2, 0]]);
}

#[test]
fn substitutes_are_neither_the_word_nor_a_likely_synonym() {
    let logits = Tensor::from_slice(&[9.0f64, 9.0, 3.0, 8.0, 1.0, 2.0]).repeat([2, 1]);
    let original = Tensor::from_slice(&[3i64, 5]);
    let words = MaskingVocabulary { mask_id: 0, first_id: 2, n_ids: 6 };
    let mut seen = [[0; 6]; 2];
    for draw in 0..2000 {
        let drawn = substitutes(&logits, &original, words, 3, &numbers(draw, &[2]));
        assert_eq!(values(&drawn.found_b), [1.0, 1.0]);
        for (row, id) in values(&drawn.columns_b).into_iter().enumerate() {
            seen[row][id as usize] += 1;
        }
    }
    // Ids below 2 are special; 0, 1 and 3 are the three likeliest; of 2, 4 and 5 the original is out.
    assert_eq!((seen[0][0], seen[0][1], seen[0][3]), (0, 0, 0));
    assert!(seen[0].iter().filter(|&&count| count > 0).count() == 3 && seen[0][2] > seen[0][5]);
    assert_eq!(seen[1][5], 0);
    // No word is left: said, not drawn.
    let none = substitutes(&logits, &original, words, 6, &numbers(1, &[2]));
    assert_eq!(values(&none.found_b), [0.0, 0.0]);
    // Nor is the mask ever drawn, wherever it stands: 4 and 5 alone are left beside it.
    let last = MaskingVocabulary { mask_id: 2, ..words };
    assert!(
        (0..200).all(|draw| values(&substitutes(&logits, &original, last, 3, &numbers(draw, &[2])).columns_b)[0] > 3.0)
    );
    let chosen = choose_words(&Tensor::from_slice(&[false, true, false, false]).view([2, 2]), &numbers(1, &[2]));
    assert_eq!((values(&chosen.columns_b), values(&chosen.found_b)), (vec![1.0, 0.0], vec![1.0, 0.0]));
}

fn albef_config() -> AlbefConfig {
    AlbefConfig {
        lambda_contrast: 1.0,
        lambda_matching: 2.0,
        lambda_language: 1.0,
        distillation: 0.4,
        distillation_warmup_steps: 0,
        momentum: 0.995,
        queue_size: 0,
        positives: Positives::Pair,
        masked_share: 0.15,
    }
}

fn config() -> NasConfig {
    NasConfig {
        tokens: TokenMode::Quantised,
        class_token: ClassToken::Keep,
        score_space: ScoreSpace::Projected,
        score: PatchScore::Sum,
        replaced_share: 0.15,
        replacement: Replacement::NearestOther { neighbours: 10 },
        edited_term: EditedTerm::InMean,
        contrast_edited: false,
        text_negatives: TextNegatives::None,
        start: Start::Perplexity { share: 0.125 },
    }
}

/// A contrast of value 0 among `b` rows.
fn no_contrast() -> Contrast {
    let nothing = || Tensor::from(0.0f64);
    Contrast {
        value: nothing(),
        image_to_text_bn: nothing(),
        text_to_image_bn: nothing(),
        image_to_text_accuracy: nothing(),
        text_to_image_accuracy: nothing(),
    }
}

#[test]
fn edits_enter_the_mean_or_a_term_of_their_own() {
    let (pairs, edits) = (random(&[9, 2], 1), random(&[3, 2], 2));
    let labels = Tensor::from_slice(&[1i64, 1, 1, 0, 0, 0, 0, 0, 0]);
    let wrong = labels.narrow(0, 3, 3);
    let valid = Tensor::from_slice(&[true, true, true, true, false, true, true, true, true]);
    let found = Tensor::from_slice(&[true, false, true]);
    let cross_entropy = |row: &[f64], label: usize| (row[0].exp() + row[1].exp()).ln() - row[label];
    let of = |logits: &Tensor, labels: &Tensor, valid: &Tensor| -> Vec<f64> {
        (0..logits.size()[0] as usize)
            .filter(|&i| values(valid)[i] > 0.0)
            .map(|i| cross_entropy(&rows(logits)[i], values(labels)[i] as usize))
            .collect()
    };
    let (of_pairs, of_edits) = (of(&pairs, &labels, &valid), of(&edits, &wrong, &found));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let loss = |edited_term, with: bool| {
        let pairs = MatchingInputs { logits_r2: &pairs, labels_r: &labels, valid: Gathered::single(&valid) };
        let edits = MatchingInputs { logits_r2: &edits, labels_r: &wrong, valid: Gathered::single(&found) };
        let nas = NasConfig { edited_term, ..config() };
        nas_loss(no_contrast(), &pairs, with.then_some(&edits), Tensor::from(0.0f64), (&albef_config(), &nas))
    };
    let total = |edited_term, with| scalar(&loss(edited_term, with).total);
    let both = [of_pairs.clone(), of_edits.clone()].concat();
    assert_close(total(EditedTerm::InMean, true), 2.0 * mean(&both), 1e-12);
    let separate = EditedTerm::Separate { weight: 0.5 };
    assert_close(total(separate, true), 2.0 * mean(&of_pairs) + mean(&of_edits), 1e-12);
    for term in [EditedTerm::InMean, separate] {
        assert_close(total(term, false), 2.0 * mean(&of_pairs), 1e-12);
        let diagnostics = loss(term, true).diagnostics;
        assert_eq!(diagnostics.last().unwrap().0, "edited_recall");
        // Those of the pairs stay what they are without edits.
        let of_pairs = |terms: LossTerms| -> Vec<(String, f64)> {
            let named = terms.diagnostics.iter().filter(|(name, _)| name.starts_with("matching_"));
            named.map(|(name, value)| (name.to_string(), scalar(value))).collect()
        };
        assert_eq!(of_pairs(loss(term, true)), of_pairs(loss(term, false)));
        assert_eq!(of_pairs(loss(term, true)).len(), 2);
    }
}

#[test]
fn matching_with_edits_adds_up_over_ranks() {
    let valid = Tensor::arange(12, (Kind::Int64, Device::Cpu)).remainder(5).ne(2);
    let found = Tensor::arange(12, (Kind::Int64, Device::Cpu)).gt(3);
    let labels = Tensor::arange(12, (Kind::Int64, Device::Cpu)).remainder(2);
    let wrong = labels.zeros_like();
    for edited_term in [EditedTerm::InMean, EditedTerm::Separate { weight: 0.7 }] {
        assert_ranks_add_up(12, &[random(&[12, 2], 1), random(&[12, 2], 2)], |leaves, part| {
            let of = |logits: &Tensor, labels: &Tensor, valid: &Tensor| {
                [part.of(logits), part.of(labels), part.of(valid), valid.shallow_clone()]
            };
            let (pairs, edits) = (of(&leaves[0], &labels, &valid), of(&leaves[1], &wrong, &found));
            let nas = NasConfig { edited_term, ..config() };
            nas_loss(
                no_contrast(),
                &of_tensors(&pairs),
                Some(&of_tensors(&edits)),
                Tensor::from(0.0f64),
                (&albef_config(), &nas),
            )
            .total
        });
    }
}

fn of_tensors([logits, labels, local, global]: &[Tensor; 4]) -> MatchingInputs<'_> {
    MatchingInputs { logits_r2: logits, labels_r: labels, valid: Gathered { local, global } }
}

#[test]
fn wrong_values_are_named() {
    assert!(config().validate().is_ok());
    for (wrong, name) in [
        (NasConfig { replaced_share: 0.0, ..config() }, "replaced_share"),
        (NasConfig { replacement: Replacement::NearestOther { neighbours: 0 }, ..config() }, "neighbours"),
        (NasConfig { edited_term: EditedTerm::Separate { weight: f64::NAN }, ..config() }, "edited_term"),
        (NasConfig { text_negatives: TextNegatives::Substitute { skipped: -1 }, ..config() }, "skipped"),
        (NasConfig { start: Start::Perplexity { share: 2.0 }, ..config() }, "share"),
    ] {
        assert!(wrong.validate().unwrap_err().contains(name));
    }
}

#[test]
fn edits_begin_when_they_should() {
    assert!(!config().has_started(1_000_000, 255.9, 2048) && config().has_started(0, 256.0, 2048));
    let by_step = NasConfig { start: Start::Step { step: 7 }, ..config() };
    assert!(!by_step.has_started(6, 2048.0, 2048) && by_step.has_started(7, 1.0, 2048));
}
