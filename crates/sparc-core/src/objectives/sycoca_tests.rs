//! Tests of SyCoCa's loss: scalar reference, gradients, choices of patches, invariances, processes.

use proptest::prelude::*;
use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, cube, random, rows, scalar, values};

use super::*;
use crate::Gathered;
use crate::objectives::clip::reference as clip_reference;
use crate::objectives::coca::caption_denominator;
use crate::objectives::coca::tests::caption_reference;
use crate::sample_inputs::prefix_mask;

mod reference {
    //! Scores, choices and TG-MIM in scalar f64 loops, from the equations.

    use super::clip_reference::cosine;

    pub fn scores(patches: &[Vec<f64>], words: &[Vec<f64>]) -> Vec<f64> {
        let best = |patch: &Vec<f64>| words.iter().map(|word| cosine(patch, word)).fold(f64::NEG_INFINITY, f64::max);
        patches.iter().map(best).collect()
    }

    /// Indices of the `n` best by `better`, ties by index, ascending.
    pub fn choose(scores: &[f64], n: usize, better: impl Fn(f64, f64) -> bool) -> Vec<usize> {
        let mut chosen: Vec<usize> = (0..scores.len())
            .filter(|&i| {
                let ahead = (0..scores.len())
                    .filter(|&j| better(scores[j], scores[i]) || (scores[j] == scores[i] && j < i))
                    .count();
                ahead < n
            })
            .collect();
        chosen.sort_unstable();
        chosen
    }

    pub fn normalised(pixels: &[f64]) -> Vec<f64> {
        let n = pixels.len() as f64;
        let mean = pixels.iter().sum::<f64>() / n;
        let variance = pixels.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        pixels.iter().map(|x| (x - mean) / (variance + 1e-6).sqrt()).collect()
    }
}

const CONFIG: SycocaConfig = SycocaConfig {
    lambda_contrastive: 1.0,
    lambda_caption: 2.0,
    lambda_reconstruction: 1.0,
    normalisation: Normalisation::OpenClip,
    caption_mask: PatchMask::Attentive,
    caption_mask_ratio: 0.5,
    reconstruction_mask: ReconstructionMask::Attentive,
    reconstruction_mask_ratio: 0.5,
    mask_site: MaskSite::Latent,
    mask_warmup_steps: 0,
    full_image_probability: 0.0,
    similarity: SimilaritySpace::Projected,
    target: PixelTarget::PatchNorm,
    distance: PixelDistance::L2,
    detach_text: false,
};

fn indices(x: &Tensor) -> Vec<Vec<usize>> {
    rows(x).into_iter().map(|row| row.into_iter().map(|index| index as usize).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn scores_and_choices_agree_with_the_equations(b in 1i64..5, p in 2i64..9, ratio in 0.0f64..1.0, seed in 0i64..1000) {
        let (patches, tokens) = (random(&[b, p, 3], seed), random(&[b, 4, 3], seed + 1));
        let lengths: Vec<i64> = (0..b).map(|i| 1 + (i + seed) % 4).collect();
        let scores = patch_scores(&patches, &tokens, &prefix_mask(&lengths, 4));
        // Rounded, so that ties occur.
        let rounded = (&scores * 3.0).round();
        let highest = choose_patches(&rounded, ratio, Side::Highest);
        let lowest = choose_patches(&rounded, ratio, Side::Lowest);
        let n = ((ratio * p as f64).floor() as usize).clamp(1, p as usize - 1);
        for (i, &length) in lengths.iter().enumerate() {
            let words = &cube(&tokens)[i][..length as usize];
            let expected = reference::scores(&cube(&patches)[i], words);
            for (score, expected) in rows(&scores)[i].iter().zip(&expected) {
                assert_close(*score, *expected, 1e-10);
            }
            let row = &rows(&rounded)[i];
            prop_assert_eq!(&indices(&highest.chosen_bk)[i], &reference::choose(row, n, |a, b| a > b));
            prop_assert_eq!(&indices(&lowest.chosen_bk)[i], &reference::choose(row, n, |a, b| a < b));
            let mut all = [indices(&highest.chosen_bk)[i].clone(), indices(&highest.others_bk)[i].clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..p as usize).collect::<Vec<_>>());
        }
    }

    #[test]
    fn reconstruction_agrees_with_the_equations(b in 1i64..4, k in 1i64..5, seed in 0i64..1000) {
        let (predicted, pixels) = (random(&[b, 5, 6], seed), random(&[b, 5, 6], seed + 1));
        let hidden = choose_patches(&random(&[b, 5], seed + 2), k as f64 / 5.0 + 0.01, Side::Highest).chosen_bk;
        for target in [PixelTarget::PatchNorm, PixelTarget::Image] {
            for distance in [PixelDistance::L2, PixelDistance::L1] {
                let (mut sum, mut count) = (0.0, 0);
                for (i, hidden) in indices(&hidden).into_iter().enumerate() {
                    for p in hidden {
                        let true_pixels = &cube(&pixels)[i][p];
                        let target = match target {
                            PixelTarget::PatchNorm => reference::normalised(true_pixels),
                            PixelTarget::Image => true_pixels.clone(),
                        };
                        for (x, y) in cube(&predicted)[i][p].iter().zip(&target) {
                            sum += if distance == PixelDistance::L2 { (x - y) * (x - y) } else { (x - y).abs() };
                        }
                        count += 6;
                    }
                }
                let inputs = ReconstructionInputs { predicted_bpx: &predicted, pixels_bpx: &pixels, hidden_bk: &hidden };
                let value = reconstruction_error(&inputs, target, distance).mean(None::<Kind>);
                assert_close(scalar(&value), sum / f64::from(count), 1e-10);
            }
        }
    }
}

