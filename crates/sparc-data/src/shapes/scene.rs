//! What is in a scene and where: a pure function of seed, split and index.

use std::f64::consts::PI;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sparc_core::seed::derive;

use super::attributes::{BackgroundKind, Color, Pair, Shape, Size, Texture, Tone};
use super::holdout::HeldOut;
use super::outline;

/// Most objects in a scene.
pub const MAX_OBJECTS: usize = 4;

/// Least share of an object that the placement leaves visible, counted on [`GRID`] points a side.
/// Rendered at any size, pixels round this to 0.55 at the least.
const MIN_VISIBLE: f64 = 0.60;
/// Points a side on which the placement counts visibility, whatever the image's size.
const GRID: usize = 64;
/// Places tried for one object before the scene is begun anew.
const PLACES_PER_OBJECT: usize = 20;
/// Beginnings before the scene gives up its last object.
const BEGINNINGS: usize = 20;

/// A part of the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training: no held-out pair occurs.
    Train,
    /// Validation: half the objects are of held-out pairs.
    Val,
    /// Test: half the objects are of held-out pairs.
    Test,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// The word in file names and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// One object. Lengths are fractions of the image's width, x right, y down.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Outline.
    pub shape: Shape,
    /// Colour.
    pub color: Color,
    /// Extent.
    pub size: Size,
    /// Filling.
    pub texture: Texture,
    /// Centre of the whole object, hidden parts included.
    pub center: [f64; 2],
    /// Radius.
    pub radius: f64,
    /// Rotation in radians.
    pub angle: f64,
    /// Rotation of the texture against the object, in radians.
    pub texture_angle: f64,
    /// The jittered colour: hue in degrees, saturation, value.
    pub hsv: [f64; 3],
}

impl Object {
    /// The (colour, shape) pair.
    pub fn pair(&self) -> Pair {
        (self.color, self.shape)
    }

    /// The frame in which the object's outline has radius 1.
    pub(super) fn frame(&self) -> Frame {
        let (sin, cos) = self.angle.sin_cos();
        Frame { center: self.center, cos: cos / self.radius, sin: sin / self.radius }
    }

    fn looks_like(&self, other: &Self) -> bool {
        self.pair() == other.pair() && self.size == other.size && self.texture == other.texture
    }
}

/// Takes points of the image to the frame of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    center: [f64; 2],
    /// Cosine and sine of the rotation over the radius.
    cos: f64,
    sin: f64,
}

impl Frame {
    pub(super) fn local(&self, x: f64, y: f64) -> [f64; 2] {
        let (dx, dy) = (x - self.center[0], y - self.center[1]);
        [self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx]
    }
}

/// What lies behind the objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    /// Manner of drawing.
    pub kind: BackgroundKind,
    /// Brightness.
    pub tone: Tone,
    /// The two muted colours it is mixed from (hue in degrees, saturation, value).
    pub hsv: [[f64; 3]; 2],
    /// Direction of a gradient, in radians.
    pub angle: f64,
    /// Seed of grain and blotches.
    pub seed: u64,
}

/// A scene: up to [`MAX_OBJECTS`] objects, later ones drawn over earlier ones, on a background.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Seed of the data set.
    pub seed: u64,
    /// Part of the data set.
    pub split: Split,
    /// Number within the split.
    pub index: usize,
    /// The objects; no two agree in all four attributes, so each can be told by words alone.
    pub objects: Vec<Object>,
    /// The background.
    pub background: Background,
}

/// Scene number `index` of a split: the same for ever, and independent of every other scene.
pub fn scene(seed: u64, split: Split, index: usize) -> Scene {
    let mut rng = rng(seed, b"scene", split, index);
    let held_out = HeldOut::new(seed);
    let mut objects = draw_objects(&mut rng, split, &held_out);
    while !place(&mut rng, &mut objects) {
        objects.pop();
    }
    let background = draw_background(&mut rng);
    Scene { seed, split, index, objects, background }
}

/// Random numbers for one purpose of one sample.
pub(super) fn rng(seed: u64, purpose: &[u8], split: Split, index: usize) -> ChaCha8Rng {
    let index = (index as u64).to_le_bytes();
    let words: [&[u8]; 4] = [b"shapes", purpose, split.name().as_bytes(), &index];
    ChaCha8Rng::seed_from_u64(derive(seed, &words))
}

