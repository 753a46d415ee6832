//! Contractions without one of their apostrophes.

/// Written with all their apostrophes. The official table maps each of them from every spelling that lacks one;
/// its entries that map a word to itself, or from a capital that lower-casing has removed, are left out.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've \
     hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've \
     mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've \
     somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've \
     something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't \
     we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's \
     who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll \
     you're you've";

/// The contraction that `word` is without one apostrophe; `None` if it is none.
pub(super) fn contraction(word: &str) -> Option<&'static str> {
    if word == "somebody'd" {
        return Some("somebodyd"); // the one entry of the official table that goes the other way
    }
    CONTRACTIONS.split_ascii_whitespace().find(|full| lacks_one_apostrophe(word, full))
}

fn lacks_one_apostrophe(word: &str, full: &str) -> bool {
    word.len() + 1 == full.len()
        && full.match_indices('\'').any(|(at, _)| {
            word.as_bytes()[..at] == full.as_bytes()[..at] && word.as_bytes()[at..] == full.as_bytes()[at + 1..]
        })
}
