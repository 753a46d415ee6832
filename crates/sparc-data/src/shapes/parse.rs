//! Reads captions back into statements, written from English and not from the writer.

use super::attributes::{BackgroundKind, Color, Shape, Size, Texture, Tone};
use super::statement::{Backdrop, Description, Place, Relation, Statement};

/// The statement that a caption makes.
///
/// # Errors
///
/// The part that no caption of Shapes should contain.
pub(super) fn parse(text: &str) -> Result<Statement, String> {
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
            return Ok(Statement::Related { subject: one(subject)?, relation, object: one(object)? });
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
            return Ok(Statement::Placed { subject: one(subject)?, place });
        }
    }
    let (list, backdrop) = match text.split_once(" on a ") {
        Some((list, background)) => (list, Some(backdrop(background)?)),
        None => (text, None),
    };
    let items = list.split(", ").flat_map(|part| part.split(" and ")).map(item).collect::<Result<_, _>>()?;
    Ok(Statement::Inventory { items, backdrop })
}

fn backdrop(text: &str) -> Result<Backdrop, String> {
    let words: Vec<&str> = text.split(' ').collect();
    let (tone, kind) = match words[..] {
        [kind, "background"] => (None, kind),
        [tone, kind, "background"] => (Some(tone), kind),
        _ => return Err(format!("{text:?} is no background")),
    };
    let find = |word: &str| Tone::ALL.iter().copied().find(|tone| tone.name() == word);
    let tone = tone.map(|word| find(word).ok_or_else(|| format!("{word:?} is no tone"))).transpose()?;
    let kind = BackgroundKind::ALL.iter().copied().find(|other| other.name() == kind);
    Ok(Backdrop { tone, kind: kind.ok_or_else(|| format!("{text:?} is no background"))? })
}

fn one(text: &str) -> Result<Description, String> {
    match item(text)? {
        (1, description) => Ok(description),
        _ => Err(format!("{text:?} is not one object")),
    }
}

fn item(text: &str) -> Result<(usize, Description), String> {
    let mut words: Vec<&str> = text.split(' ').collect();
    let numbers = ["one", "two", "three", "four"];
    let n = match words[0] {
        article @ ("a" | "an") => {
            let vowel = words.get(1).is_some_and(|word| word.starts_with(['a', 'e', 'i', 'o', 'u']));
            if (article == "an") != vowel {
                return Err(format!("the article in {text:?}"));
            }
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
    let noun = words.pop().ok_or_else(|| format!("{text:?} has no noun"))?;
    let mut description = Description::default();
    if noun != if n == 1 { "shape" } else { "shapes" } {
        let of = |shape: &Shape| if n == 1 { shape.name() } else { shape.plural() };
        let shape = Shape::ALL.iter().copied().find(|shape| of(shape) == noun);
        description.shape = Some(shape.ok_or_else(|| format!("{noun:?} in {text:?}"))?);
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
                description.color = Some(color.ok_or_else(|| format!("{word:?} in {text:?}"))?);
            }
        }
    }
    Ok((n, description))
}
