//! What a caption claims, apart from its words, and whether the claim holds in a scene.

use super::attributes::{BackgroundKind, Color, Pair, Shape, Size, Texture, Tone};
use super::scene::Scene;

/// Least distance between the centres of two boxes, along the axis of the relation, for a caption to
/// claim it. The distance along the other axis must be smaller.
pub(super) const CLEAR_MARGIN: f32 = 0.12;

/// Some attributes of an object; those left out are not mentioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Description {
    pub(super) size: Option<Size>,
    pub(super) color: Option<Color>,
    pub(super) texture: Option<Texture>,
    pub(super) shape: Option<Shape>,
}

/// Where one object is, seen from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

/// Where an object is in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Left,
    Right,
    Top,
    Bottom,
    Center,
}

/// What is said of a background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backdrop {
    pub(super) tone: Option<Tone>,
    pub(super) kind: BackgroundKind,
}

/// The claim of a caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// There are these, each so many times.
    Inventory { items: Vec<(usize, Description)>, backdrop: Option<Backdrop> },
    /// One object stands in a relation to another.
    Related { subject: Description, relation: Relation, object: Description },
    /// An object is in a part of the image.
    Placed { subject: Description, place: Place },
}

/// A scene with the boxes of its visible pixels: what statements are judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) scene: &'a Scene,
    pub(super) boxes: &'a [[f32; 4]],
}

/// How strictly a position is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Only what anyone would say: for captions.
    Clear,
    /// Whatever could be meant: what fails even this is false, so it serves as a negative.
    Lenient,
}

impl Description {
    /// All attributes of an object.
    pub(super) fn full(view: View, index: usize) -> Self {
        let object = &view.scene.objects[index];
        Self {
            size: Some(object.size),
            color: Some(object.color),
            texture: Some(object.texture),
            shape: Some(object.shape),
        }
    }

    /// Colour and shape of an object.
    pub(super) fn simple(view: View, index: usize) -> Self {
        Self { size: None, texture: None, ..Self::full(view, index) }
    }

    /// Colour and shape, and as many further attributes as it takes to tell the object from the others.
    pub(super) fn unique(view: View, index: usize) -> Self {
        let full = Self::full(view, index);
        let without_texture = Self { texture: None, ..full };
        let without_size = Self { size: None, ..full };
        [Self::simple(view, index), without_texture, without_size]
            .into_iter()
            .find(|description| description.count(view) == 1)
            .unwrap_or(full)
    }

    /// Whether the description fits an object.
    pub(super) fn fits(&self, view: View, index: usize) -> bool {
        let object = &view.scene.objects[index];
        self.size.is_none_or(|size| size == object.size)
            && self.color.is_none_or(|color| color == object.color)
            && self.texture.is_none_or(|texture| texture == object.texture)
            && self.shape.is_none_or(|shape| shape == object.shape)
    }

    /// How many objects it fits.
    pub(super) fn count(&self, view: View) -> usize {
        self.fitting(view).count()
    }

    /// The pair it names, if it names one.
    pub(super) fn pair(&self) -> Option<Pair> {
        self.color.zip(self.shape)
    }

    fn fitting<'a>(&'a self, view: View<'a>) -> impl Iterator<Item = usize> + 'a {
        (0..view.scene.objects.len()).filter(move |&index| self.fits(view, index))
    }
}

impl Relation {
    pub(super) const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// The relation with its ends exchanged.
    pub(super) fn converse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    /// Whether the first box stands in this relation to the second.
    pub(super) fn holds(self, first: [f32; 4], second: [f32; 4], judgement: Judgement) -> bool {
        let (a, b) = (center(first), center(second));
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let (along, across) = match self {
            Self::LeftOf => (dx, dy),
            Self::RightOf => (-dx, dy),
            Self::Above => (dy, dx),
            Self::Below => (-dy, dx),
        };
        match judgement {
            Judgement::Clear => along >= CLEAR_MARGIN && along > across.abs(),
            Judgement::Lenient => along > 0.0,
        }
    }
}

impl Place {
    pub(super) const ALL: [Self; 5] = [Self::Left, Self::Right, Self::Top, Self::Bottom, Self::Center];

    /// The opposite side; the centre has none.
    pub(super) fn opposite(self) -> Option<Self> {
        match self {
            Self::Left => Some(Self::Right),
            Self::Right => Some(Self::Left),
            Self::Top => Some(Self::Bottom),
            Self::Bottom => Some(Self::Top),
            Self::Center => None,
        }
    }

