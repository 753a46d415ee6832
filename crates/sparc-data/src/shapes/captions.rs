//! Captions, phrases and hard negatives of a scene.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::attributes::{Color, Shape};
use super::holdout::HeldOut;
use super::negatives::negatives;
use super::render::Rendered;
use super::scene::{Scene, Split, rng};
use super::statement::{Backdrop, Description, Judgement, Place, Relation, Statement, View};
use super::wording::{Form, OPENINGS, Wording};

/// Most negatives to one caption.
const MAX_NEGATIVES: usize = 3;

/// What is said of a scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// True captions, the fullest first.
    pub captions: Vec<String>,
    /// For each object a phrase that fits no other object of the scene.
    pub phrases: Vec<String>,
    /// Captions with versions of them that are false of the scene.
    pub hard_negatives: Vec<HardNegative>,
}

/// A true caption and false ones made of the same words, or of the opposite relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HardNegative {
    /// How the negatives were made.
    pub source: &'static str,
    /// The true caption.
    pub caption: String,
    /// The false captions.
    pub negatives: Vec<String>,
}

/// A statement and the words it is made in.
#[derive(Debug, Clone)]
struct Caption {
    statement: Statement,
    wording: Wording,
}

/// Describes a scene; positions are those of the boxes of `rendered`.
///
/// # Panics
///
/// When `rendered` has fewer boxes than the scene has objects.
pub fn describe(scene: &Scene, rendered: &Rendered) -> Annotation {
    let view = View { scene, boxes: &rendered.boxes };
    let mut rng = rng(scene.seed, b"captions", scene.split, scene.index);
    let held_out = (scene.split == Split::Train).then(|| HeldOut::new(scene.seed));
    let mut captions: Vec<String> = Vec::new();
    let mut hard_negatives = Vec::new();
    for caption in draw(view, &mut rng) {
        let text = caption.wording.text(&caption.statement);
        if captions.contains(&text) {
            continue;
        }
        let mut false_statements = negatives(&caption.statement, view, held_out.as_ref());
        false_statements.shuffle(&mut rng);
        false_statements.truncate(MAX_NEGATIVES);
        if !false_statements.is_empty() {
            let texts = false_statements.iter().map(|negative| caption.wording.text(negative));
            hard_negatives.push(HardNegative {
                source: "shapes_swap",
                caption: text.clone(),
                negatives: texts.collect(),
            });
        }
        captions.push(text);
    }
    let phrase = |index| Wording::usual().phrase(&Description::unique(view, index), 1);
    Annotation { captions, phrases: (0..scene.objects.len()).map(phrase).collect(), hard_negatives }
}

/// One caption of each family that the scene allows, the fullest first.
fn draw(view: View, rng: &mut ChaCha8Rng) -> Vec<Caption> {
    let opening = *OPENINGS.choose(rng).expect("openings are many");
    let mut families = vec![
        (full(view, rng), Form::Sentence("")),
        (simple(view, rng), Form::Sentence(opening)),
        (terse(view, rng), Form::Terse),
    ];
    if view.scene.objects.len() > 1 {
        families.push((counts(view, rng), Form::Counting));
    } else {
        families.push((partial(view, rng), Form::Sentence(opening)));
    }
    let relation = related(view, rng);
    families.push((shapes(view, rng), Form::Terse));
    families.push((colors(view, rng), Form::Terse));
    let positions = if relation.is_some() && rng.random_bool(0.8) { relation } else { placed(view, rng).or(relation) };
    families.extend(positions.map(|statement| (statement, Form::Sentence(""))));
    families.into_iter().map(|(statement, form)| Caption { statement, wording: Wording::draw(rng, form) }).collect()
}

/// All objects in an order of their own for each caption.
fn order(view: View, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..view.scene.objects.len()).collect();
    order.shuffle(rng);
    order
}

/// All attributes of all objects, and the background.
fn full(view: View, rng: &mut ChaCha8Rng) -> Statement {
    let items = order(view, rng).into_iter().map(|index| (1, Description::full(view, index)));
    let background = &view.scene.background;
    Statement::Inventory {
        items: items.collect(),
        backdrop: Some(Backdrop { tone: Some(background.tone), kind: background.kind }),
    }
}

/// Colours and shapes; equal pairs are counted.
fn simple(view: View, rng: &mut ChaCha8Rng) -> Statement {
    let single = view.scene.objects.len() == 1;
    let backdrop =
        (single || rng.random_bool(0.2)).then_some(Backdrop { tone: None, kind: view.scene.background.kind });
    Statement::Inventory { items: grouped(view, rng, |index| Description::simple(view, index)), backdrop }
}

