//! Words that keep their full stop.

use super::Found;
use super::characters::run;

/// Titles and other abbreviations that no sentence ends with.
const INSIDE: &str = "adj adm adv alex asst assoc atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr \
     drs elec ens ft gen gov govs hon insp invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc \
     ph pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm";

/// Abbreviations that a sentence may end with. They win over words that go on without a space.
const ENDING: &str = "al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est \
     etc ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov \
     oct okla penn plc ppte pptes ppty pptys pte ptes pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue \
     tues univ va vt wed wis wisc wyo";

/// The same, but only where they begin with a capital: in lower case these are words.
const ENDING_CAPITAL: &str = "ark az del ill la mass miss ore pa tex wash";

/// Not in capitals only.
const NEVER_ALL_CAPITALS: &str = "mfg mtg ppte pptes ppty pptys pte ptes pty ptys";

/// Abbreviations only where a number follows: `no. 5`.
const BEFORE_NUMBER: &str = "art ca fig figs no nos op p pp prop";

/// Words that begin a sentence, so that the full stop after the single letter before them ends one.
const SENTENCE_STARTERS: &str = "a about after an as at but he her here however if in it last many more now once one \
     other our she since so some such that the their then there these they this we what when while yet you";

fn is_in(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|entry| entry == word)
}

/// Length of two or more initials, each with its full stop; 0 if there are fewer.
pub(super) fn initials(text: &[char]) -> usize {
    let n_pairs = text.chunks_exact(2).take_while(|pair| pair[0].is_ascii_alphabetic() && pair[1] == '.').count();
    if n_pairs >= 2 { 2 * n_pairs } else { 0 }
}

/// `u.s.`, `p.m.`
pub(super) fn acronym(text: &[char]) -> Option<Found> {
    Found::plain(initials(text))
}

/// `mr.`, `etc.`, `no. 5`, and single letters that no new sentence follows.
pub(super) fn abbreviation(text: &[char]) -> Option<Found> {
    if super::characters::starts_with(text, "ph.d.") {
        return Found::before(5, 2);
    }
    let length = run(text, |c| c.is_ascii_alphabetic());
    if length == 0 || text.get(length) != Some(&'.') {
        return None;
    }
    let written: String = text[..length].iter().collect();
    let word = written.to_ascii_lowercase();
    let rest = &text[length + 1..];
    if length == 1 && !ends_sentence(rest) {
        return Found::plain(2);
    }
    let is_capital = written.starts_with(|c: char| c.is_ascii_uppercase());
    let shouts = length > 1 && written.chars().all(|c| c.is_ascii_uppercase());
    let may_be = !(shouts && is_in(NEVER_ALL_CAPITALS, &word));
    if may_be && is_in(INSIDE, &word) {
        return Found::plain(length + 1);
    }
    if may_be && is_in(ENDING, &word) || is_capital && is_in(ENDING_CAPITAL, &word) {
        return Found::before(length + 1, 2);
    }
    let space = run(rest, char::is_whitespace).min(1);
    let before_number = is_in(BEFORE_NUMBER, &word) && rest.get(space).is_some_and(char::is_ascii_digit);
    if before_number { Found::before(length + 1, space + 1) } else { None }
}

/// Whether a tag, or a capital word that begins sentences and a space, follows behind white space.
fn ends_sentence(rest: &[char]) -> bool {
    let space = run(rest, char::is_whitespace);
    let rest = &rest[space..];
    if space == 0 {
        return false;
    }
    if super::symbols::tag(rest).is_some() {
        return true;
    }
    let length = run(rest, |c| c.is_ascii_alphabetic());
    let word: String = rest[..length].iter().collect();
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && is_in(SENTENCE_STARTERS, &word.to_ascii_lowercase())
        && rest.get(length).is_none_or(|c| c.is_whitespace())
}