/// Draws how many objects there are and how they look; [`place`] says where they are.
fn draw_objects(rng: &mut ChaCha8Rng, split: Split, held_out: &HeldOut) -> Vec<Object> {
    let n_objects = match rng.random_range(0..100) {
        0..20 => 1,
        20..55 => 2,
        55..80 => 3,
        _ => MAX_OBJECTS,
    };
    let mut objects: Vec<Object> = Vec::with_capacity(n_objects);
    while objects.len() < n_objects {
        let pair = draw_pair(rng, split, held_out, &objects);
        let object = draw_object(rng, pair, n_objects);
        if !objects.iter().any(|other| other.looks_like(&object)) {
            objects.push(object);
        }
    }
    objects
}

/// Draws a pair that the split may show. Some objects share the shape or the colour of an earlier one:
/// otherwise nothing would be counted, and one attribute would tell every object from the others.
fn draw_pair(rng: &mut ChaCha8Rng, split: Split, held_out: &HeldOut, before: &[Object]) -> Pair {
    let wants_held_out = split != Split::Train && rng.random_bool(0.5);
    let model = before.choose(rng);
    let (shape, color) = match (model, rng.random_range(0..100)) {
        (Some(model), 0..25) => (Some(model.shape), None),
        (Some(model), 25..45) => (None, Some(model.color)),
        _ => (None, None),
    };
    let fits = |&(c, s): &Pair| {
        held_out.contains((c, s)) == wants_held_out
            && shape.is_none_or(|shape| shape == s)
            && color.is_none_or(|color| color == c)
    };
    let all = Color::ALL.iter().flat_map(|&c| Shape::ALL.iter().map(move |&s| (c, s)));
    let pool: Vec<Pair> = all.filter(fits).collect();
    *pool.choose(rng).expect("every colour and every shape has pairs on either side")
}

fn draw_object(rng: &mut ChaCha8Rng, (color, shape): Pair, n_objects: usize) -> Object {
    // Large objects are rarer in company: four of them would not fit.
    let n_large = if n_objects > 2 { 2 } else { 4 };
    let size = match rng.random_range(0..8 + n_large) {
        0..4 => Size::Small,
        4..8 => Size::Medium,
        _ => Size::Large,
    };
    let (smallest, largest) = size.radius_range();
    let [hue, saturation, value] = color.hsv();
    let mut jitter = |width: f64| rng.random_range(-width..width);
    let hsv = [
        (hue + jitter(4.0)).rem_euclid(360.0),
        (saturation + jitter(0.05)).clamp(0.0, 1.0),
        (value * (1.0 + jitter(0.06))).clamp(0.0, 1.0),
    ];
    Object {
        shape,
        color,
        size,
        texture: Texture::ALL[rng.random_range(0..Texture::ALL.len())],
        center: [0.5, 0.5],
        radius: rng.random_range(smallest..largest),
        // At most 11 degrees, so that a square never looks like a diamond nor a plus like an x.
        angle: rng.random_range(-0.19..0.19),
        texture_angle: f64::from(rng.random_range(0..4)) * PI / 4.0,
        hsv,
    }
}

fn draw_background(rng: &mut ChaCha8Rng) -> Background {
    let tone = Tone::ALL[rng.random_range(0..Tone::ALL.len())];
    // The second value lies far enough from the first for a gradient to be seen as one.
    let (value, step) = match tone {
        Tone::Light => (rng.random_range(0.78..0.95), -0.27),
        Tone::Dark => (rng.random_range(0.06..0.20), 0.17),
    };
    let mut muted = |value: f64| [rng.random_range(0.0..360.0), rng.random_range(0.0..0.16), value];
    let hsv = [muted(value), muted(value + step)];
    Background {
        kind: BackgroundKind::ALL[rng.random_range(0..BackgroundKind::ALL.len())],
        tone,
        hsv,
        angle: rng.random_range(0.0..2.0 * PI),
        seed: rng.random(),
    }
}

/// Places the objects so that all stay visible; false where chance does not find such places.
fn place(rng: &mut ChaCha8Rng, objects: &mut [Object]) -> bool {
    (0..BEGINNINGS).any(|_| {
        (1..=objects.len()).all(|n| {
            (0..PLACES_PER_OBJECT).any(|_| {
                let object = &mut objects[n - 1];
                // A sliver may lie beyond the image's edge.
                let margin = 0.9 * object.radius;
                object.center = [(); 2].map(|()| rng.random_range(margin..1.0 - margin));
                objects[..n]
                    .iter()
                    .enumerate()
                    .all(|(i, object)| visible_share(object, &objects[i + 1..n]) >= MIN_VISIBLE)
            })
        })
    })
}

