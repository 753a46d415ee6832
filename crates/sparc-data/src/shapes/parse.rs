//! Reads captions back into statements, written from English and not from the writer: test-only.

use super::attributes::{BackgroundKind, Color, Shape, Size, Texture, Tone};
use super::statement::{Backdrop, Description, Place, Relation, Statement};

/// # Panics
///
/// On a word that no caption should contain, so that a test fails on bad English.
pub(super) fn parse(text: &str) -> Statement {
    let text = ["a picture of ", "an image of ", "a scene with ", "there is ", "there are "]
        .iter()
        .find_map(|opening| text.strip_prefix(opening))
        .unwrap_or(text);
    let relations = [
        (" to the left of ", Relation::LeftOf),
        (" left of ", Relation::LeftOf),
        (" to the right of ", Relation::RightOf),
        (" right of ", Relation::RightOf),
        (" above ", Relation::Above),
        (" below ", Relation::Below),
        (" under ", Relation::Below),
    ];
    for (words, relation) in relations {
        if let Some((subject, object)) = text.split_once(words) {
            return Statement::Related { subject: one(subject), relation, object: one(object) };
        }
    }
    let places = [
        (" on the left", Place::Left),
        (" on the right", Place::Right),
        (" at the top", Place::Top),
        (" at the bottom", Place::Bottom),
        (" in the center", Place::Center),
        (" in the middle", Place::Center),
    ];
    for (words, place) in places {
        if let Some(subject) = text.strip_suffix(words) {
            return Statement::Placed { subject: one(subject), place };
        }
    }
    let (list, backdrop) = match text.split_once(" on a ") {
        Some((list, background)) => (list, Some(backdrop(background))),
        None => (text, None),
    };
    let items = list.split(", ").flat_map(|part| part.split(" and ")).map(item).collect();
    Statement::Inventory { items, backdrop }
}

fn backdrop(text: &str) -> Backdrop {
    let words: Vec<&str> = text.split(' ').collect();
    let (tone, kind) = match words[..] {
        [kind, "background"] => (None, kind),
        [tone, kind, "background"] => (Some(tone), kind),
        _ => panic!("{text:?} is no background"),
    };
    let find = |word: &str| Tone::ALL.iter().copied().find(|tone| tone.name() == word);
    let tone = tone.map(|word| find(word).unwrap_or_else(|| panic!("{word:?} is no tone")));
    let kind = BackgroundKind::ALL.iter().copied().find(|other| other.name() == kind);
    Backdrop { tone, kind: kind.unwrap_or_else(|| panic!("{text:?} is no background")) }
}

fn one(text: &str) -> Description {
    let (n, description) = item(text);
    assert_eq!(n, 1, "{text:?}");
    description
}

fn item(text: &str) -> (usize, Description) {
    let mut words: Vec<&str> = text.split(' ').collect();
    let numbers = ["one", "two", "three", "four"];
    let n = match words[0] {
        article @ ("a" | "an") => {
            let vowel = words[1].starts_with(['a', 'e', 'i', 'o', 'u']);
            assert_eq!(article == "an", vowel, "the article in {text:?}");
            words.remove(0);
            1
        }
        word => match numbers.iter().position(|number| *number == word) {
            Some(index) => {
                words.remove(0);
                index + 1
            }
            None => 1,
        },
    };
    let noun = words.pop().expect("a noun");
    let mut description = Description::default();
    if noun != if n == 1 { "shape" } else { "shapes" } {
        let of = |shape: &Shape| if n == 1 { shape.name() } else { shape.plural() };
        let shape = Shape::ALL.iter().copied().find(|shape| of(shape) == noun);
        description.shape = Some(shape.unwrap_or_else(|| panic!("{noun:?} in {text:?}")));
    }
    for word in words {
        match word {
            "large" | "big" => description.size = Some(Size::Large),
            "medium" => description.size = Some(Size::Medium),
            "small" | "little" => description.size = Some(Size::Small),
            "solid" => description.texture = Some(Texture::Solid),
            "striped" => description.texture = Some(Texture::Striped),
            "dotted" | "spotted" => description.texture = Some(Texture::Dotted),
            "checked" | "checkered" => description.texture = Some(Texture::Checked),
            word => {
                let color = Color::ALL.iter().copied().find(|color| color.name() == word);
                description.color = Some(color.unwrap_or_else(|| panic!("{word:?} in {text:?}")));
            }
        }
    }
    (n, description)
}
