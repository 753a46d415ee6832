//! Tokenizer pieces as people read them: without the tokenizer's marks, and grouped into words.
//!
//! Known marks: U+2581 before a word (SentencePiece), `Ġ` before a word (byte-level BPE), `</w>`
//! after a word (CLIP's BPE) and `##` before a continuation (WordPiece). Which one is in use is read
//! off the pieces themselves.

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text of the caption.
    Text,
    /// A control token such as `</s>` or `[CLS]`.
    Special,
}

/// One piece in readable form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The text without marks; a piece that is nothing but space reads `␣`.
    pub text: String,
    /// Whether a space belongs before it. The first token and control tokens start a word.
    pub starts_word: bool,
    /// Text or control.
    pub kind: TokenKind,
}

/// Reads the pieces of one caption.
pub fn read_pieces<S: AsRef<str>>(pieces: &[S]) -> Vec<Token> {
    let marks = Marks::of(pieces);
    let mut tokens: Vec<Token> = Vec::with_capacity(pieces.len());
    let mut word_ended = true;
    for piece in pieces.iter().map(AsRef::as_ref) {
        let after_special = tokens.last().is_none_or(|token| token.kind == TokenKind::Special);
        if is_special(piece) {
            tokens.push(Token { text: piece.to_owned(), starts_word: true, kind: TokenKind::Special });
            word_ended = true;
            continue;
        }
        let (text, marked_start) = marks.strip(piece, &mut word_ended);
        let text = if text.trim().is_empty() { "␣".to_owned() } else { text };
        let starts_word = after_special || (marked_start && !(marks.separate_punctuation() && closes(&text)));
        tokens.push(Token { text, starts_word, kind: TokenKind::Text });
    }
    tokens
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    SentencePiece,
    ByteLevel,
    EndOfWord,
    WordPiece,
    None,
}

impl Marks {
    fn of<S: AsRef<str>>(pieces: &[S]) -> Self {
        let any = |test: fn(&str) -> bool| pieces.iter().any(|piece| test(piece.as_ref()));
        if any(|piece| piece.starts_with('▁')) {
            Self::SentencePiece
        } else if any(|piece| piece.starts_with('Ġ')) {
            Self::ByteLevel
        } else if any(|piece| piece.ends_with("</w>")) {
            Self::EndOfWord
        } else if any(|piece| piece.len() > 2 && piece.starts_with("##")) {
            Self::WordPiece
        } else {
            Self::None
        }
    }

    /// The text of a piece, and whether it starts a word.
    fn strip(self, piece: &str, word_ended: &mut bool) -> (String, bool) {
        match self {
            Self::SentencePiece => {
                let text = piece.replace('▁', " ");
                (byte_token(piece).unwrap_or_else(|| text.trim().to_owned()), piece.starts_with('▁'))
            }
            Self::ByteLevel => {
                let start = piece.starts_with('Ġ');
                (from_byte_level(piece).trim().to_owned(), start)
            }
            Self::EndOfWord => {
                let start = *word_ended;
                *word_ended = piece.ends_with("</w>");
                (from_byte_level(piece.strip_suffix("</w>").unwrap_or(piece)), start)
            }
            Self::WordPiece => match piece.strip_prefix("##") {
                Some(rest) => (rest.to_owned(), false),
                None => (piece.to_owned(), true),
            },
            Self::None => (piece.to_owned(), true),
        }
    }

    /// Whether the tokenizer splits punctuation off without saying that no space came before it.
    fn separate_punctuation(self) -> bool {
        matches!(self, Self::EndOfWord | Self::WordPiece | Self::None)
    }
}

fn closes(text: &str) -> bool {
    text.chars().all(|character| ".,;:!?)]}'’”%".contains(character))
}

fn is_special(piece: &str) -> bool {
    let inside = |open, close| piece.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    if let Some(name) = inside('<', '>') {
        let word = name.trim_start_matches('/').trim_matches('|');
        return !word.is_empty() && !word.contains(char::is_whitespace) && byte_token(piece).is_none();
    }
    inside('[', ']').is_some_and(|name| name.len() > 2 && name.chars().all(|c| c.is_ascii_uppercase()))
}

/// SentencePiece's byte fallback, `<0xE2>`, as `0xE2`.
fn byte_token(piece: &str) -> Option<String> {
    let code = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(code, 16).ok().map(|byte| format!("0x{byte:02X}"))
}

/// Undoes the byte-to-character table of GPT-2's BPE (`bytes_to_unicode` of openai/gpt-2
/// `src/encoder.py`); a piece that is no whole UTF-8 text stays as it is.
fn from_byte_level(piece: &str) -> String {
    let bytes: Option<Vec<u8>> = piece.chars().map(byte_of).collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| piece.to_owned())
}

/// Printable bytes stand for themselves; the other 68 were moved, in order, to U+0100 and after.
fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code @ 0x100.. => (0..=255u8).filter(|byte| !printable(byte)).nth((code - 0x100) as usize),
        code => u8::try_from(code).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words joined as a reader sees them: a space before each token that starts a word.
    fn shown(pieces: &[&str]) -> String {
        let spaced = read_pieces(pieces).into_iter().map(|token| {
            let space = if token.starts_word { " " } else { "" };
            format!("{space}{}", token.text)
        });
        spaced.collect::<String>().trim_start().to_owned()
    }

    #[test]
    fn every_known_mark_reads_as_the_caption() {
        assert_eq!(shown(&["▁a", "▁foot", "ball", "er", ".", "</s>"]), "a footballer. </s>");
        assert_eq!(shown(&["a", "Ġfoot", "ball", "er", "."]), "a footballer.");
        assert_eq!(shown(&["a</w>", "foot", "baller</w>", ".</w>"]), "a footballer.");
        assert_eq!(shown(&["[CLS]", "a", "foot", "##ball", "##er", "."]), "[CLS] a footballer.");
        assert_eq!(shown(&["two", "dogs", "!"]), "two dogs!");
    }

    #[test]
    fn bytes_are_decoded_or_named() {
        assert_eq!(shown(&["caf", "Ã©", "Ġnoir"]), "café noir");
        assert_eq!(shown(&["▁", "<0xE2>"]), "␣0xE2");
        assert_eq!(shown(&["Ġa", "Ã"]), "aÃ");
    }

    #[test]
    fn control_tokens_are_told_from_text() {
        let kinds = |pieces: &[&str]| read_pieces(pieces).into_iter().map(|token| token.kind).collect::<Vec<_>>();
        use TokenKind::{Special, Text};
        assert_eq!(kinds(&["<|startoftext|>", "<pad>", "</s>", "[SEP]"]), [Special; 4]);
        assert_eq!(kinds(&["<", ">", "<>", "a</w>", "[a]", ""]), [Text; 6]);
    }

    #[test]
    fn first_token_starts_a_word_even_unmarked() {
        let tokens = read_pieces(&["two", "▁dogs"]);
        assert!(tokens[0].starts_word && tokens[1].starts_word);
        assert!(read_pieces::<&str>(&[]).is_empty());
    }
}
