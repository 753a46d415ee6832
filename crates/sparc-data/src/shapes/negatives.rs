//! False statements by exchanging what a true one binds together.

use super::holdout::HeldOut;
use super::statement::{Description, Judgement, Statement, View};

/// What two descriptions can exchange.
#[derive(Debug, Clone, Copy)]
enum Exchange {
    Color,
    Texture,
    Size,
}

/// All statements that differ from `statement` by one exchange, are false of the scene however leniently
/// they are read, and name no pair of `forbidden`.
pub(super) fn negatives(statement: &Statement, view: View, forbidden: Option<&HeldOut>) -> Vec<Statement> {
    let candidates = match statement {
        Statement::Inventory { items, backdrop } => {
            let lists = exchanged_items(items);
            lists.into_iter().map(|items| Statement::Inventory { items, backdrop: *backdrop }).collect()
        }
        Statement::Related { .. } => exchanged_relation(statement),
        Statement::Placed { subject, place } => {
            let opposite = place.opposite().map(|place| Statement::Placed { subject: *subject, place });
            opposite.into_iter().collect()
        }
    };
    let is_allowed = |candidate: &Statement| {
        forbidden.is_none_or(|held_out| {
            let descriptions = candidate.descriptions();
            let mut pairs = descriptions.iter().filter_map(Description::pair);
            !pairs.any(|pair| held_out.contains(pair))
        })
    };
    let mut negatives: Vec<Statement> = Vec::new();
    for candidate in candidates {
        if is_allowed(&candidate)
            && !repeats_itself(&candidate)
            && !candidate.holds(view, Judgement::Lenient)
            && !negatives.iter().any(|other| says_the_same(other, &candidate))
        {
            negatives.push(candidate);
        }
    }
    negatives
}

/// Whether a list names one description twice: no true caption does, so it would be told by its form.
fn repeats_itself(statement: &Statement) -> bool {
    let Statement::Inventory { items, .. } = statement else {
        return false;
    };
    (1..items.len()).any(|i| items[..i].iter().any(|other| other.1 == items[i].1))
}

/// Whether two statements differ in the order of a list at most.
fn says_the_same(a: &Statement, b: &Statement) -> bool {
    match (a, b) {
        (Statement::Inventory { items: a, .. }, Statement::Inventory { items: b, .. }) => {
            a.len() == b.len() && a.iter().all(|item| b.contains(item))
        }
        _ => a == b,
    }
}

/// The lists with one attribute, or the numbers, of two items exchanged.
fn exchanged_items(items: &[(usize, Description)]) -> Vec<Vec<(usize, Description)>> {
    let mut lists = Vec::new();
    for second in 1..items.len() {
        for first in 0..second {
            let ((n, a), (m, b)) = (items[first], items[second]);
            let mut push = |x, y| {
                let mut list = items.to_vec();
                (list[first], list[second]) = (x, y);
                lists.push(list);
            };
            for (a, b) in exchanged(a, b) {
                push((n, a), (m, b));
            }
            if n != m {
                push((m, a), (n, b));
            }
        }
    }
    lists
}

/// The converse relation, the ends exchanged, and the attributes of the ends exchanged.
fn exchanged_relation(statement: &Statement) -> Vec<Statement> {
    let &Statement::Related { subject, relation, object } = statement else {
        return Vec::new();
    };
    let related = |subject, relation, object| Statement::Related { subject, relation, object };
    let mut statements = vec![related(subject, relation.converse(), object), related(object, relation, subject)];
    for (a, b) in exchanged(subject, object) {
        statements.push(related(a, relation, b));
    }
    statements
}

/// The two descriptions with each attribute exchanged that both have and that differs.
fn exchanged(a: Description, b: Description) -> Vec<(Description, Description)> {
    [Exchange::Color, Exchange::Texture, Exchange::Size]
        .into_iter()
        .filter_map(|exchange| {
            let (mut x, mut y) = (a, b);
            let both = match exchange {
                Exchange::Color => {
                    (x.color, y.color) = (b.color, a.color);
                    a.color.is_some() && b.color.is_some()
                }
                Exchange::Texture => {
                    (x.texture, y.texture) = (b.texture, a.texture);
                    a.texture.is_some() && b.texture.is_some()
                }
                Exchange::Size => {
                    (x.size, y.size) = (b.size, a.size);
                    a.size.is_some() && b.size.is_some()
                }
            };
            (both && x != a).then_some((x, y))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::attributes::{Color, Shape};

    #[test]
    fn an_exchange_keeps_the_bag_of_attributes() {
        let red = Description { color: Some(Color::Red), shape: Some(Shape::Circle), ..Description::default() };
        let blue = Description { color: Some(Color::Blue), shape: Some(Shape::Square), ..Description::default() };
        let lists = exchanged_items(&[(1, red), (2, blue)]);
        let swapped = |color, shape| Description { color: Some(color), shape: Some(shape), ..Description::default() };
        assert_eq!(
            lists,
            [
                vec![(1, swapped(Color::Blue, Shape::Circle)), (2, swapped(Color::Red, Shape::Square))],
                vec![(2, red), (1, blue)],
            ]
        );
    }
}
