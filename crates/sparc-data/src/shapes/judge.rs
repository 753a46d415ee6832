//! What generated captions say of scenes, checked against the scenes.
//!
//! A sample's key names its split and number, and the file beside the shards the seed: the scene is drawn again, and
//! the caption, read back into a statement, judged by it. Positions are judged leniently: what could be meant is right.

use std::path::Path;

use super::metadata::config_of;
use super::parse::parse;
use super::render::render;
use super::scene::{Object, Scene, Split, scene};
use super::statement::{Description, Judgement, Statement, View};

/// Judges captions of one data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judge {
    seed: u64,
    image_size: usize,
}

/// What one caption says of its scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Whether it is a sentence of Shapes. If not, nothing was said.
    pub is_parsed: bool,
    /// Whether all that it says is true. Counts are lower bounds.
    pub is_true: bool,
    /// Objects said, each as often as it is counted.
    pub n_said: usize,
    /// Most of them that fit objects of the scene, each one of its own.
    pub n_right: usize,
    /// Objects of the scene.
    pub n_objects: usize,
    /// Colours, shapes, sizes, textures and properties of the background said.
    pub n_attributes: usize,
    /// Most of them that are right, each said object being one of the scene's.
    pub n_right_attributes: usize,
    /// Whether the relation or place said holds, of a caption that says one.
    pub position: Option<bool>,
}

impl Judge {
    /// The judge of the data set in a folder; none where it holds another one.
    pub fn of(folder: &Path) -> Option<Judge> {
        config_of(folder).map(|config| Judge { seed: config.seed, image_size: config.image_size })
    }

    /// Judges a caption of the sample with this key; none where no sample of Shapes has such a key.
    pub fn judge(&self, key: &str, caption: &str) -> Option<Verdict> {
        let (split, index) = key.split_once('-')?;
        let split = Split::ALL.iter().copied().find(|other| other.name() == split)?;
        let scene = scene(self.seed, split, index.parse().ok()?);
        let rendered = render(&scene, self.image_size);
        Some(verdict(View { scene: &scene, boxes: &rendered.boxes }, caption))
    }
}

fn verdict(view: View, caption: &str) -> Verdict {
    let objects = &view.scene.objects;
    let nothing = Verdict { n_objects: objects.len(), ..Verdict::default() };
    let Ok(statement) = parse(caption.trim()) else { return nothing };
    let (said, background) = match &statement {
        Statement::Inventory { items, backdrop } => {
            let each = items.iter().flat_map(|(n, item)| std::iter::repeat_n(*item, *n));
            (each.collect(), background_attributes(view.scene, backdrop.as_ref()))
        }
        Statement::Related { .. } | Statement::Placed { .. } => (statement.descriptions(), (0, 0)),
    };
    let position = match statement {
        Statement::Inventory { .. } => None,
        Statement::Related { .. } | Statement::Placed { .. } => Some(statement.holds(view, Judgement::Lenient)),
    };
    let right = |description: &Description, object: &Object| attributes(description, object).1;
    let fits = |description: &Description, object: &Object| {
        let (n, n_right) = attributes(description, object);
        usize::from(n == n_right)
    };
    Verdict {
        is_parsed: true,
        is_true: statement.holds(view, Judgement::Lenient),
        n_said: said.len(),
        n_right: best_assignment(&said, objects, &mut Vec::new(), &fits),
        n_objects: objects.len(),
        n_attributes: background.0 + said.iter().map(|item| attributes(item, &objects[0]).0).sum::<usize>(),
        n_right_attributes: background.1 + best_assignment(&said, objects, &mut Vec::new(), &right),
        position,
    }
}

/// How many attributes a description has, and how many of them the object has.
fn attributes(description: &Description, object: &Object) -> (usize, usize) {
    let checks = [
        description.color.map(|color| color == object.color),
        description.shape.map(|shape| shape == object.shape),
        description.size.map(|size| size == object.size),
        description.texture.map(|texture| texture == object.texture),
    ];
    let checks = checks.into_iter().flatten();
    checks.fold((0, 0), |(n, n_right), is_right| (n + 1, n_right + usize::from(is_right)))
}

fn background_attributes(scene: &Scene, backdrop: Option<&super::statement::Backdrop>) -> (usize, usize) {
    let Some(backdrop) = backdrop else { return (0, 0) };
    let tone = backdrop.tone.map(|tone| tone == scene.background.tone);
    let checks = tone.into_iter().chain([backdrop.kind == scene.background.kind]);
    checks.fold((0, 0), |(n, n_right), is_right| (n + 1, n_right + usize::from(is_right)))
}

/// The highest sum of `score` over the descriptions that are given an object of their own; some may get none.
fn best_assignment(
    said: &[Description],
    objects: &[Object],
    taken: &mut Vec<usize>,
    score: &dyn Fn(&Description, &Object) -> usize,
) -> usize {
    let Some((first, rest)) = said.split_first() else { return 0 };
    let mut best = best_assignment(rest, objects, taken, score);
    for index in 0..objects.len() {
        let own = score(first, &objects[index]);
        if own > 0 && !taken.contains(&index) {
            taken.push(index);
            best = best.max(own + best_assignment(rest, objects, taken, score));
            taken.pop();
        }
    }
    best
}

