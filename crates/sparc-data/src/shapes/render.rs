//! Draws a scene: pixels, instance map, class map and tight boxes.

use super::attributes::{BackgroundKind, Texture, Tone, class_index};
use super::outline;
use super::scene::{Background, Frame, Object, Scene};

/// Sample points a side in each pixel.
const SAMPLES: usize = 4;
/// The brightness of stripes, dots and cells against the object's colour: dark enough to be seen, bright
/// enough to stand out from a dark background, or a striped cross would fall into pieces.
const TEXTURE_TONE: f64 = 0.50;
/// The brightness of the edge, which parts objects of one colour, before a light background.
const EDGE_TONE: f64 = 0.30;
/// The share of white in the edge before a dark background.
const EDGE_TINT: f64 = 0.40;
/// A point whose image under this magnification leaves the shape belongs to the edge.
const EDGE: f64 = 1.09;
/// The same for the rim that dots keep clear of, or they would gnaw at the outline.
const RIM: f64 = 1.24;

/// A drawn scene. All maps have `image_size` rows of `image_size` pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// Width and height in pixels.
    pub image_size: usize,
    /// Red, green, blue of each pixel.
    pub rgb: Vec<u8>,
    /// 0 = background, k = object k-1: what covers most of the pixel.
    pub instances: Vec<u8>,
    /// 0 = background, 1 + class of the object that covers most of the pixel.
    pub classes: Vec<u8>,
    /// For each object the box `x0, y0, x1, y1` around its pixels in `instances`, in `[0, 1]`.
    pub boxes: Vec<[f32; 4]>,
    /// For each object its number of pixels in `instances`.
    pub n_visible: Vec<usize>,
}

/// Draws a scene, with four by four sample points to a pixel.
///
/// # Panics
///
/// When `image_size` is zero.
pub fn render(scene: &Scene, image_size: usize) -> Rendered {
    assert!(image_size > 0, "an image of 0 pixels");
    let owners = paint(&scene.objects, image_size);
    let paints: Vec<Paint> = scene.objects.iter().map(|object| Paint::new(object, scene.background.tone)).collect();
    let mut rendered = Rendered {
        image_size,
        rgb: Vec::with_capacity(3 * image_size * image_size),
        instances: Vec::with_capacity(image_size * image_size),
        classes: Vec::with_capacity(image_size * image_size),
        boxes: Vec::new(),
        n_visible: Vec::new(),
    };
    let fine = image_size * SAMPLES;
    let step = 1.0 / fine as f64;
    let mut counts = vec![0_usize; scene.objects.len() + 1];
    for row in 0..image_size {
        for column in 0..image_size {
            counts.fill(0);
            let mut sum = [0.0; 3];
            for i in 0..SAMPLES * SAMPLES {
                let (x, y) = (column * SAMPLES + i % SAMPLES, row * SAMPLES + i / SAMPLES);
                let owner = owners[y * fine + x];
                counts[usize::from(owner)] += 1;
                if owner > 0 {
                    let (x, y) = ((x as f64 + 0.5) * step, (y as f64 + 0.5) * step);
                    let color = paints[usize::from(owner) - 1].color(x, y);
                    sum = add(sum, color, 1.0);
                }
            }
            if counts[0] > 0 {
                let center = [column, row].map(|i| (i as f64 + 0.5) / image_size as f64);
                let color = background_color(&scene.background, center);
                sum = add(sum, color, counts[0] as f64);
            }
            let n_samples = (SAMPLES * SAMPLES) as f64;
            let pixel = sum.map(|channel| (channel / n_samples * 255.0).round() as u8);
            rendered.rgb.extend(pixel);
            rendered.instances.push(majority(&counts));
        }
    }
    label(&mut rendered, &scene.objects);
    rendered
}

/// Which object, 1-based, owns each sample point; 0 is the background.
fn paint(objects: &[Object], image_size: usize) -> Vec<u8> {
    let fine = image_size * SAMPLES;
    let mut owners = vec![0_u8; fine * fine];
    for (object, owner) in objects.iter().zip(1_u8..) {
        let frame = object.frame();
        let reach = outline::REACH * object.radius;
        let range = |center: f64| {
            let first = ((center - reach) * fine as f64).floor().max(0.0) as usize;
            let last = ((center + reach) * fine as f64).ceil().max(0.0) as usize;
            first..last.min(fine)
        };
        for row in range(object.center[1]) {
            for column in range(object.center[0]) {
                let [x, y] = [column, row].map(|i| (i as f64 + 0.5) / fine as f64);
                let [u, v] = frame.local(x, y);
                if outline::contains(object.shape, u, v) {
                    owners[row * fine + column] = owner;
                }
            }
        }
    }
    owners
}

