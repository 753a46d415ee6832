//! NAS: negative augmented samples (AAAI 2025, arXiv:2412.10029), on [`super::albef`].
//!
//! A visual dictionary (see [`crate::dictionary`]) stands between patches and words; negatives differ from the positive
//! in a few visual tokens only (NVA). With v_i the patches, h_i their codes, q_i = d_{h_i} and global vectors t, c:
//!
//! `S_i = cos(t, v_i) + cos(c, v_i)`; `R = the ⌈ρP⌉ highest`; `q̃_i = d_{h̃_i} for i ∈ R, else q_i`, where one other
//! code h̃ is drawn for each code h in R; `(Ṽ, T)` is a pair that does not match.
//!
//! The paper's code is not public, and how it combines the scores, chooses codes and weighs the terms is not known:
//! every choice is a switch, see `docs/objectives/nas.md`.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::albef::{AlbefConfig, Contrast, Matching, MatchingInputs, albef_loss, matching};
use crate::dictionary::straight_through;
use crate::tensor_math::{at_least_f32, l2_normalize};
use crate::{Gathered, LossTerm, LossTerms};

mod replacement;
mod text_negatives;

pub use replacement::{ReplacementInputs, replacements};
pub use text_negatives::{EditedText, choose_words, substitutes, swap_tokens};

// Dimension letters: b batch, p patches, r patches to be replaced, k codes, c width of the dictionary, d width of the
// shared space.

/// Configuration beside ALBEF's. Every field is required: the values are part of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NasConfig {
    /// What the fusion encoder sees of a patch, of positives and negatives alike.
    pub tokens: TokenMode,
    /// Whether V_cls is among what it sees; an edit never reaches it.
    pub class_token: ClassToken,
    /// In which space patches are compared with the global vectors.
    pub score_space: ScoreSpace,
    /// What makes a patch one to be replaced.
    pub score: PatchScore,
    /// ρ, the share of patches that is replaced.
    pub replaced_share: f64,
    /// By what.
    pub replacement: Replacement,
    /// How negatives made by an edit enter the matching term.
    pub edited_term: EditedTerm,
    /// Whether each text's contrast has its edited image as one more wrong key.
    pub contrast_edited: bool,
    /// Negatives made from the caption (NTA).
    pub text_negatives: TextNegatives,
    /// When edits begin: early codes are noise.
    pub start: Start,
}

/// What the fusion encoder sees of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenMode {
    /// Its code's vector.
    Quantised,
    /// A learned mixture of that and of the patch itself, as SOHO's.
    Gated,
}

/// Whether the image's class token is among what the fusion encoder sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassToken {
    /// It is, unedited.
    Keep,
    /// It is not, for positives and negatives alike.
    Drop,
}

/// In which space patches are compared with the global vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreSpace {
    /// The contrast's, the only one that is trained to be comparable.
    Projected,
    /// That of the towers, which must have one width.
    Raw,
}

/// What makes a patch one to be replaced, by S_t = cos(text, patch) and S_v = cos(image, patch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchScore {
    /// S_t + S_v.
    Sum,
    /// S_t; S_v for a caption to which all patches are equal.
    Text,
    /// S_v.
    Image,
    /// softmax(S_t) · softmax(S_v), over the patches.
    ProductOfSoftmaxes,
}

/// By which code another is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Replacement {
    /// By one of the nearest that the image does not have.
    NearestOther {
        /// How many of them are drawn from.
        neighbours: i64,
    },
    /// By any that the image does not have.
    Random,
    /// By the farthest that the image does not have.
    Farthest,
    /// By one that is the highest-scored patch's in another image of the batch.
    OtherImage,
}

/// How negatives made by an edit enter the matching term.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EditedTerm {
    /// One mean over all pairs.
    InMean,
    /// A term of their own.
    Separate {
        /// Its weight beside λ_matching.
        weight: f64,
    },
}

/// Negatives made from the caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TextNegatives {
    /// None.
    None,
    /// Two different tokens change places, see [`swap_tokens`].
    Swap,
    /// A token gives way to one that the momentum encoders find likely there, see [`substitutes`].
    Substitute {
        /// The likeliest tokens that are left out, as they may say the same.
        skipped: i64,
    },
}

/// When edits begin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Start {
    /// After so many steps.
    Step {
        /// The first step with edits.
        step: u64,
    },
    /// When the dictionary's perplexity has reached this share of the number of codes.
    Perplexity {
        /// The share.
        share: f64,
    },
}