fn terse(view: View, rng: &mut ChaCha8Rng) -> Statement {
    Statement::Inventory { items: grouped(view, rng, |index| Description::simple(view, index)), backdrop: None }
}

/// Shapes alone: each word names a part of the image of its own, as most nouns of captions do.
fn shapes(view: View, rng: &mut ChaCha8Rng) -> Statement {
    let shape = |index: usize| Some(view.scene.objects[index].shape);
    let items = grouped(view, rng, |index| Description { shape: shape(index), ..Description::default() });
    Statement::Inventory { items, backdrop: None }
}

/// Colours alone.
fn colors(view: View, rng: &mut ChaCha8Rng) -> Statement {
    let color = |index: usize| Some(view.scene.objects[index].color);
    let items = grouped(view, rng, |index| Description { color: color(index), ..Description::default() });
    Statement::Inventory { items, backdrop: None }
}

/// How many objects there are of each shape, of each colour, or of each pair.
fn counts(view: View, rng: &mut ChaCha8Rng) -> Statement {
    let only = |color: Option<Color>, shape: Option<Shape>| Description { color, shape, ..Description::default() };
    let objects = &view.scene.objects;
    let by_shape = grouped(view, rng, |index| only(None, Some(objects[index].shape)));
    let by_color = grouped(view, rng, |index| only(Some(objects[index].color), None));
    let by_pair = grouped(view, rng, |index| Description::simple(view, index));
    let all = [by_shape, by_color, by_pair];
    // Groupings with something to count come first.
    let counting: Vec<_> = all.iter().filter(|items| items.iter().any(|item| item.0 > 1)).collect();
    let items = counting.choose(rng).copied().unwrap_or(&all[0]).clone();
    Statement::Inventory { items, backdrop: None }
}

/// Some of the attributes of the only object.
fn partial(view: View, rng: &mut ChaCha8Rng) -> Statement {
    let mut item = Description::full(view, 0);
    match rng.random_range(0..4) {
        0 => (item.size, item.texture) = (None, None),
        1 => (item.size, item.color) = (None, None),
        2 => (item.texture, item.color) = (None, None),
        _ => item.size = None,
    }
    Statement::Inventory { items: vec![(1, item)], backdrop: None }
}

/// Two objects that words can tell from all others, one clearly beside the other.
fn related(view: View, rng: &mut ChaCha8Rng) -> Option<Statement> {
    let n = view.scene.objects.len();
    let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
    let candidates: Vec<(usize, usize, Relation)> = pairs
        .filter(|(a, b)| a != b)
        .flat_map(|(a, b)| Relation::ALL.map(|relation| (a, b, relation)))
        .filter(|&(a, b, relation)| relation.holds(view.boxes[a], view.boxes[b], Judgement::Clear))
        .collect();
    let &(a, b, relation) = candidates.choose(rng)?;
    Some(Statement::Related { subject: Description::unique(view, a), relation, object: Description::unique(view, b) })
}

/// An object that is clearly in one part of the image.
fn placed(view: View, rng: &mut ChaCha8Rng) -> Option<Statement> {
    let objects = 0..view.scene.objects.len();
    let candidates: Vec<(usize, Place)> = objects
        .flat_map(|index| Place::ALL.map(|place| (index, place)))
        .filter(|&(index, place)| place.holds(view.boxes[index], Judgement::Clear))
        .collect();
    let &(index, place) = candidates.choose(rng)?;
    Some(Statement::Placed { subject: Description::unique(view, index), place })
}