/// Verdicts of many captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    n_captions: usize,
    n_parsed: usize,
    n_true: usize,
    n_said: usize,
    n_right: usize,
    n_objects: usize,
    n_attributes: usize,
    n_right_attributes: usize,
    n_positions: usize,
    n_right_positions: usize,
}

impl Tally {
    /// Adds a verdict.
    pub fn add(&mut self, verdict: &Verdict) {
        self.n_captions += 1;
        self.n_parsed += usize::from(verdict.is_parsed);
        self.n_true += usize::from(verdict.is_true);
        self.n_said += verdict.n_said;
        self.n_right += verdict.n_right;
        self.n_objects += verdict.n_objects;
        self.n_attributes += verdict.n_attributes;
        self.n_right_attributes += verdict.n_right_attributes;
        self.n_positions += usize::from(verdict.position.is_some());
        self.n_right_positions += usize::from(verdict.position == Some(true));
    }

    /// Keys and shares, in a fixed order; a share of nothing is left out.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        let shares = [
            ("shapes_parsed", self.n_parsed, self.n_captions),
            ("shapes_true", self.n_true, self.n_captions),
            ("shapes_object_precision", self.n_right, self.n_said),
            ("shapes_object_recall", self.n_right, self.n_objects),
            ("shapes_attribute_precision", self.n_right_attributes, self.n_attributes),
            ("shapes_position_precision", self.n_right_positions, self.n_positions),
        ];
        shares.into_iter().filter(|(.., of)| *of > 0).map(|(key, n, of)| (key, n as f64 / of as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{Color, Shape, describe};

    /// A red circle to the left of a blue square.
    fn two() -> (Scene, [[f32; 4]; 2]) {
        let mut scene = scene(0, Split::Train, 0);
        let mut second = scene.objects[0].clone();
        scene.objects.truncate(1);
        (scene.objects[0].color, scene.objects[0].shape) = (Color::Red, Shape::Circle);
        (second.color, second.shape) = (Color::Blue, Shape::Square);
        scene.objects.push(second);
        (scene, [[0.1, 0.4, 0.3, 0.6], [0.7, 0.4, 0.9, 0.6]])
    }

    fn judged(caption: &str) -> Verdict {
        let (scene, boxes) = two();
        verdict(View { scene: &scene, boxes: &boxes }, caption)
    }

    #[test]
    fn verdicts_by_hand() {
        for (caption, is_true, said, right, attributes, right_attributes, position) in [
            ("a red circle and a blue square", true, 2, 2, 4, 4, None),
            ("a red circle and a blue circle", false, 2, 1, 4, 3, None),
            ("a blue circle and a red square", false, 2, 0, 4, 2, None),
            ("a red circle, a red circle and a red circle", false, 3, 1, 6, 2, None),
            ("two shapes", true, 2, 2, 0, 0, None),
            ("a red circle left of a blue square", true, 2, 2, 4, 4, Some(true)),
            ("a red circle to the right of a blue square", false, 2, 2, 4, 4, Some(false)),
            ("a blue square on the right", true, 1, 1, 2, 2, Some(true)),
        ] {
            let expected = Verdict {
                is_parsed: true,
                is_true,
                n_said: said,
                n_right: right,
                n_objects: 2,
                n_attributes: attributes,
                n_right_attributes: right_attributes,
                position,
            };
            assert_eq!(judged(caption), expected, "{caption}");
        }
    }

    #[test]
    fn what_is_no_sentence_says_nothing() {
        for caption in
            ["", "a", "an", "red circle the", "a dog on a beach", "a red circle on a", "two", "a red left of a"]
        {
            assert_eq!(judged(caption), Verdict { n_objects: 2, ..Verdict::default() }, "{caption}");
        }
    }

    #[test]
    fn true_captions_are_judged_true_and_swapped_ones_seldom() {
        let judge = Judge { seed: 3, image_size: 64 };
        let (mut own, mut other) = (Tally::default(), Tally::default());
        for index in 0..40 {
            let scene = scene(3, Split::Test, index);
            for caption in describe(&scene, &render(&scene, 64)).captions {
                own.add(&judge.judge(&format!("test-{index:08}"), &caption).unwrap());
                other.add(&judge.judge(&format!("test-{:08}", (index + 1) % 40), &caption).unwrap());
            }
        }
        let value = |tally: &Tally, key: &str| tally.metrics().into_iter().find(|(k, _)| *k == key).unwrap().1;
        for key in ["shapes_parsed", "shapes_true", "shapes_object_precision", "shapes_attribute_precision"] {
            assert_eq!(value(&own, key), 1.0, "{key}");
        }
        assert!(value(&other, "shapes_true") < 0.2 && value(&other, "shapes_parsed") == 1.0);
        assert_eq!(judge.judge("coco-17", "a red circle"), None);
        assert_eq!(Tally::default().metrics(), []);
    }
}
