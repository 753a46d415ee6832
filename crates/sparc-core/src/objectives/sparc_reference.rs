//! SPARC's local loss in scalar f64 loops, written from equations 2–6 and listing 1; it shares no code
//! with the tensor version.

use super::{AlignmentWeights, Reduction, SparcConfig, Threshold};
use crate::objectives::clip::reference::{cosine, log_sum_exp};

/// Alignment weights of one token over the patches.
pub fn weights(token: &[f64], patches: &[Vec<f64>], config: &SparcConfig) -> Vec<f64> {
    let n = patches.len() as f64;
    let similarity: Vec<f64> = patches.iter().map(|patch| patch.iter().zip(token).map(|(a, b)| a * b).sum()).collect();
    let max = similarity.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let min = similarity.iter().copied().fold(f64::INFINITY, f64::min);
    let sigma = match config.threshold {
        Threshold::InversePatches => 1.0 / n,
        Threshold::Fixed(sigma) => sigma,
    };
    let scores: Vec<f64> = match config.weights {
        AlignmentWeights::None => return vec![1.0 / n; patches.len()],
        AlignmentWeights::Softmax => {
            let total = log_sum_exp(&similarity);
            similarity.iter().map(|s| (s - total).exp()).collect()
        }
        AlignmentWeights::Minmax => {
            if max - min <= config.eps * max.abs().max(min.abs()) {
                return vec![1.0 / n; patches.len()];
            }
            similarity.iter().map(|s| (s - min) / (max - min)).collect()
        }
    };
    let kept: Vec<f64> = scores.into_iter().map(|s| if s < sigma { 0.0 } else { s }).collect();
    let sum: f64 = kept.iter().sum();
    if sum == 0.0 { vec![1.0 / n; patches.len()] } else { kept.iter().map(|s| s / sum).collect() }
}

/// (grouped→token, token→grouped) parts of L_f, before the ½.
pub fn local_loss(
    patches: &[Vec<Vec<f64>>],
    tokens: &[Vec<Vec<f64>>],
    lengths: &[usize],
    scale: f64,
    config: &SparcConfig,
) -> (f64, f64) {
    let (mut sums, mut count) = ((0.0, 0.0), 0.0);
    for ((patches, tokens), &length) in patches.iter().zip(tokens).zip(lengths) {
        let tokens = &tokens[..length];
        let grouped: Vec<Vec<f64>> = tokens
            .iter()
            .map(|token| {
                let weights = weights(token, patches, config);
                (0..token.len()).map(|d| weights.iter().zip(patches).map(|(w, v)| w * v[d]).sum()).collect()
            })
            .collect();
        let (mut forward, mut backward) = (0.0, 0.0);
        for l in 0..length {
            let row: Vec<f64> = (0..length).map(|k| scale * cosine(&grouped[l], &tokens[k])).collect();
            let column: Vec<f64> = (0..length).map(|k| scale * cosine(&grouped[k], &tokens[l])).collect();
            forward += log_sum_exp(&row) - row[l];
            backward += log_sum_exp(&column) - column[l];
        }
        let weight = match config.reduction {
            Reduction::Token => {
                count += length as f64;
                1.0
            }
            Reduction::Caption if length == 0 => continue,
            Reduction::Caption => {
                count += 1.0;
                1.0 / length as f64
            }
        };
        sums.0 += weight * forward;
        sums.1 += weight * backward;
    }
    let count = if count == 0.0 { 1.0 } else { count };
    (sums.0 / count, sums.1 / count)
}
