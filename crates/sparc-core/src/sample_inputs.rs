//! Inputs that the tests of several objectives share, with values known from an independent f64 program.

use sparc_testing::random;
use tch::{Kind, Tensor};

use crate::tensor_math::masked_mean;

/// Three images of 5 patches and three captions of 4, 3 and 1 tokens, width 3, in closed form:
/// v = sin(0.7 k + 0.3), t = cos(0.5 k − 0.2), k the position in memory.
pub struct Known {
    pub patches_bpd: Tensor,
    pub tokens_bld: Tensor,
    pub mask_bl: Tensor,
    pub image_bd: Tensor,
    pub text_bd: Tensor,
}

impl Known {
    pub fn new() -> Known {
        let index = |count: i64| Tensor::arange(count, tch::kind::DOUBLE_CPU);
        let patches_bpd = (index(45) * 0.7 + 0.3).sin().view([3, 5, 3]);
        let tokens_bld = (index(36) * 0.5 - 0.2).cos().view([3, 4, 3]);
        let mask_bl = prefix_mask(&[4, 3, 1], 4);
        let image_bd = patches_bpd.mean_dim([1i64].as_slice(), false, None::<Kind>);
        let text_bd = masked_mean(&tokens_bld, &mask_bl);
        Known { patches_bpd, tokens_bld, mask_bl, image_bd, text_bd }
    }
}

/// `[B, length]`, true for the first `lengths[b]` positions.
pub fn prefix_mask(lengths: &[i64], length: i64) -> Tensor {
    let positions = Tensor::arange(length, (Kind::Int64, tch::Device::Cpu)).unsqueeze(0);
    positions.lt_tensor(&Tensor::from_slice(lengths).unsqueeze(1))
}

/// Random captions of uneven lengths (0 among them from `n` = 3 on) with their mask.
pub fn captions(n: i64, length: i64, width: i64, seed: i64) -> (Tensor, Tensor, Vec<usize>) {
    let lengths: Vec<i64> = (0..n).map(|i| if i == 2 { 0 } else { 1 + (seed + 5 * i) % length }).collect();
    let mask_bl = prefix_mask(&lengths, length);
    let lengths = lengths.into_iter().map(|length| length as usize).collect();
    (random(&[n, length, width], seed + 77), mask_bl, lengths)
}