impl NasConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.replaced_share > 0.0 && self.replaced_share <= 1.0) {
            return Err(format!("replaced_share must lie above 0 and not above 1, got {}", self.replaced_share));
        }
        match self.replacement {
            Replacement::NearestOther { neighbours } if neighbours < 1 => {
                return Err(format!("replacement's neighbours must be at least 1, got {neighbours}"));
            }
            _ => {}
        }
        match self.edited_term {
            EditedTerm::Separate { weight } if !(weight.is_finite() && weight >= 0.0) => {
                return Err(format!("edited_term's weight must be a number of at least 0, got {weight}"));
            }
            _ => {}
        }
        match self.text_negatives {
            TextNegatives::Substitute { skipped } if skipped < 0 => {
                return Err(format!("text_negatives' skipped must be at least 0, got {skipped}"));
            }
            _ => {}
        }
        match self.start {
            Start::Perplexity { share } if !(0.0..=1.0).contains(&share) => {
                Err(format!("start's share must lie in [0, 1], got {share}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a step, the first of which is 0, makes edits. `peak_perplexity` is the highest that the running counts have
    /// had: edits that have begun go on.
    pub fn has_started(&self, step: u64, peak_perplexity: f64, n_codes: i64) -> bool {
        match self.start {
            Start::Step { step: first } => step >= first,
            Start::Perplexity { share } => peak_perplexity >= share * n_codes as f64,
        }
    }
}

/// How much each patch has to do with the pair, `[B, P]`: in f32 at least, without gradient.
///
/// # Shapes
///
/// `patches_bpd [B, P, D]`, `image_bd` and `text_bd` `[B, D]`, not normalised; of which space, the caller decides by
/// [`ScoreSpace`].
///
/// # Panics
///
/// If shapes disagree.
pub fn patch_scores(patches_bpd: &Tensor, image_bd: &Tensor, text_bd: &Tensor, score: PatchScore) -> Tensor {
    let size = patches_bpd.size();
    assert!(
        size.len() == 3 && image_bd.size() == [size[0], size[2]] && text_bd.size() == image_bd.size(),
        "patches must be [B, P, D], images and texts [B, D], got {size:?}, {:?} and {:?}",
        image_bd.size(),
        text_bd.size()
    );
    tch::no_grad(|| {
        let unit = |x: &Tensor| l2_normalize(&at_least_f32(x));
        let patches_bpd = unit(patches_bpd);
        let cosine = |global_bd: &Tensor| patches_bpd.matmul(&unit(global_bd).unsqueeze(-1)).squeeze_dim(-1);
        let (text_bp, image_bp) = (cosine(text_bd), cosine(image_bd));
        match score {
            PatchScore::Sum => text_bp + image_bp,
            PatchScore::Text => {
                let spread_b1 = text_bp.amax([1i64].as_slice(), true) - text_bp.amin([1i64].as_slice(), true);
                image_bp.where_self(&spread_b1.le(FLAT), &text_bp)
            }
            PatchScore::Image => image_bp,
            PatchScore::ProductOfSoftmaxes => text_bp.softmax(-1, None::<Kind>) * image_bp.softmax(-1, None::<Kind>),
        }
    })
}

/// Cosines that differ by no more than this tell nothing apart in f32.
const FLAT: f64 = 1e-6;

/// The ⌈share · P⌉ patches of the highest scores, best first, `[B, R]`, `i64`; of equal ones the first.
pub fn highest(scores_bp: &Tensor, share: f64) -> Tensor {
    let p = scores_bp.size()[1];
    let r = ((share * p as f64).ceil() as i64).clamp(1, p);
    scores_bp.sort_stable(true, 1, true).1.narrow(1, 0, r)
}

/// Patches as the fusion encoder gets them: what the dictionary makes of them, and themselves.
#[derive(Debug)]
pub struct VisualTokens {
    /// Codes' vectors, exactly, `[B, P, C]`; the gradient goes to the patches.
    pub quantised_bpc: Tensor,
    /// The patches, `[B, P, C]`: for [`TokenMode::Gated`].
    pub continuous_bpc: Tensor,
}

impl VisualTokens {
    /// Of patches `[B, P, C]` with codes `[B, P]` of a dictionary `[K, C]`.
    pub fn of(patches_bpc: &Tensor, index_bp: &Tensor, codes_kc: &Tensor) -> VisualTokens {
        let own_bpc = vectors(index_bp, codes_kc).to_kind(patches_bpc.kind());
        VisualTokens {
            quantised_bpc: straight_through(patches_bpc, &own_bpc),
            continuous_bpc: patches_bpc.shallow_clone(),
        }
    }
}

/// A positive and the negative made from it, in one representation.
#[derive(Debug)]
pub struct Edit {
    /// As the positive is seen.
    pub original: VisualTokens,
    /// As the negative is seen.
    pub edited: VisualTokens,
    /// Codes after the edit, `[B, P]`, `i64`.
    pub index_bp: Tensor,
    /// The patches that have another code than before, `[B, P]`, `bool`.
    pub replaced_bp: Tensor,
    /// Whether the image has such a patch, `[B]`, `bool`: if not, it is no negative.
    pub found_b: Tensor,
}

/// Puts the new codes `[B, R]` in at the chosen patches `[B, R]`.
///
/// Nothing but the replaced rows differs between positive and negative, and nothing but the meaning does within them:
/// both are quantised by the same function, and the new `continuous` is as far from its code as the old one was, or
/// the gate could be asked which tokens are exact. Replaced patches carry no gradient.
///
/// # Panics
///
/// If shapes disagree.
pub fn edit(patches_bpc: &Tensor, index_bp: &Tensor, codes_kc: &Tensor, chosen_br: &Tensor, new_br: &Tensor) -> Edit {
    let (patches, codes) = (patches_bpc.size(), codes_kc.size());
    assert!(
        patches.len() == 3
            && codes.len() == 2
            && patches[2] == codes[1]
            && index_bp.size() == patches[..2]
            && chosen_br.size() == new_br.size(),
        "patches are {patches:?} with codes {:?} of {codes:?}; {:?} new codes at {:?}",
        index_bp.size(),
        new_br.size(),
        chosen_br.size()
    );
    let original = VisualTokens::of(patches_bpc, index_bp, codes_kc);
    let new_bp = index_bp.scatter(1, chosen_br, new_br);
    let replaced_bp = new_bp.ne_tensor(index_bp);
    let rows = replaced_bp.unsqueeze(-1);
    let edited = tch::no_grad(|| {
        let vectors = |index: &Tensor| vectors(index, codes_kc).to_kind(patches_bpc.kind());
        let (old_bpc, new_bpc) = (vectors(index_bp), vectors(&new_bp));
        VisualTokens { continuous_bpc: (patches_bpc - old_bpc) + &new_bpc, quantised_bpc: new_bpc }
    });
    Edit {
        edited: VisualTokens {
            quantised_bpc: edited.quantised_bpc.where_self(&rows, &original.quantised_bpc),
            continuous_bpc: edited.continuous_bpc.where_self(&rows, &original.continuous_bpc),
        },
        original,
        found_b: replaced_bp.any_dim(1, false),
        index_bp: new_bp,
        replaced_bp,
    }
}

/// The codes' vectors, `[B, P, C]`, without gradient.
fn vectors(index_bp: &Tensor, codes_kc: &Tensor) -> Tensor {
    let size = index_bp.size();
    codes_kc.detach().index_select(0, &index_bp.reshape([-1])).view([size[0], size[1], -1])
}

/// The weighted sum of ALBEF's terms, with the pairs made by edits: in the mean of all pairs, or as a term `edited` of
/// their own. Without edits (before they begin) it is [`albef_loss`].
///
/// Diagnostic beside ALBEF's: `edited_recall`, the share of edited pairs that are seen through.
///
/// # Panics
///
/// If shapes disagree.
pub fn nas_loss(
    contrast: Contrast,
    pairs: &MatchingInputs,
    edits: Option<&MatchingInputs>,
    language: Tensor,
    (albef, nas): (&AlbefConfig, &NasConfig),
) -> LossTerms {
    let Some(edits) = edits else {
        return albef_loss(contrast, matching(pairs), language, albef);
    };
    let Matching { value: of_edits, accuracy: recall, .. } = matching(edits);
    let mut terms = match nas.edited_term {
        EditedTerm::InMean => {
            let both = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 0);
            let valid_local = both(pairs.valid.local, edits.valid.local);
            let valid_global = both(pairs.valid.global, edits.valid.global);
            let judged = matching(&MatchingInputs {
                logits_r2: &both(pairs.logits_r2, edits.logits_r2),
                labels_r: &both(pairs.labels_r, edits.labels_r),
                valid: Gathered { local: &valid_local, global: &valid_global },
            });
            // The diagnostics stay those of the pairs, with edits or without.
            albef_loss(contrast, Matching { value: judged.value, ..matching(pairs) }, language, albef)
        }
        EditedTerm::Separate { weight } => {
            let LossTerms { mut terms, diagnostics, .. } = albef_loss(contrast, matching(pairs), language, albef);
            terms.push(LossTerm { name: "edited".into(), value: of_edits, weight: weight * albef.lambda_matching });
            LossTerms::new(terms, diagnostics)
        }
    };
    terms.diagnostics.push(("edited_recall".into(), recall));
    terms
}

#[cfg(test)]
#[path = "nas_tests.rs"]
mod tests;
