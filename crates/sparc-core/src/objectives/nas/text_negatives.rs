//! Negatives made from the caption (NTA).

use tch::{Kind, Tensor};

use crate::objectives::albef::{HardNegatives, MaskingVocabulary, draw};
use crate::tensor_math::at_least_f32;

// Dimension letters: b batch, l tokens, v words of the vocabulary, s skipped ones.

/// Captions of which two different tokens have changed places.
#[derive(Debug)]
pub struct EditedText {
    /// Token ids, `[B, L]`, `i64`.
    pub ids_bl: Tensor,
    /// Whether the caption has been changed, `[B]`, `bool`: if not, it is no negative.
    pub found_b: Tensor,
}

/// Swaps two different tokens of each caption, drawn evenly: "a red square and a blue circle" may become "a blue square
/// and a red circle". It knows no words of several tokens and no parts of speech.
///
/// # Shapes
///
/// `ids_bl [B, L]`, `words_bl [B, L]` `bool`: what may be swapped; `uniform_2b [2, B]` in [0, 1), f64.
///
/// # Panics
///
/// If shapes disagree.
pub fn swap_tokens(ids_bl: &Tensor, words_bl: &Tensor, uniform_2b: &Tensor) -> EditedText {
    let (b, l) = ids_bl.size2().expect("ids are [B, L]");
    assert!(
        words_bl.size() == [b, l] && uniform_2b.size() == [2, b],
        "ids are {:?}, words {:?}, numbers {:?}",
        [b, l],
        words_bl.size(),
        uniform_2b.size()
    );
    let both_bll = words_bl.unsqueeze(2).logical_and(&words_bl.unsqueeze(1));
    let differ_bll = both_bll.logical_and(&ids_bl.unsqueeze(2).ne_tensor(&ids_bl.unsqueeze(1)));
    let first = draw(&differ_bll.any_dim(2, false), &uniform_2b.get(0));
    let first_b1 = first.columns_b.unsqueeze(1);
    let partners_bl = differ_bll.gather(1, &first_b1.unsqueeze(2).expand([b, 1, l], false), false).squeeze_dim(1);
    // A caption without two different words has no partner: column 0 for both, and stays as it is.
    let second_b1 = draw(&partners_bl, &uniform_2b.get(1)).columns_b.unsqueeze(1);
    let (one_b1, other_b1) = (ids_bl.gather(1, &first_b1, false), ids_bl.gather(1, &second_b1, false));
    EditedText {
        ids_bl: ids_bl.scatter(1, &first_b1, &other_b1).scatter(1, &second_b1, &one_b1),
        found_b: first.found_b,
    }
}

/// One word of each caption, drawn evenly: what is to be masked, and replaced by one of [`substitutes`].
///
/// # Shapes
///
/// `words_bl [B, L]` `bool`, `uniform_b [B]` in [0, 1), f64.
pub fn choose_words(words_bl: &Tensor, uniform_b: &Tensor) -> HardNegatives {
    draw(words_bl, uniform_b)
}

/// Draws a token that may stand for a masked one but is not it: by the momentum encoders' distribution, without the
/// original, the `skipped` likeliest (they may say the same), the mask, and what lies below the first ordinary id.
///
/// # Shapes
///
/// `logits_bv [B, V]` at the masked positions, `original_b [B]` `i64`, `uniform_b [B]` in [0, 1), f64.
///
/// # Panics
///
/// If shapes disagree.
pub fn substitutes(
    logits_bv: &Tensor,
    original_b: &Tensor,
    vocabulary: MaskingVocabulary,
    skipped: i64,
    uniform_b: &Tensor,
) -> HardNegatives {
    let v = logits_bv.size()[1];
    tch::no_grad(|| {
        let shares_bv = at_least_f32(logits_bv).nan_to_num(0.0, None, None).softmax(-1, None::<Kind>);
        let (_, likeliest_bs) = shares_bv.topk(skipped.clamp(0, v), 1, true, true);
        let weights_bv = shares_bv.scatter_value(1, &likeliest_bs, 0.0).scatter_value(1, &original_b.unsqueeze(1), 0.0);
        let ids_v = Tensor::arange(v, (Kind::Int64, weights_bv.device()));
        let special_v = ids_v.lt(vocabulary.first_id).logical_or(&ids_v.eq(vocabulary.mask_id));
        draw(&weights_bv.masked_fill(&special_v, 0.0), uniform_b)
    })
}
