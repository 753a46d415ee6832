//! Tests of tokenizers: made here, read, and by the shorter way.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const CAPTIONS: [&str; 4] = ["A red circle.", "a blue square", "two red squares", "a circle and a square"];

fn trained(model: TokenizerModel) -> String {
    let captions: Vec<String> = CAPTIONS.iter().cycle().take(40).map(ToString::to_string).collect();
    let training = TokenizerTraining { model, vocab_size: 60, lowercase: true, mask_token: false };
    train_tokenizer(&captions, training).unwrap()
}

fn values(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.to_kind(tch::Kind::Int64).view([-1])).unwrap()
}

#[test]
fn trained_tokenizers_are_usable_and_bpe_is_deterministic() {
    for model in [TokenizerModel::Unigram, TokenizerModel::Bpe] {
        let json = trained(model);
        assert!(model == TokenizerModel::Unigram || json == trained(model));
        let tokenizer = TextTokenizer::from_bytes(json.as_bytes(), 16).unwrap();
        assert!(tokenizer.vocab_size() <= 60);
        let pieces = tokenizer.pieces("a Red circle");
        assert_eq!((pieces[0].as_str(), pieces.last().unwrap().as_str()), ("[BOS]", "[EOS]"));
        assert_eq!(pieces[1..pieces.len() - 1].concat(), "▁a▁red▁circle");
        assert!(tokenizer.pieces("中 circle").contains(&"[UNK]".to_owned()));
    }
}

#[test]
fn batches_are_padded_and_specials_are_told_apart() {
    let tokenizer = TextTokenizer::from_bytes(trained(TokenizerModel::Unigram).as_bytes(), 16).unwrap();
    let batch = tokenizer.tokenize(&["a red circle", ""]);
    let length = batch.ids_bl.size()[1] as usize;
    let (mask, content) = (values(&batch.mask_bl), values(&batch.content_bl));
    assert_eq!(mask[..length], vec![1; length]);
    assert_eq!((content[0], content[1], content[length - 1]), (0, 1, 0));
    // The empty text is BOS, EOS and padding.
    assert_eq!((mask[length..].iter().sum::<i64>(), content[length..].iter().sum::<i64>()), (2, 0));
    assert_eq!(values(&batch.ids_bl)[length + 2], 0);
}

#[test]
fn texts_come_back_from_their_tokens() {
    for model in [TokenizerModel::Unigram, TokenizerModel::Bpe] {
        let tokenizer = TextTokenizer::from_bytes(trained(model).as_bytes(), 16).unwrap();
        let ids: Vec<i64> = tokenizer.encode("two red squares").unwrap().ids.into_iter().map(i64::from).collect();
        assert_eq!(tokenizer.decode(&ids).unwrap(), "two red squares");
        let ends = tokenizer.ends().unwrap();
        assert_eq!((ends.begin, ends.end), (ids[0], *ids.last().unwrap()));
        // Padding, unknown, begin.
        assert_eq!(ends.never, [0, 1, 2]);
    }
}

proptest! {
    /// The shorter way gives what the library gives.
    #[test]
    fn plain_text_has_the_librarys_tokens(
        text in "([ a-eA-EQr.\\t\n\u{1}\\[é]|red|circle|two squares| A|\\[MASK\\]|\\[pad\\]|  ){0,12}",
        context_length in 3usize..20,
    ) {
        for tokenizer in FAMILY.iter() {
            let tokenizer = tokenizer.clone().with_context_length(context_length).unwrap();
            prop_assert_eq!(tokenizer.encode(&text).unwrap(), tokenizer.encode_any(&text).unwrap());
        }
    }
}

/// One of each kind.
static FAMILY: LazyLock<Vec<TextTokenizer>> = LazyLock::new(|| {
    let captions: Vec<String> = CAPTIONS.iter().cycle().take(40).map(ToString::to_string).collect();
    let kinds = [TokenizerModel::Unigram, TokenizerModel::Bpe].into_iter();
    let kinds = kinds.flat_map(|model| [(true, true), (false, false)].map(|(lower, mask)| (model, lower, mask)));
    let made = kinds.map(|(model, lowercase, mask_token)| {
        let json =
            train_tokenizer(&captions, TokenizerTraining { model, vocab_size: 60, lowercase, mask_token }).unwrap();
        TextTokenizer::from_bytes(json.as_bytes(), 16).unwrap()
    });
    made.collect()
});

