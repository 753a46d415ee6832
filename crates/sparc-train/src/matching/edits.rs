//! Negatives that differ from the positive in a few visual tokens, or in a few words.

use sparc_core::objectives::nas::{
    Edit, EditedText, NasConfig, ReplacementInputs, ScoreSpace, TextNegatives, choose_words, edit, highest,
    patch_scores, replacements, substitutes, swap_tokens,
};
use sparc_core::{Batch, TextBatch};
use sparc_models::networks::Albef;
use tch::{Kind, Tensor};

use super::{Draws, View};

// Dimension letters: b batch, r patches to be replaced, p patches, m image tokens, l tokens, w width, d shared space.

/// A batch's edits.
pub(super) struct Edits {
    /// How much each patch has to do with the pair, `[B, P]`.
    pub scores_bp: Tensor,
    /// What has become of the patches.
    pub images: Edit,
    /// What the fusion encoder reads of edited images, `[B, M, W]`.
    pub sequence_bmw: Tensor,
    /// Edited images in the shared space `[B, D]`, not normalised, where the contrast has a use for them.
    pub image_bd: Option<Tensor>,
    /// Edited captions through the text tower `[B, L, W]`, and whether there is one `[B]`.
    pub text: Option<(Tensor, Tensor)>,
}

impl Edits {
    pub fn new(
        network: &Albef,
        nas: &NasConfig,
        batch: &Batch,
        (online, copies): (&View, &View),
        draws: &Draws,
    ) -> Edits {
        let (scores_bp, images) = edit_images(network, nas, batch, online, draws);
        let sequence_bmw = network.image_sequence(online.encoders, &online.image, Some(&images.edited));
        let image_bd = nas.contrast_edited.then(|| {
            // The right key, moved by what the edit does to the mean of the projected patches: a key that were made
            // otherwise than the right ones would give itself away by that alone. What is taken away carries no
            // gradient: it would reach just those patches that are no longer there.
            let mean_bd = |patches_bpc: &Tensor| {
                online.encoders.embed_image(patches_bpc).mean_dim([1i64].as_slice(), false, None::<Kind>)
            };
            &copies.image_bd + mean_bd(&images.edited.quantised_bpc) - mean_bd(&images.original.quantised_bpc.detach())
        });
        let text = edit_texts(network, nas.text_negatives, &batch.text, copies, draws).map(|edited| {
            let text = with_ids(&batch.text, edited.ids_bl);
            (online.encoders.text_vectors(&text), edited.found_b)
        });
        Edits { scores_bp, images, sequence_bmw, image_bd, text }
    }
}

fn with_ids(text: &TextBatch, ids_bl: Tensor) -> TextBatch {
    TextBatch { ids_bl, mask_bl: text.mask_bl.shallow_clone(), content_bl: text.content_bl.shallow_clone() }
}

/// Gives the patches that have most to do with the pair another code (NVA). Their scores, too.
fn edit_images(network: &Albef, nas: &NasConfig, batch: &Batch, online: &View, draws: &Draws) -> (Tensor, Edit) {
    let dictionary = network.dictionary().expect("a network of NAS");
    let (index_bp, _) = online.codes.as_ref().expect("a network of NAS");
    let patches_bpw = &online.image.patches_bpw;
    let scores_bp = tch::no_grad(|| match nas.score_space {
        ScoreSpace::Projected => {
            let patches_bpd = online.encoders.embed_image(patches_bpw);
            patch_scores(&patches_bpd, &online.image_bd, &online.text_bd, nas.score)
        }
        ScoreSpace::Raw => {
            patch_scores(patches_bpw, &online.image.class_bw, &online.tokens_blw.select(1, 0), nas.score)
        }
    });
    let chosen_br = highest(&scores_bp, nas.replaced_share);
    let inputs = ReplacementInputs {
        codes_kc: dictionary.codes(),
        usable_k: &dictionary.usable(),
        index_bp,
        chosen_br: &chosen_br,
        image_ids_b: &batch.image_ids_b,
        uniform_br: &draws.numbers(b"replacements", chosen_br.size()[1]),
    };
    let new_br = replacements(&inputs, nas.replacement);
    (scores_bp, edit(patches_bpw, index_bp, dictionary.codes(), &chosen_br, &new_br))
}

/// Gives captions other words (NTA).
pub(super) fn edit_texts(
    network: &Albef,
    negatives: TextNegatives,
    text: &TextBatch,
    copies: &View,
    draws: &Draws,
) -> Option<EditedText> {
    let one = |purpose: &[u8]| draws.numbers(purpose, 1).squeeze_dim(1);
    match negatives {
        TextNegatives::None => None,
        TextNegatives::Swap => {
            Some(swap_tokens(&text.ids_bl, &text.content_bl, &draws.numbers(b"swapped words", 2).tr()))
        }
        TextNegatives::Substitute { skipped } => Some(tch::no_grad(|| {
            let masking = network.config().masking;
            let place = choose_words(&text.content_bl, &one(b"words to substitute"));
            let column_b1 = place.columns_b.unsqueeze(1);
            let masked = with_ids(text, text.ids_bl.scatter_value(1, &column_b1, masking.mask_id));
            let chosen_bl = text.mask_bl.zeros_like().scatter_value(1, &column_b1, 1);
            let original_b = text.ids_bl.gather(1, &column_b1, false).squeeze_dim(1);
            // One place a row, in the order of rows.
            let logits_bv = copies.words(&masked, &chosen_bl);
            let drawn = substitutes(&logits_bv, &original_b, masking, skipped, &one(b"substitutes"));
            EditedText {
                ids_bl: text.ids_bl.scatter(1, &column_b1, &drawn.columns_b.unsqueeze(1)),
                found_b: place.found_b.logical_and(&drawn.found_b),
            }
        })),
    }
}