    /// Whether a box is in this part of the image.
    pub(super) fn holds(self, corners: [f32; 4], judgement: Judgement) -> bool {
        let [x, y] = center(corners);
        let (side, middle) = match judgement {
            Judgement::Clear => (0.36, 0.10),
            Judgement::Lenient => (0.5, 0.20),
        };
        match self {
            Self::Left => x < side,
            Self::Right => x > 1.0 - side,
            Self::Top => y < side,
            Self::Bottom => y > 1.0 - side,
            Self::Center => (x - 0.5).abs() < middle && (y - 0.5).abs() < middle,
        }
    }
}

impl Statement {
    /// Whether the statement holds. Counts are lower bounds (`two circles` holds of three): captions
    /// are built to count all that there is, and what fails a lower bound is false in any reading.
    pub(super) fn holds(&self, view: View, judgement: Judgement) -> bool {
        match self {
            Self::Inventory { items, backdrop } => {
                let wanted: Vec<&Description> =
                    items.iter().flat_map(|(n, item)| std::iter::repeat_n(item, *n)).collect();
                let background = &view.scene.background;
                backdrop.is_none_or(|backdrop| {
                    backdrop.kind == background.kind && backdrop.tone.is_none_or(|tone| tone == background.tone)
                }) && assignable(&wanted, view, &mut Vec::new())
            }
            Self::Related { subject, relation, object } => subject.fitting(view).any(|a| {
                let mut others = object.fitting(view).filter(|&b| a != b);
                others.any(|b| relation.holds(view.boxes[a], view.boxes[b], judgement))
            }),
            Self::Placed { subject, place } => {
                subject.fitting(view).any(|index| place.holds(view.boxes[index], judgement))
            }
        }
    }

    /// All descriptions in it.
    pub(super) fn descriptions(&self) -> Vec<Description> {
        match self {
            Self::Inventory { items, .. } => items.iter().map(|&(_, item)| item).collect(),
            Self::Related { subject, object, .. } => vec![*subject, *object],
            Self::Placed { subject, .. } => vec![*subject],
        }
    }
}

/// Whether each description can be given an object of its own.
fn assignable(wanted: &[&Description], view: View, taken: &mut Vec<usize>) -> bool {
    let Some((first, rest)) = wanted.split_first() else {
        return true;
    };
    for index in first.fitting(view) {
        if !taken.contains(&index) {
            taken.push(index);
            if assignable(rest, view, taken) {
                return true;
            }
            taken.pop();
        }
    }
    false
}

fn center([x0, y0, x1, y1]: [f32; 4]) -> [f32; 2] {
    [(x0 + x1) / 2.0, (y0 + y1) / 2.0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::scene::{Split, scene};

    #[test]
    fn an_object_serves_one_description_only() {
        let mut scene = scene(0, Split::Train, 0);
        let mut second = scene.objects[0].clone();
        scene.objects.truncate(1);
        (scene.objects[0].color, scene.objects[0].shape) = (Color::Red, Shape::Circle);
        (second.color, second.shape) = (Color::Red, Shape::Square);
        scene.objects.push(second);
        let boxes = [[0.0; 4]; 2];
        let view = View { scene: &scene, boxes: &boxes };
        let red = Description { color: Some(Color::Red), ..Description::default() };
        let circle = Description { shape: Some(Shape::Circle), ..Description::default() };
        let holds = |items: &[(usize, Description)]| {
            let items = items.to_vec();
            let statement = Statement::Inventory { items, backdrop: None };
            statement.holds(view, Judgement::Lenient)
        };
        assert!(holds(&[(2, red)]));
        assert!(holds(&[(1, red), (1, circle)]), "needs backtracking");
        assert!(!holds(&[(2, red), (1, circle)]));
        assert!(!holds(&[(2, circle)]));
    }

    #[test]
    fn relations_need_a_margin_and_have_a_converse() {
        let at = |x: f32, y: f32| [x - 0.1, y - 0.1, x + 0.1, y + 0.1];
        let (left, right) = (at(0.2, 0.5), at(0.5, 0.6));
        assert!(Relation::LeftOf.holds(left, right, Judgement::Clear));
        assert!(Relation::RightOf.holds(right, left, Judgement::Clear));
        assert!(!Relation::Above.holds(left, right, Judgement::Clear));
        assert!(Relation::Above.holds(left, right, Judgement::Lenient));
        assert!(!Relation::LeftOf.holds(left, at(0.25, 0.5), Judgement::Clear));
        for relation in Relation::ALL {
            assert_eq!(relation.converse().converse(), relation);
            assert_eq!(
                relation.holds(left, right, Judgement::Clear),
                relation.converse().holds(right, left, Judgement::Clear)
            );
        }
    }
}
