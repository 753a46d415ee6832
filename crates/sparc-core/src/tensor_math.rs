//! The few numerical idioms that several objectives and networks need, written once and safely.

use tch::{Kind, Tensor};

/// Smallest norm that a vector is divided by; below it the direction is meaningless and the
/// result (and its gradient) stays finite. The value is PyTorch's `F.normalize` default.
pub const NORM_EPS: f64 = 1e-12;

/// L2-normalises the last dimension; zero vectors stay zero and get a zero gradient.
pub fn l2_normalize(x: &Tensor) -> Tensor {
    // The norm's own gradient is 0/0 at a zero vector, so such vectors are replaced before the
    // division: masking after it would still send NaN back.
    let squared = (x * x).sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>);
    let is_zero = squared.le(NORM_EPS * NORM_EPS);
    let norm = squared.masked_fill(&is_zero, 1.0).sqrt();
    x.masked_fill(&is_zero, 0.0) / norm
}

/// Mean over tokens where `mask_bl` is true: `[B, L, D]` → `[B, D]`. A text without tokens gives
/// a zero vector.
pub fn masked_mean(tokens_bld: &Tensor, mask_bl: &Tensor) -> Tensor {
    let mask_bl1 = mask_bl.unsqueeze(-1);
    let count_b1 = mask_bl1.sum_dim_intlist([1i64].as_slice(), false, tokens_bld.kind()).clamp_min(1.0);
    // `where` and not a product: padding may hold NaN, and NaN * 0 is NaN.
    tokens_bld.where_self(&mask_bl1, &tokens_bld.zeros_like()).sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)
        / count_b1
}

/// The inputs in at least f32: bf16 and f16 are widened, f32 and f64 stay as they are.
pub fn at_least_f32(x: &Tensor) -> Tensor {
    match x.kind() {
        Kind::Double | Kind::Float => x.shallow_clone(),
        _ => x.to_kind(Kind::Float),
    }
}

/// The logit of something that takes no part in a softmax: its share is exactly 0 in f32 and f64. Finite, because
/// a row of −∞ would give NaN.
pub const PADDING_LOGIT: f64 = -1e9;

/// Panics unless patches are `[B, P, D]`, tokens `[B, L, D]` and the mask `bool` `[B, L]`; the message has the shapes.
#[track_caller]
pub fn check_tokens(patches_bpd: &Tensor, tokens_bld: &Tensor, mask_bl: &Tensor) {
    let (patches, tokens, mask) = (patches_bpd.size(), tokens_bld.size(), mask_bl.size());
    assert!(
        patches.len() == 3 && tokens.len() == 3 && patches[0] == tokens[0] && patches[2] == tokens[2],
        "patches must be [B, P, D] and tokens [B, L, D], got {patches:?} and {tokens:?}"
    );
    assert!(
        mask == tokens[..2] && mask_bl.kind() == Kind::Bool,
        "mask must be bool {:?}, got {:?} {mask:?}",
        &tokens[..2],
        mask_bl.kind()
    );
}

/// Tokens `[B, L, D]` with zeros where `mask_bl` is false. Padding may hold anything, NaN too; it must
/// not reach a sum or a maximum.
pub fn without_padding(tokens_bld: &Tensor, mask_bl: &Tensor) -> Tensor {
    tokens_bld.where_self(&mask_bl.unsqueeze(-1), &tokens_bld.zeros_like())
}

/// The rows of `x_bpd [B, P, D]` at `indices_bk [B, K]`: `[B, K, D]`.
pub fn gather_rows(x_bpd: &Tensor, indices_bk: &Tensor) -> Tensor {
    x_bpd.gather(1, &indices_bk.unsqueeze(-1).expand([-1, -1, x_bpd.size()[2]], false), false)
}
