//! One row an image: the most probable token, or a drawn one.

use sparc_core::{TextEnds, seed};
use tch::{Kind, Tensor};

use super::{GeneratedText, Lengths, NextToken, log_probabilities};

// Dimension letters: r rows, v vocabulary.

/// How a token is chosen.
pub(super) enum Choice<'a> {
    MostProbable,
    Drawn { temperature: f64, top_k: Option<usize>, top_p: Option<f64>, seeds: &'a [u64] },
}

pub(super) fn generate(
    decoder: &mut dyn NextToken,
    prompts: &[Vec<i64>],
    length: Lengths,
    ends: &TextEnds,
    choice: &Choice,
) -> Vec<GeneratedText> {
    let empty = GeneratedText { ids: Vec::new(), log_probability: 0.0, ended: false };
    let mut texts = vec![empty; prompts.len()];
    // Images that are not finished, in the order of the decoder's rows.
    let mut open: Vec<usize> = (0..prompts.len()).collect();
    let mut tokens: Vec<i64> = prompts.iter().map(|prompt| prompt[0]).collect();
    for place in 1.. {
        let logits_rv = decoder.next(&Tensor::from_slice(&tokens));
        // Two rows of one batch may differ in whether they may end: their prompts may differ in length.
        let (log_rv, free_rv) = log_probabilities(&logits_rv, ends, true);
        let (_, early_rv) = log_probabilities(&logits_rv, ends, false);
        let early: Vec<bool> = open.iter().map(|&image| texts[image].ids.len() < length.min).collect();
        let early_r1 = Tensor::from_slice(&early).to_device(log_rv.device()).unsqueeze(1);
        let chosen_r = choice.choose(&early_rv.where_self(&early_r1, &free_rv), &open, place);
        let log_r = log_rv.gather(1, &chosen_r.unsqueeze(1), false).squeeze_dim(1);
        let (chosen, log) = (to_ids(&chosen_r), to_numbers(&log_r));
        let mut kept = Vec::new();
        tokens.clear();
        for (row, &image) in open.iter().enumerate() {
            if let Some(&forced) = prompts[image].get(place) {
                kept.push(row);
                tokens.push(forced);
                continue;
            }
            let text = &mut texts[image];
            text.log_probability += log[row];
            if chosen[row] == ends.end {
                text.ended = true;
                continue;
            }
            text.ids.push(chosen[row]);
            if text.ids.len() < length.max {
                kept.push(row);
                tokens.push(chosen[row]);
            }
        }
        if kept.is_empty() {
            break;
        }
        if kept.len() < open.len() {
            decoder.keep_images(&kept.iter().map(|&row| row as i64).collect::<Vec<_>>());
            open = kept.into_iter().map(|row| open[row]).collect();
        }
    }
    texts
}

impl Choice<'_> {
    /// One token a row, `[R]`; `images` are those of the rows.
    fn choose(&self, log_rv: &Tensor, images: &[usize], place: usize) -> Tensor {
        let Choice::Drawn { temperature, top_k, top_p, seeds } = self else { return log_rv.argmax(1, false) };
        let (sorted_rv, order_rv) = (log_rv / *temperature).softmax(1, None::<Kind>).sort(1, true);
        let before_rv = sorted_rv.cumsum(1, None::<Kind>) - &sorted_rv;
        let mut kept_rv = sorted_rv.ones_like().to_kind(Kind::Bool);
        if let Some(top_p) = top_p {
            kept_rv = kept_rv.logical_and(&before_rv.lt(*top_p));
        }
        if let Some(top_k) = top_k {
            let ranks_v = Tensor::arange(sorted_rv.size()[1], (Kind::Int64, sorted_rv.device()));
            kept_rv = kept_rv.logical_and(&ranks_v.lt(*top_k as i64));
        }
        let kept_rv = sorted_rv.masked_fill(&kept_rv.logical_not(), 0.0);
        let total_r1 = kept_rv.sum_dim_intlist([1i64].as_slice(), true, None::<Kind>);
        let draws: Vec<f64> = images.iter().map(|&image| uniform(seeds[image], place)).collect();
        let draws_r1 = Tensor::from_slice(&draws).to_kind(sorted_rv.kind()).to_device(sorted_rv.device()).unsqueeze(1);
        // The first token at which the sum passes the draw; the last that has any probability, should rounding let
        // the draw pass them all.
        let passed_rv = kept_rv.cumsum(1, None::<Kind>).le_tensor(&(draws_r1 * total_r1));
        let last_r1 = kept_rv.gt(0.0).sum_dim_intlist([1i64].as_slice(), true, Kind::Int64) - 1;
        let rank_r1 = passed_rv.sum_dim_intlist([1i64].as_slice(), true, Kind::Int64).minimum(&last_r1);
        order_rv.gather(1, &rank_r1, false).squeeze_dim(1)
    }
}

/// A number in [0, 1) that depends on the seed and the token's place alone.
fn uniform(seed: u64, place: usize) -> f64 {
    let bits = seed::derive(seed, &[b"token", &(place as u64).to_le_bytes()]);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

pub(super) fn to_ids(x: &Tensor) -> Vec<i64> {
    Vec::try_from(x.to_kind(Kind::Int64).contiguous().view([-1])).expect("a tensor of integers")
}

pub(super) fn to_numbers(x: &Tensor) -> Vec<f64> {
    Vec::try_from(x.to_kind(Kind::Double).contiguous().view([-1])).expect("a tensor of numbers")
}