/// The owner of most samples; among equals the one drawn last.
fn majority(counts: &[usize]) -> u8 {
    let best = counts.iter().enumerate().max_by_key(|&(_, n)| n);
    best.map_or(0, |(owner, _)| owner as u8)
}

/// Fills in what follows from the instance map.
fn label(rendered: &mut Rendered, objects: &[Object]) {
    let size = rendered.image_size;
    let class_of = |owner: u8| match owner {
        0 => 0,
        k => 1 + class_index(objects[usize::from(k) - 1].pair()) as u8,
    };
    rendered.classes = rendered.instances.iter().map(|&k| class_of(k)).collect();
    for k in 1..=objects.len() {
        let (mut x0, mut y0, mut x1, mut y1, mut n) = (size, size, 0, 0, 0);
        for (i, &owner) in rendered.instances.iter().enumerate() {
            if usize::from(owner) == k {
                let (x, y) = (i % size, i / size);
                (x0, y0) = (x0.min(x), y0.min(y));
                (x1, y1) = (x1.max(x + 1), y1.max(y + 1));
                n += 1;
            }
        }
        // An object without a pixel, possible only in images of a few pixels, has the empty box.
        let edges = if n > 0 { [x0, y0, x1, y1] } else { [0; 4] };
        let fraction = |edge: usize| edge as f32 / size as f32;
        rendered.boxes.push(edges.map(fraction));
        rendered.n_visible.push(n);
    }
}

/// An object with its colours ready to mix.
struct Paint<'a> {
    object: &'a Object,
    frame: Frame,
    bright: [f64; 3],
    dark: [f64; 3],
    edge: [f64; 3],
    /// Sine and cosine of the texture's rotation.
    turn: (f64, f64),
}

impl<'a> Paint<'a> {
    fn new(object: &'a Object, tone: Tone) -> Self {
        let bright = rgb(object.hsv);
        Self {
            object,
            frame: object.frame(),
            bright,
            dark: bright.map(|channel| TEXTURE_TONE * channel),
            edge: match tone {
                Tone::Light => bright.map(|channel| EDGE_TONE * channel),
                Tone::Dark => mix(bright, [1.0; 3], EDGE_TINT),
            },
            turn: object.texture_angle.sin_cos(),
        }
    }

    /// Colour at a point of the image that the object covers.
    fn color(&self, x: f64, y: f64) -> [f64; 3] {
        let [u, v] = self.frame.local(x, y);
        if !outline::contains(self.object.shape, EDGE * u, EDGE * v) {
            self.edge
        } else if self.is_dark(u, v) {
            self.dark
        } else {
            self.bright
        }
    }

    /// Whether a point in the frame of the object lies on the dark part of the texture. The periods
    /// are fractions of the radius: coarse enough for the smallest objects at 64 pixels.
    fn is_dark(&self, u: f64, v: f64) -> bool {
        let (sin, cos) = self.turn;
        let (s, t) = (cos * u + sin * v, cos * v - sin * u);
        match self.object.texture {
            Texture::Solid => false,
            Texture::Striped => (s / 0.60 + 0.25).rem_euclid(1.0) < 0.5,
            Texture::Dotted => {
                let offset = |w: f64| (w / 0.52 + 0.5).rem_euclid(1.0) - 0.5;
                offset(s).hypot(offset(t)) < 0.30 && outline::contains(self.object.shape, RIM * u, RIM * v)
            }
            Texture::Checked => ((s / 0.44).floor() + (t / 0.44).floor()).rem_euclid(2.0) < 1.0,
        }
    }
}

fn background_color(background: &Background, [x, y]: [f64; 2]) -> [f64; 3] {
    let [first, second] = background.hsv.map(rgb);
    match background.kind {
        BackgroundKind::Plain => first,
        BackgroundKind::Gradient => {
            let (sin, cos) = background.angle.sin_cos();
            let along = (cos * (x - 0.5) + sin * (y - 0.5)) / 2_f64.sqrt() + 0.5;
            mix(first, second, along)
        }
        BackgroundKind::Noisy => {
            let grain = lattice(background.seed, (64.0 * x) as u64, (64.0 * y) as u64);
            first.map(|channel| (channel + 0.26 * (grain - 0.5)).clamp(0.0, 1.0))
        }
        BackgroundKind::Mottled => {
            let share = smooth_noise(background.seed, 5.0 * x, 5.0 * y);
            let share = ((share - 0.5) * 2.5 + 0.5).clamp(0.0, 1.0);
            mix(first, second, share)
        }
    }
}

