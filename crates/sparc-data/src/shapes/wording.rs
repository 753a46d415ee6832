//! Statements to English: articles, plurals, a few synonyms, three registers.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::attributes::{Size, Texture};
use super::statement::{Backdrop, Description, Place, Relation, Statement};

/// The register of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `a red circle and a blue square`, after one of the openings.
    Sentence(&'static str),
    /// `one red circle and two blue squares`.
    Counting,
    /// `red circle, blue square`.
    Terse,
}

/// What a sentence may begin with, the plain beginning twice as often.
pub(super) const OPENINGS: [&str; 6] = ["", "", "a picture of ", "an image of ", "a scene with ", "there is "];

/// Choice of synonyms, made once for a caption, so that its negatives differ from it in the claim alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wording {
    pub(super) form: Form,
    large: &'static str,
    small: &'static str,
    dotted: &'static str,
    checked: &'static str,
    left_of: &'static str,
    right_of: &'static str,
    below: &'static str,
    center: &'static str,
}

impl Wording {
    /// Draws the synonyms.
    pub(super) fn draw(rng: &mut ChaCha8Rng, form: Form) -> Self {
        let mut either = |usual, other| if rng.random_bool(0.75) { usual } else { other };
        Self {
            form,
            large: either("large", "big"),
            small: either("small", "little"),
            dotted: either("dotted", "spotted"),
            checked: either("checked", "checkered"),
            left_of: either("to the left of", "left of"),
            right_of: either("to the right of", "right of"),
            below: either("below", "under"),
            center: either("in the center", "in the middle"),
        }
    }

    /// The usual words, for phrases without a register.
    pub(super) fn usual() -> Self {
        Self {
            form: Form::Terse,
            large: "large",
            small: "small",
            dotted: "dotted",
            checked: "checked",
            left_of: "to the left of",
            right_of: "to the right of",
            below: "below",
            center: "in the center",
        }
    }

    /// The sentence of a statement.
    pub(super) fn text(&self, statement: &Statement) -> String {
        match statement {
            Statement::Inventory { items, backdrop } => {
                let parts: Vec<String> = items.iter().map(|&(n, item)| self.item(n, &item)).collect();
                let opening = match self.form {
                    Form::Sentence("there is ") if items.first().is_some_and(|item| item.0 > 1) => "there are ",
                    Form::Sentence(opening) => opening,
                    Form::Counting | Form::Terse => "",
                };
                let backdrop = backdrop.map_or(String::new(), background);
                format!("{opening}{}{backdrop}", self.list(&parts))
            }
            Statement::Related { subject, relation, object } => {
                let (subject, object) = (self.item(1, subject), self.item(1, object));
                format!("{subject} {} {object}", self.relation(*relation))
            }
            Statement::Placed { subject, place } => {
                format!("{} {}", self.item(1, subject), self.place(*place))
            }
        }
    }

    /// A noun phrase without its article: `large red striped circle`.
    pub(super) fn phrase(&self, description: &Description, n: usize) -> String {
        let size = description.size.map(|size| match size {
            Size::Large => self.large,
            Size::Small => self.small,
            Size::Medium => size.name(),
        });
        let texture = description.texture.map(|texture| match texture {
            Texture::Dotted => self.dotted,
            Texture::Checked => self.checked,
            Texture::Solid | Texture::Striped => texture.name(),
        });
        let noun = match (description.shape, n) {
            (Some(shape), 1) => shape.name(),
            (Some(shape), _) => shape.plural(),
            (None, 1) => "shape",
            (None, _) => "shapes",
        };
        let color = description.color.map(|color| color.name());
        let words = [size, color, texture, Some(noun)];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn item(&self, n: usize, description: &Description) -> String {
        let phrase = self.phrase(description, n);
        match (self.form, n) {
            (Form::Sentence(_), 1) => format!("{} {phrase}", article(&phrase)),
            (Form::Terse, 1) => phrase,
            (_, n) => format!("{} {phrase}", number(n)),
        }
    }

    fn list(&self, parts: &[String]) -> String {
        match (self.form, parts) {
            (Form::Terse, _) => parts.join(", "),
            (_, [all @ .., last]) if !all.is_empty() => format!("{} and {last}", all.join(", ")),
            _ => parts.concat(),
        }
    }

    fn relation(&self, relation: Relation) -> &'static str {
        match relation {
            Relation::LeftOf => self.left_of,
            Relation::RightOf => self.right_of,
            Relation::Above => "above",
            Relation::Below => self.below,
        }
    }

    fn place(&self, place: Place) -> &'static str {
        match place {
            Place::Left => "on the left",
            Place::Right => "on the right",
            Place::Top => "at the top",
            Place::Bottom => "at the bottom",
            Place::Center => self.center,
        }
    }
}

fn background(backdrop: Backdrop) -> String {
    let tone = backdrop.tone.map_or(String::new(), |tone| format!("{} ", tone.name()));
    format!(" on a {tone}{} background", backdrop.kind.name())
}

fn article(phrase: &str) -> &'static str {
    if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn number(n: usize) -> &'static str {
    ["no", "one", "two", "three", "four"].get(n).copied().unwrap_or("many")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::attributes::{BackgroundKind, Color, Shape, Tone};

    fn description(color: Color, shape: Shape) -> Description {
        Description { color: Some(color), shape: Some(shape), ..Description::default() }
    }

    fn with(form: Form) -> Wording {
        Wording { form, ..Wording::usual() }
    }

    #[test]
    fn articles_and_plurals_are_right() {
        let items = vec![
            (1, description(Color::Orange, Shape::Cross)),
            (2, description(Color::Blue, Shape::Cross)),
            (
                1,
                Description {
                    size: Some(Size::Small),
                    texture: Some(Texture::Solid),
                    ..description(Color::Orange, Shape::Star)
                },
            ),
        ];
        let backdrop = Some(Backdrop { tone: Some(Tone::Dark), kind: BackgroundKind::Plain });
        let full = Statement::Inventory { items: items.clone(), backdrop };
        assert_eq!(
            with(Form::Sentence("")).text(&full),
            "an orange cross, two blue crosses and a small orange solid star on a dark plain background"
        );
        let bare = Statement::Inventory { items, backdrop: None };
        assert_eq!(
            with(Form::Counting).text(&bare),
            "one orange cross, two blue crosses and one small orange solid star"
        );
        assert_eq!(with(Form::Terse).text(&bare), "orange cross, two blue crosses, small orange solid star");
    }

    #[test]
    fn single_items_and_openings_read_well() {
        let one = |n| Statement::Inventory { items: vec![(n, description(Color::Red, Shape::Ring))], backdrop: None };
        assert_eq!(with(Form::Sentence("there is ")).text(&one(1)), "there is a red ring");
        assert_eq!(with(Form::Sentence("there is ")).text(&one(3)), "there are three red rings");
        assert_eq!(with(Form::Terse).text(&one(1)), "red ring");
    }
}
