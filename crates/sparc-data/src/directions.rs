//! Words that a mirrored image makes false.

/// Whether a text stays true when its image is mirrored: it says nothing of left or right.
pub fn survives_mirroring(text: &str) -> bool {
    !text.split(|c: char| !c.is_alphanumeric()).any(|word| {
        let word = word.to_ascii_lowercase();
        // "leftover" and "rightful" only lose a flip.
        word.starts_with("left") || word.starts_with("right") || word.ends_with("clockwise")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_direction_forbid_mirroring() {
        assert!(survives_mirroring("a red circle above a square"));
        for text in ["Left of it", "on the right.", "left-hand", "an arrow pointing rightwards", "the leftmost"] {
            assert!(!survives_mirroring(text), "{text}");
        }
        assert!(survives_mirroring("a bright copyright sign"));
    }
}