/// Value noise: random values at whole points, blended smoothly between them.
fn smooth_noise(seed: u64, x: f64, y: f64) -> f64 {
    let smooth = |w: f64| w * w * (3.0 - 2.0 * w);
    let (column, row) = (x as u64, y as u64);
    let (right, down) = (smooth(x.fract()), smooth(y.fract()));
    let between = |row: u64| {
        let (a, b) = (lattice(seed, column, row), lattice(seed, column + 1, row));
        a + (b - a) * right
    };
    let (above, below) = (between(row), between(row + 1));
    above + (below - above) * down
}

/// A random number in `[0, 1)` for a point of a lattice: SplitMix64's finaliser (Steele et al. 2014).
fn lattice(seed: u64, column: u64, row: u64) -> f64 {
    let mut z = seed.wrapping_add((row << 32 | column).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Hue in degrees, saturation and value to red, green and blue in `[0, 1]`.
fn rgb([hue, saturation, value]: [f64; 3]) -> [f64; 3] {
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + hue / 60.0).rem_euclid(6.0);
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

fn mix(a: [f64; 3], b: [f64; 3], share: f64) -> [f64; 3] {
    [0, 1, 2].map(|channel| a[channel] + (b[channel] - a[channel]) * share)
}

fn add(sum: [f64; 3], color: [f64; 3], weight: f64) -> [f64; 3] {
    [0, 1, 2].map(|channel| sum[channel] + weight * color[channel])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::scene::{Split, scene};

    #[test]
    fn boxes_are_tight_around_the_visible_pixels() {
        for index in 0..60 {
            let scene = scene(1, Split::Train, index);
            let drawn = render(&scene, 64);
            for (k, corners) in drawn.boxes.iter().enumerate() {
                let [x0, y0, x1, y1] = corners.map(|edge| (edge * 64.0) as usize);
                let on = |x: usize, y: usize| usize::from(drawn.instances[y * 64 + x]) == k + 1;
                let outside = |x: usize, y: usize| !((x0..x1).contains(&x) && (y0..y1).contains(&y));
                assert!((0..64 * 64).all(|i| !(on(i % 64, i / 64) && outside(i % 64, i / 64))));
                assert!((y0..y1).any(|y| on(x0, y)) && (y0..y1).any(|y| on(x1 - 1, y)));
                assert!((x0..x1).any(|x| on(x, y0)) && (x0..x1).any(|x| on(x, y1 - 1)));
            }
        }
    }

    #[test]
    fn the_maps_agree_and_objects_stay_visible() {
        for index in 0..200 {
            let scene = scene(2, Split::Test, index);
            let drawn = render(&scene, 64);
            for (&class, &k) in drawn.classes.iter().zip(&drawn.instances) {
                let object = usize::from(k).checked_sub(1).map(|k| &scene.objects[k]);
                let expected = object.map_or(0, |object| 1 + class_index(object.pair()));
                assert_eq!(usize::from(class), expected);
            }
            for (k, object) in scene.objects.iter().enumerate() {
                let alone = Scene { objects: vec![object.clone()], ..scene.clone() };
                let whole = render(&alone, 64).n_visible[0];
                assert!(
                    drawn.n_visible[k] * 100 >= whole * 55,
                    "object {k} of scene {index} shows {} of {whole} pixels",
                    drawn.n_visible[k]
                );
            }
        }
    }

    #[test]
    fn a_larger_image_shows_the_same_scene() {
        for index in 0..20 {
            let scene = scene(3, Split::Val, index);
            let (small, large) = (render(&scene, 64), render(&scene, 160));
            for (a, b) in small.boxes.iter().zip(&large.boxes) {
                for (a, b) in a.iter().zip(b) {
                    assert!((a - b).abs() < 0.03, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn the_conversion_of_colours_hits_the_corners() {
        assert_eq!(rgb([0.0, 1.0, 1.0]), [1.0, 0.0, 0.0]);
        assert_eq!(rgb([120.0, 1.0, 0.5]), [0.0, 0.5, 0.0]);
        assert_eq!(rgb([240.0, 1.0, 1.0]), [0.0, 0.0, 1.0]);
        assert_eq!(rgb([60.0, 0.5, 1.0]), [1.0, 1.0, 0.5]);
        assert_eq!(rgb([77.0, 0.0, 0.25]), [0.25; 3]);
    }
}
