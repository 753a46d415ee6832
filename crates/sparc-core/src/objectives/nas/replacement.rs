//! Which code takes the place of another.

use tch::{Kind, Tensor};

use super::Replacement;
use crate::contrast::chunks;
use crate::tensor_math::at_least_f32;

// Dimension letters: b batch, a some of it, p patches, r patches to be replaced, k codes, c their width, n neighbours.

/// What replacements are drawn from.
#[derive(Debug, Clone, Copy)]
pub struct ReplacementInputs<'a> {
    /// The dictionary, `[K, C]`.
    pub codes_kc: &'a Tensor,
    /// Codes that may be put in: those that are in use, `[K]`, `bool`. A dead code would give the edit away.
    pub usable_k: &'a Tensor,
    /// h, the code of each patch, `[B, P]`, `i64`.
    pub index_bp: &'a Tensor,
    /// R, as [`super::highest`] gives it, `[B, R]`.
    pub chosen_br: &'a Tensor,
    /// Which image each row is of, `[B]`, `i64`.
    pub image_ids_b: &'a Tensor,
    /// Numbers in [0, 1) to draw with, `[B, R]`, f64.
    pub uniform_br: &'a Tensor,
}

/// h̃, the new code of each chosen patch, `[B, R]`, `i64`. Patches of one image that share a code get one new code.
///
/// A new code is another one in use, it is not the old one's double, and the image does not have it. Where the rule
/// leaves none, the nearest such code is taken; where there is none, the nearest other one in use, then the nearest
/// other one. Where all codes are doubles of the old one, the patch keeps its code, and [`super::Edit::found_b`] tells of it.
///
/// # Panics
///
/// If shapes disagree.
pub fn replacements(inputs: &ReplacementInputs, rule: Replacement) -> Tensor {
    let (b, r) = inputs.chosen_br.size2().expect("chosen patches are [B, R]");
    let k = inputs.codes_kc.size()[0];
    assert!(
        inputs.usable_k.size() == [k]
            && inputs.index_bp.size()[0] == b
            && inputs.image_ids_b.size() == [b]
            && inputs.uniform_br.size() == [b, r],
        "{k} codes, {b} images of {r} chosen patches: usable {:?}, codes {:?}, ids {:?}, numbers {:?}",
        inputs.usable_k.size(),
        inputs.index_bp.size(),
        inputs.image_ids_b.size(),
        inputs.uniform_br.size()
    );
    tch::no_grad(|| {
        let codes_kc = at_least_f32(inputs.codes_kc);
        let old_br = inputs.index_bp.gather(1, inputs.chosen_br, false);
        let none_bk = Tensor::zeros([b, k], (Kind::Bool, codes_kc.device()));
        let absent_bk = none_bk.scatter_value(1, inputs.index_bp, 1).logical_not();
        let mut wanted_bk = absent_bk.shallow_clone();
        if rule == Replacement::OtherImage {
            let top_bk = none_bk.scatter_value(1, &old_br.narrow(1, 0, 1), 1).to_kind(Kind::Float);
            let other_bb = inputs.image_ids_b.unsqueeze(1).ne_tensor(&inputs.image_ids_b.unsqueeze(0));
            wanted_bk = absent_bk.logical_and(&other_bb.to_kind(Kind::Float).matmul(&top_bk).gt(0.0));
        }
        // A code's number is that of its first patch.
        let first_br = old_br.unsqueeze(2).eq_tensor(&old_br.unsqueeze(1)).to_kind(Kind::Int).argmax(2, false);
        let uniform_br = inputs.uniform_br.gather(1, &first_br, false);
        let squares_k = (&codes_kc * &codes_kc).sum_dim_intlist([1i64].as_slice(), false, None::<Kind>);
        let new: Vec<Tensor> = chunks(b, DISTANCES_AT_ONCE / (r * k).max(1))
            .map(|(start, size)| {
                let candidates = Candidates {
                    codes_kc: &codes_kc,
                    squares_k: &squares_k,
                    usable_k: inputs.usable_k,
                    old_ar: &old_br.narrow(0, start, size),
                    absent_ak: &absent_bk.narrow(0, start, size),
                    wanted_ak: &wanted_bk.narrow(0, start, size),
                    uniform_ar: &uniform_br.narrow(0, start, size),
                };
                candidates.draw(rule)
            })
            .collect();
        Tensor::cat(&new, 0)
    })
}

