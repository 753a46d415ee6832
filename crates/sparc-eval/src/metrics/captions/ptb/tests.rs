//! Expected tokens are what CoreNLP 3.4.1's `PTBTokenizer -preserveLines -lowerCase` (Java 17) printed for these
//! lines, less the tokens that pycocoevalcap 1.2 drops.

use proptest::prelude::*;

use super::ptb_tokenize;

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (caption, tokens) in cases {
        assert_eq!(ptb_tokenize(caption), *tokens, "{caption:?}");
    }
}

#[test]
fn captions() {
    check(&[
        ("A man's dog doesn't move.", "a man 's dog does n't move"),
        (
            "A black-and-white photo of a T-shirt, and a tub/shower!",
            "a black-and-white photo of a t-shirt and a tub/shower",
        ),
        (
            "He said \"hello 'world'\" and left (quickly) [sic]",
            "he said hello world and left -lrb- quickly -rrb- -lsb- sic -rsb-",
        ),
        ("wait... what?! no!!! -- dash — a - b", "wait what ?! no !!! dash a b"),
        ("x --- y ----- z", "x y ----- z"),
        ("It cost $5.00 or £3 or 50%; 5¢", "it cost $ 5.00 or # 3 or 50 % 5 cents"),
        ("A dog on the street.A cat", "a dog on the street.a cat"),
        ("the clock reads 8:25 on 10-29-2011", "the clock reads 8:25 on 10-29-2011"),
        ("rock 'n' roll o'clock y'all 'tis the '90s", "rock 'n' roll o'clock y' all 't is the '90s"),
        ("I cannot, I'm gonna; lemme!", "i can not i 'm gon na lem me"),
        ("garbage_bin", "garbage_bin"),
        ("AT&T R&B salt&pepper &amp; <unk> C++", "at&t r&b salt & pepper & <unk> c++"),
    ]);
}

#[test]
fn nothing_but_punctuation_is_nothing() {
    check(&[("", ""), (" \t\n", ""), ("...", ""), ("\"'`.,:; ? ! -- -", ""), ("\u{1f600}\u{200b}", "")]);
}

#[test]
fn full_stops() {
    check(&[
        (
            "Mr. Smith went to St. Mary's at 5 p.m. with U.S. troops.",
            "mr. smith went to st. mary 's at 5 p.m. with u.s. troops",
        ),
        ("vitamin C.", "vitamin c."),
        ("vitamin C. The dog", "vitamin c the dog"),
        ("vitamin C. Dogs", "vitamin c. dogs"),
        ("etc. no. dog No. 5 no.5 fig. 1", "etc. no dog no. 5 no. 5 fig. 1"),
        ("miss. Miss. wash. Wash.", "miss miss. wash wash."),
        ("dog., cat.; x", "dog. cat. x"),
        ("Ph.D. u.s.-based non-U.S. a.b.c", "ph.d. u.s.-based non-u.s. a.b.c"),
    ]);
}

#[test]
fn apostrophes() {
    check(&[
        ("it’s dogs' can't've", "it 's dogs ca n't 've"),
        ("ma'am ho'ohu cat'dog s'more", "ma'am ho'ohu cat dog s more"),
        ("it'ss ol' man bird's-eye", "it ss ol' man bird 's eye"),
        ("'em x'n'y more'n", "'em x 'n' y more 'n"),
        ("5'10\" 1990's", "5 10 1990 's"),
    ]);
}

#[test]
fn numbers_and_symbols() {
    check(&[
        ("23 3/4 cups, ½ cup, 1-1/2", "23\u{a0}3/4 cups 1/2 cup 1-1/2"),
        ("(800) 555-1234", "-lrb-800-rrb-\u{a0}555-1234"),
        ("-5 +5 .5 1,000.5 5-6 5–6", "-5 +5 .5 1,000.5 5-6 5 6"),
        (
            "#hashtag @user a@b.com www.foo.com http://foo.com/a?b=c.",
            "#hashtag @user a@b.com www.foo.com http://foo.com/a?b=c",
        ),
        (":) ;-) <3 ** ~", ":-rrb- ;--rrb- < 3 ** ~"),
    ]);
}

#[test]
fn unicode() {
    check(&[
        ("Café naïve 日本語 ice\u{a0}cream", "café naïve 日本語 ice cream"),
        ("a\u{1f600}b “x” «y» …", "a b x y"),
        ("soft\u{ad}hyphen CAF&eacute;", "softhyphen caf&eacute;"),
        ("5°C × 2²", "5 ° c × 2 ²"),
    ]);
}

proptest! {
    #[test]
    fn any_text_gives_words_between_single_spaces(caption in "\\PC{0,40}|[a-z'.,<>@#&/:0-9 -]{0,40}") {
        let tokens = ptb_tokenize(&caption);
        prop_assert!(tokens.is_empty() || tokens.split(' ').all(|token| !token.is_empty()), "{tokens:?}");
    }

    #[test]
    fn plain_words_are_kept_in_order(words in proptest::collection::vec("[b-z]{4,8}", 0..8)) {
        prop_assume!(!words.iter().any(|word| ["gonna", "gotta", "wanna", "gimme", "lemme", "cannot"].contains(&word.as_str())));
        let caption = words.join(" ") + ".";
        prop_assert_eq!(ptb_tokenize(&caption.to_uppercase()), ptb_tokenize(&caption));
    }

    #[test]
    fn space_around_changes_nothing(caption in "[A-Za-z0-9',.-]{0,12}( [A-Za-z0-9',-]{1,8}){0,4}") {
        prop_assert_eq!(ptb_tokenize(&format!("  {caption} ")), ptb_tokenize(&caption));
    }
}