#[test]
fn the_total_is_the_weighted_sum_of_the_references() {
    let (image, text, scale) = (random(&[3, 4], 1), random(&[3, 4], 2), Tensor::from(7.0f64));
    let (states, vocabulary) = (random(&[3, 4, 5], 3), random(&[6, 5], 4));
    let ids = Tensor::from_slice(&[0i64, 1, 2, 3, 5, 4, 3, 2, 1, 1, 0, 0]).view([3, 4]);
    let (mask, lengths) = (prefix_mask(&[4, 2, 3], 4), [4, 2, 3]);
    let (predicted, pixels) = (random(&[3, 4, 6], 5), random(&[3, 4, 6], 6));
    let hidden = Tensor::from_slice(&[0i64, 1, 1, 2, 2, 3]).view([3, 2]);
    let loss = |config: &SycocaConfig| {
        sycoca_loss(
            &SycocaInputs {
                contrastive: ClipInputs {
                    image: Gathered::single(&image),
                    text: Gathered::single(&text),
                    row_offset: 0,
                    logit_scale: &scale,
                },
                caption: Some(CaptionInputs {
                    states_blw: &states,
                    vocabulary_vw: &vocabulary,
                    ids_bl: &ids,
                    mask_bl: &mask,
                    denominator: None,
                }),
                reconstruction: Some(ReconstructionInputs {
                    predicted_bpx: &predicted,
                    pixels_bpx: &pixels,
                    hidden_bk: &hidden,
                }),
            },
            config,
        )
    };
    let (forward, backward) = clip_reference::contrastive(&rows(&image), &rows(&text), 7.0);
    let (sum, count) = caption_reference::cross_entropy(&cube(&states), &rows(&vocabulary), &rows(&ids), &lengths);
    let mut error = 0.0;
    for (i, hidden) in indices(&hidden).into_iter().enumerate() {
        for p in hidden {
            let target = reference::normalised(&cube(&pixels)[i][p]);
            error += cube(&predicted)[i][p].iter().zip(&target).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / 36.0;
        }
    }
    let config = SycocaConfig { lambda_contrastive: 0.5, lambda_reconstruction: 3.0, ..CONFIG };
    let expected = 0.25 * (forward + backward) + 2.0 * sum / count as f64 + 3.0 * error;
    assert_close(scalar(&loss(&config).total), expected, 1e-10);
    // Without its third term, SyCoCa is CoCa.
    let coca = SycocaConfig { lambda_reconstruction: 0.0, ..CONFIG };
    assert_close(scalar(&loss(&coca).total), 0.5 * (forward + backward) + 2.0 * sum / count as f64, 1e-10);
    assert!(loss(&coca).get("reconstruction").is_none());
}

#[test]
fn gradients_match_central_differences() {
    let (predicted, pixels) = (random(&[2, 4, 6], 1), random(&[2, 4, 6], 2));
    let hidden = Tensor::from_slice(&[0i64, 3, 1, 2]).view([2, 2]);
    for distance in [PixelDistance::L2, PixelDistance::L1] {
        check_gradient(&predicted, 1e-6, |predicted| {
            let inputs = ReconstructionInputs { predicted_bpx: predicted, pixels_bpx: &pixels, hidden_bk: &hidden };
            reconstruction_error(&inputs, PixelTarget::PatchNorm, distance).mean(None::<Kind>)
        });
    }
}

#[test]
fn visible_patches_do_not_count() {
    let (predicted, pixels) = (random(&[2, 4, 6], 1), random(&[2, 4, 6], 2));
    let choice = choose_patches(&random(&[2, 4], 3), 0.5, Side::Highest);
    let error = |predicted: &Tensor, pixels: &Tensor| {
        let inputs =
            ReconstructionInputs { predicted_bpx: predicted, pixels_bpx: pixels, hidden_bk: &choice.chosen_bk };
        scalar(&reconstruction_error(&inputs, PixelTarget::PatchNorm, PixelDistance::L2).mean(None::<Kind>))
    };
    let at = choice.others_bk.unsqueeze(-1).expand([-1, -1, 6], false);
    let elsewhere = |x: &Tensor| x.scatter_value(1, &at, f64::NAN);
    assert_eq!(error(&elsewhere(&predicted), &elsewhere(&pixels)), error(&predicted, &pixels));
}