/// Distances held at a time: 16 MiB in f32, and a few masks of the size.
const DISTANCES_AT_ONCE: i64 = 1 << 22;

/// Codes whose squared distance is no more than this share of their squared lengths are doubles of each other.
const DOUBLE: f64 = 1e-6;

/// The choice for some images, a of them.
struct Candidates<'a> {
    codes_kc: &'a Tensor,
    squares_k: &'a Tensor,
    usable_k: &'a Tensor,
    old_ar: &'a Tensor,
    /// Codes that the image does not have.
    absent_ak: &'a Tensor,
    /// Those of them that the rule draws from.
    wanted_ak: &'a Tensor,
    uniform_ar: &'a Tensor,
}

impl Candidates<'_> {
    fn draw(&self, rule: Replacement) -> Tensor {
        let (a, r) = self.old_ar.size2().expect("old codes are [A, R]");
        let old_n = self.old_ar.reshape([-1]);
        let lengths_ark = self.squares_k.index_select(0, &old_n).view([a, r, 1]) + self.squares_k;
        let products_ark = self.codes_kc.index_select(0, &old_n).matmul(&self.codes_kc.tr()).view([a, r, -1]);
        let distance_ark = &lengths_ark - products_ark * 2.0;
        let other_ark = distance_ark.gt_tensor(&(lengths_ark * DOUBLE)).scatter_value(2, &self.old_ar.unsqueeze(2), 0);
        let usable_ark = other_ark.logical_and(self.usable_k);
        let wanted_ark = usable_ark.logical_and(&self.wanted_ak.unsqueeze(1));
        let any = |mask_ark: &Tensor| mask_ark.any_dim(2, false);
        let nearest =
            |mask_ark: &Tensor| distance_ark.masked_fill(&mask_ark.logical_not(), f64::INFINITY).argmin(2, false);
        let drawn_ar = match rule {
            Replacement::NearestOther { neighbours } => {
                let k = self.codes_kc.size()[0];
                let reachable_ark = distance_ark.masked_fill(&wanted_ark.logical_not(), f64::INFINITY);
                let (_, nearest_arn) = reachable_ark.topk(neighbours.min(k), 2, false, true);
                let count_ar = self.count(&wanted_ark).clamp_max(neighbours as f64);
                nearest_arn.gather(2, &self.place(&count_ar).unsqueeze(2), false).squeeze_dim(2)
            }
            Replacement::Random | Replacement::OtherImage => {
                let place_ar1 = self.place(&self.count(&wanted_ark)).unsqueeze(2);
                let upto_ark = wanted_ark.cumsum(2, Kind::Int64);
                wanted_ark.logical_and(&upto_ark.eq_tensor(&(place_ar1 + 1))).to_kind(Kind::Int).argmax(2, false)
            }
            Replacement::Farthest => {
                distance_ark.masked_fill(&wanted_ark.logical_not(), f64::NEG_INFINITY).argmax(2, false)
            }
        };
        let or_else = |mask_ark: &Tensor, otherwise: Tensor| nearest(mask_ark).where_self(&any(mask_ark), &otherwise);
        let absent_ark = usable_ark.logical_and(&self.absent_ak.unsqueeze(1));
        let present_ar = or_else(&usable_ark, or_else(&other_ark, self.old_ar.shallow_clone()));
        let fallback_ar = or_else(&absent_ark, present_ar);
        drawn_ar.where_self(&any(&wanted_ark), &fallback_ar)
    }

    fn count(&self, mask_ark: &Tensor) -> Tensor {
        mask_ark.sum_dim_intlist([2i64].as_slice(), false, Kind::Double)
    }

    /// Evenly drawn places in 0..count.
    fn place(&self, count_ar: &Tensor) -> Tensor {
        (self.uniform_ar * count_ar).floor().minimum(&(count_ar - 1.0)).clamp_min(0.0).to_kind(Kind::Int64)
    }
}