#[test]
fn the_shorter_way_is_for_plain_text_and_the_steps_made_here() {
    let short = |tokenizer: &TextTokenizer, text: &str| {
        tokenizer.plain_text.as_ref().and_then(|plain_text| plain_text.encode(&tokenizer.inner, text, 16))
    };
    for tokenizer in FAMILY.iter() {
        assert!(short(tokenizer, " A red circle. ").is_some());
        for text in ["", " ", "a [MASK] circle", "a café"] {
            assert_eq!(short(tokenizer, text), None);
        }
    }
    let json = trained(TokenizerModel::Bpe);
    let replaced = [("\"NFKC\"", "\"NFD\""), ("\"always\"", "\"first\""), ("\"split\": true", "\"split\": false")];
    for (from, to) in replaced {
        let other = json.replace(from, to);
        assert_ne!(other, json, "{from}");
        let tokenizer = TextTokenizer::from_bytes(other.as_bytes(), 16).unwrap();
        assert_eq!(short(&tokenizer, "a red circle"), None, "{to}");
    }
    // The library finds such a token before it strips the text.
    let mut inner: tokenizers::Tokenizer = json.parse().unwrap();
    assert!(PlainText::new(&inner).is_some());
    inner.add_special_tokens([AddedToken::from("\n", true)]).unwrap();
    assert!(PlainText::new(&inner).is_none());
}

#[test]
fn a_question_has_the_same_tokens_whatever_follows() {
    for model in [TokenizerModel::Unigram, TokenizerModel::Bpe] {
        let json = trained(model);
        let tokenizer = TextTokenizer::from_bytes(json.as_bytes(), 24).unwrap();
        let question = tokenizer.encode_question("a red circle").unwrap();
        for answer in ["two squares", "blue", ""] {
            let (text, length) = tokenizer.encode_answered("a red circle", answer).unwrap();
            assert_eq!((&text.ids[..length], &text.content[..length]), (&question.ids[..], &question.content[..]));
            assert_eq!(text, tokenizer.encode(&format!("a red circle {answer}")).unwrap());
        }
        // The answer is cut first, then the question; the end token stays.
        let length = question.ids.len();
        for context in 4..=length + 3 {
            let short = TextTokenizer::from_bytes(json.as_bytes(), context).unwrap();
            let (text, kept) = short.encode_answered("a red circle", "two squares").unwrap();
            assert_eq!((text.ids.len(), kept), (context, length.min(context - 1)), "a context of {context}");
            assert_eq!(text.ids.last(), tokenizer.encode("").unwrap().ids.last());
            assert_eq!(short.encode_question("a red circle").unwrap().ids, text.ids[..kept]);
        }
    }
}

#[test]
fn a_mask_token_moves_no_other() {
    let captions: Vec<String> = CAPTIONS.iter().cycle().take(40).map(ToString::to_string).collect();
    let training = TokenizerTraining { model: TokenizerModel::Bpe, vocab_size: 60, lowercase: true, mask_token: true };
    let masked = train_tokenizer(&captions, training).unwrap();
    let [masked, plain] =
        [masked, trained(TokenizerModel::Bpe)].map(|json| TextTokenizer::from_bytes(json.as_bytes(), 16).unwrap());
    assert_eq!(masked.vocab_size(), plain.vocab_size() + 1);
    for text in CAPTIONS {
        assert_eq!(masked.encode(text).unwrap(), plain.encode(text).unwrap());
    }
    let vocabulary = masked.masking().unwrap();
    let n_ids = masked.vocab_size() as i64;
    assert_eq!(vocabulary, MaskingVocabulary { mask_id: n_ids - 1, first_id: 4, n_ids });
    assert_eq!(masked.decode(&[n_ids - 1]).unwrap(), "");
    let reason = plain.masking().unwrap_err();
    assert!(reason.contains("[MASK]") && reason.contains("--mask-token"), "{reason}");
}

#[test]
fn long_texts_are_cut_with_the_end_token_kept() {
    let tokenizer = TextTokenizer::from_bytes(trained(TokenizerModel::Bpe).as_bytes(), 5).unwrap();
    let pieces = tokenizer.pieces(&"red circle ".repeat(9));
    assert_eq!((pieces.len(), pieces[4].as_str()), (5, "[EOS]"));
}

#[test]
fn unusable_files_say_why() {
    let reason = TextTokenizer::from_bytes(b"{}", 5).err().unwrap();
    assert!(reason.contains("not a Hugging Face tokenizer.json"));
    let json = trained(TokenizerModel::Bpe);
    assert!(TextTokenizer::from_bytes(json.as_bytes(), 2).err().unwrap().contains("context of 2"));
    let unpadded = trained(TokenizerModel::Bpe).replace("[PAD]", "[NOT]");
    assert!(TextTokenizer::from_bytes(unpadded.as_bytes(), 5).err().unwrap().contains("no padding token"));
    let nothing = train_tokenizer(
        &[" ".into()],
        TokenizerTraining { model: TokenizerModel::Unigram, vocab_size: 60, lowercase: true, mask_token: false },
    );
    assert!(nothing.is_err());
}