/// Share of the object's grid points, those outside the image included, that are neither hidden by the
/// objects drawn later nor outside.
fn visible_share(object: &Object, over: &[Object]) -> f64 {
    let near = |other: &&Object| {
        let [dx, dy] = [0, 1].map(|axis| object.center[axis] - other.center[axis]);
        dx.hypot(dy) < outline::REACH * (object.radius + other.radius)
    };
    let over: Vec<(Shape, Frame)> = over.iter().filter(near).map(|other| (other.shape, other.frame())).collect();
    let frame = object.frame();
    let step = 1.0 / GRID as f64;
    let reach = outline::REACH * object.radius;
    let range = |center: f64| {
        let first = ((center - reach) / step).floor() as i64;
        first..=((center + reach) / step).ceil() as i64
    };
    let (mut n_points, mut n_visible) = (0_u32, 0_u32);
    for row in range(object.center[1]) {
        for column in range(object.center[0]) {
            let (x, y) = ((column as f64 + 0.5) * step, (row as f64 + 0.5) * step);
            let covers = |shape: Shape, frame: &Frame| {
                let [u, v] = frame.local(x, y);
                outline::contains(shape, u, v)
            };
            if !covers(object.shape, &frame) {
                continue;
            }
            n_points += 1;
            let inside = (0.0..1.0).contains(&x) && (0.0..1.0).contains(&y);
            n_visible += u32::from(inside && !over.iter().any(|(shape, frame)| covers(*shape, frame)));
        }
    }
    f64::from(n_visible) / f64::from(n_points.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_scene_is_a_function_of_its_arguments() {
        assert_eq!(scene(3, Split::Val, 17), scene(3, Split::Val, 17));
        let others = [scene(4, Split::Val, 17), scene(3, Split::Test, 17), scene(3, Split::Val, 18)];
        for other in others {
            assert_ne!(other.objects, scene(3, Split::Val, 17).objects);
        }
    }

    #[test]
    fn training_shows_no_held_out_pair_and_the_others_half() {
        let held_out = HeldOut::new(5);
        for split in Split::ALL {
            let scenes = (0..600).map(|index| scene(5, split, index));
            let pairs: Vec<Pair> = scenes.flat_map(|scene| scene.objects).map(|object| object.pair()).collect();
            let n_held_out = pairs.iter().filter(|&&pair| held_out.contains(pair)).count();
            if split == Split::Train {
                assert_eq!(n_held_out, 0);
            } else {
                let share = n_held_out as f64 / pairs.len() as f64;
                assert!((0.45..0.55).contains(&share), "{split:?}: {share}");
            }
        }
    }

    #[test]
    fn all_attributes_occur_often_in_training() {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut n_objects = [0; MAX_OBJECTS + 1];
        for index in 0..1000 {
            let scene = scene(0, Split::Train, index);
            n_objects[scene.objects.len()] += 1;
            for object in &scene.objects {
                for name in [object.shape.name(), object.color.name(), object.size.name(), object.texture.name()] {
                    *counts.entry(name).or_default() += 1;
                }
            }
        }
        assert_eq!(counts.len(), 8 + 8 + 3 + 4);
        for (name, n) in counts {
            assert!(n > 150, "{name} occurs {n} times in 1000 scenes");
        }
        let expected = [0, 200, 350, 250, 200];
        for (n, (got, expected)) in n_objects.iter().zip(expected).enumerate() {
            assert!((*got as i64 - expected).abs() <= 60, "{got} scenes of {n} objects");
        }
    }

    #[test]
    fn both_ways_to_bind_two_colours_to_two_shapes_occur() {
        let mut bindings: HashMap<(Color, Color, Shape, Shape), usize> = HashMap::new();
        for index in 0..3000 {
            let objects = scene(0, Split::Train, index).objects;
            for a in &objects {
                for b in &objects {
                    if (a.shape as usize) < b.shape as usize && a.color != b.color {
                        let binding = (a.color, b.color, a.shape, b.shape);
                        *bindings.entry(binding).or_default() += 1;
                    }
                }
            }
        }
        let held_out = HeldOut::new(0);
        let may_swap = |&&(a, b, s, t): &&(Color, Color, Shape, Shape)| {
            [(a, s), (b, t), (a, t), (b, s)].iter().all(|&pair| !held_out.contains(pair))
        };
        let swappable: Vec<_> = bindings.keys().filter(may_swap).collect();
        let both = swappable.iter().filter(|&&&(a, b, s, t)| bindings.contains_key(&(b, a, s, t)));
        let share = both.count() as f64 / swappable.len() as f64;
        assert!(swappable.len() > 500 && share > 0.9, "{share} of {}", swappable.len());
    }
}