#[test]
fn a_target_is_rebuilt_from_itself() {
    let pixels = random(&[2, 3, 12], 4);
    for target in [PixelTarget::PatchNorm, PixelTarget::Image] {
        let rebuilt = rebuilt_pixels(&target_pixels(&pixels, target), &pixels, target);
        for (a, b) in values(&rebuilt).into_iter().zip(values(&pixels)) {
            assert_close(a, b, 1e-12);
        }
    }
}

#[test]
fn scores_do_not_see_padding_lengths_or_gradients() {
    let (patches, tokens) = (random(&[2, 5, 3], 1), random(&[2, 4, 3], 2));
    let valid = prefix_mask(&[2, 3], 4);
    let scores = patch_scores(&patches, &tokens, &valid);
    let padded = tokens.where_self(&valid.unsqueeze(-1), &Tensor::from(f64::NAN));
    assert_eq!(values(&patch_scores(&patches, &padded, &valid)), values(&scores));
    for (a, b) in values(&patch_scores(&(&patches * 3.0), &(&tokens * 0.1), &valid)).into_iter().zip(values(&scores)) {
        assert_close(a, b, 1e-12);
    }
    assert!(!patch_scores(&patches.set_requires_grad(true), &tokens, &valid).requires_grad());
    let none = Tensor::zeros([2, 4], (Kind::Bool, tch::Device::Cpu));
    assert_eq!(values(&patch_scores(&random(&[2, 5, 3], 1), &tokens, &none)), [0.0; 10]);
}

#[test]
fn words_score_and_the_end_token_stands_in_for_them() {
    let flags = |rows: [[bool; 4]; 3]| Tensor::from_slice(&rows.concat()).view([3, 4]);
    // A caption of two words between its special tokens; one without words; no token at all.
    let words = flags([[false, true, true, false], [false; 4], [false; 4]]);
    let mask = flags([[true; 4], [true, true, false, false], [false; 4]]);
    let expected = flags([[false, true, true, false], [false, true, false, false], [false; 4]]);
    assert_eq!(values(&scoring_tokens(&words, &mask)), values(&expected));
}

#[test]
fn equal_scores_go_by_index_and_some_patch_is_left() {
    let scores = Tensor::zeros([1, 5], tch::kind::DOUBLE_CPU);
    for side in [Side::Highest, Side::Lowest] {
        assert_eq!(values(&choose_patches(&scores, 0.5, side).chosen_bk), [0.0, 1.0]);
        assert_eq!(values(&choose_patches(&scores, 0.01, side).chosen_bk), [0.0]);
        assert_eq!(values(&choose_patches(&scores, 0.99, side).others_bk), [4.0]);
    }
}

#[test]
fn processes_add_up_to_the_whole() {
    let leaves = [
        random(&[12, 4, 5], 1),
        random(&[6, 5], 2),
        random(&[12, 3], 3),
        random(&[12, 3], 4),
        random(&[12, 4, 6], 5),
        Tensor::from(5.0f64),
    ];
    let mask = prefix_mask(&[4, 2, 3, 0, 1, 4, 4, 4, 2, 2, 3, 1], 4);
    let ids = (random(&[12, 4], 6) * 100.0).to_kind(Kind::Int64).remainder(6);
    let pixels = random(&[12, 4, 6], 7);
    let hidden = choose_patches(&random(&[12, 4], 8), 0.5, Side::Highest).chosen_bk;
    assert_ranks_add_up(12, &leaves, |leaves, part| {
        let [states, vocabulary, image, text, predicted, scale] = leaves else { unreachable!() };
        let counts: Vec<Tensor> =
            (0..part.ranks).map(|rank| caption_denominator(&mask.narrow(0, rank * part.size, part.size))).collect();
        let denominator = Tensor::stack(&counts, 0).mean(Kind::Double);
        let inputs = SycocaInputs {
            contrastive: ClipInputs {
                image: Gathered { local: &part.of(image), global: image },
                text: Gathered { local: &part.of(text), global: text },
                row_offset: part.offset,
                logit_scale: scale,
            },
            caption: Some(CaptionInputs {
                states_blw: &part.of(states),
                vocabulary_vw: vocabulary,
                ids_bl: &part.of(&ids),
                mask_bl: &part.of(&mask),
                denominator: Some(&denominator),
            }),
            reconstruction: Some(ReconstructionInputs {
                predicted_bpx: &part.of(predicted),
                pixels_bpx: &part.of(&pixels),
                hidden_bk: &part.of(&hidden),
            }),
        };
        sycoca_loss(&inputs, &CONFIG).total
    });
}

#[test]
fn wrong_values_are_named() {
    for (config, field) in [
        (SycocaConfig { lambda_reconstruction: f64::NAN, ..CONFIG }, "lambda_reconstruction"),
        (SycocaConfig { caption_mask_ratio: 1.0, ..CONFIG }, "caption_mask_ratio"),
        (SycocaConfig { full_image_probability: 1.5, ..CONFIG }, "full_image_probability"),
    ] {
        assert!(config.validate().unwrap_err().contains(field));
    }
}