/// The objects' descriptions with equal ones counted, in random order.
fn grouped(view: View, rng: &mut ChaCha8Rng, describe: impl Fn(usize) -> Description) -> Vec<(usize, Description)> {
    let mut items: Vec<(usize, Description)> = Vec::new();
    for description in order(view, rng).into_iter().map(describe) {
        match items.iter_mut().find(|item| item.1 == description) {
            Some(item) => item.0 += 1,
            None => items.push((1, description)),
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::parse::parse;
    use crate::shapes::render::render;
    use crate::shapes::scene::scene;

    fn each(n: usize, mut check: impl FnMut(View, &Annotation)) {
        for split in Split::ALL {
            for index in 0..n {
                let scene = scene(11, split, index);
                let drawn = render(&scene, 40);
                let view = View { scene: &scene, boxes: &drawn.boxes };
                check(view, &describe(&scene, &drawn));
            }
        }
    }

    #[test]
    fn captions_are_true_when_read_back() {
        let mut n_captions = 0;
        each(300, |view, annotation| {
            for caption in &annotation.captions {
                let statement = parse(caption).unwrap();
                assert!(statement.holds(view, Judgement::Clear), "{caption}: {:?}", view.scene);
                // What is listed or counted is all there is of it.
                if let Statement::Inventory { items, .. } = statement {
                    for (n, item) in items {
                        let mut n_found = item.count(view);
                        // In the full list two entries may describe two objects of one pair.
                        if item.texture.is_some() && item.size.is_some() {
                            n_found = n;
                        }
                        assert_eq!(n, n_found, "{caption}");
                    }
                }
            }
            n_captions += annotation.captions.len();
        });
        let mean = n_captions as f64 / 900.0;
        assert!((6.0..7.2).contains(&mean), "{mean} captions to a scene");
    }

    #[test]
    fn the_first_caption_says_everything() {
        each(100, |view, annotation| {
            let Statement::Inventory { items, backdrop } = parse(&annotation.captions[0]).unwrap() else {
                panic!("{} is no list", annotation.captions[0]);
            };
            assert_eq!(items.len(), view.scene.objects.len());
            assert!(backdrop.is_some_and(|backdrop| backdrop.tone.is_some()));
            for index in 0..view.scene.objects.len() {
                assert!(items.contains(&(1, Description::full(view, index))));
            }
        });
    }

    #[test]
    fn phrases_identify_their_objects() {
        each(300, |view, annotation| {
            for (index, phrase) in annotation.phrases.iter().enumerate() {
                let Statement::Inventory { items, .. } = parse(phrase).unwrap() else {
                    panic!("{phrase} is no description");
                };
                assert!(items[0].1.fits(view, index) && items[0].1.pair().is_some());
                assert_eq!(items[0].1.count(view), 1, "{phrase}");
            }
        });
    }

    #[test]
    fn negatives_are_false_and_made_of_the_same_words() {
        let (mut n_scenes, mut n_with) = (0, 0);
        each(300, |view, annotation| {
            if view.scene.objects.len() > 1 {
                n_scenes += 1;
                n_with += usize::from(!annotation.hard_negatives.is_empty());
            }
            for group in &annotation.hard_negatives {
                assert!(annotation.captions.contains(&group.caption));
                assert!((1..=MAX_NEGATIVES).contains(&group.negatives.len()));
                for negative in &group.negatives {
                    let statement = parse(negative).unwrap();
                    assert!(!statement.holds(view, Judgement::Lenient), "{negative} is true");
                    let is_list = matches!(statement, Statement::Inventory { .. });
                    if is_list {
                        assert_eq!(bag(negative), bag(&group.caption));
                    }
                }
            }
        });
        assert!(n_with * 100 > n_scenes * 97, "{n_with} of {n_scenes} scenes of several objects");
    }

    /// The words without number and article.
    fn bag(text: &str) -> Vec<String> {
        let mut words: Vec<String> = text
            .split([' ', ','])
            .filter(|word| !matches!(*word, "a" | "an" | "is" | "are" | ""))
            .map(|word| match word {
                "shapes" => "shape".into(),
                word => Shape::ALL
                    .iter()
                    .find(|shape| shape.plural() == word)
                    .map_or(word.to_owned(), |shape| shape.name().to_owned()),
            })
            .collect();
        words.sort();
        words
    }

    #[test]
    fn training_text_names_no_held_out_pair() {
        let held_out = HeldOut::new(11);
        let mut n_named = 0;
        each(400, |view, annotation| {
            let negatives = annotation.hard_negatives.iter().flat_map(|group| &group.negatives);
            let texts = annotation.captions.iter().chain(&annotation.phrases);
            for text in texts.chain(negatives) {
                for pair in parse(text).unwrap().descriptions().iter().filter_map(Description::pair) {
                    if held_out.contains(pair) {
                        assert_ne!(view.scene.split, Split::Train, "{text}");
                        n_named += 1;
                    }
                }
            }
        });
        assert!(n_named > 1000, "val and test name held-out pairs");
    }

    #[test]
    fn all_families_and_registers_occur() {
        let mut seen = std::collections::HashSet::new();
        each(200, |_, annotation| {
            for caption in &annotation.captions {
                let words = [
                    " left of ",
                    " above ",
                    " under ",
                    " below ",
                    "two ",
                    "three ",
                    "an orange",
                    " big ",
                    "checkered",
                    "there are",
                    "on the left",
                    "middle",
                    "circles",
                    "crosses",
                    "shapes",
                    "picture of",
                ];
                let padded = format!(" {caption} ");
                seen.extend(words.into_iter().filter(|word| padded.contains(word)));
            }
        });
        assert_eq!(seen.len(), 16, "{seen:?}");
    }
}
