//! What can be said of an object and of a background: closed sets, their words and their classes.

use serde::Serialize;

/// A closed set whose members have a name and a place in a fixed order.
macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$member_doc])* $member),+ }

        impl $name {
            /// All members, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$member),+];

            /// The usual word.
            pub fn name(self) -> &'static str {
                match self { $(Self::$member => $word),+ }
            }
        }
    };
}

attribute! {
    /// The outline of an object.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square, turned by a few degrees at most.
        Square = "square",
        /// An isosceles triangle that points up.
        Triangle = "triangle",
        /// A five-pointed star.
        Star = "star",
        /// A plus sign.
        Cross = "cross",
        /// A disc with a round hole through which the background shows.
        Ring = "ring",
        /// A rhombus, taller than wide.
        Diamond = "diamond",
        /// A heart.
        Heart = "heart",
    }
}

attribute! {
    /// The colour of an object; its texture is drawn in a darker tone of the same hue.
    Color {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Cyan.
        Cyan = "cyan",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// Pink.
        Pink = "pink",
    }
}

attribute! {
    /// The extent of an object; the ranges of the radii are far apart.
    Size {
        /// About a fifth of the image's width.
        Small = "small",
        /// About a third of the image's width.
        Medium = "medium",
        /// About half of the image's width.
        Large = "large",
    }
}

attribute! {
    /// How an object is filled.
    Texture {
        /// One colour.
        Solid = "solid",
        /// Dark and bright stripes.
        Striped = "striped",
        /// Dark dots.
        Dotted = "dotted",
        /// A checkerboard of dark and bright cells.
        Checked = "checked",
    }
}

attribute! {
    /// How a background is drawn.
    BackgroundKind {
        /// One muted colour.
        Plain = "plain",
        /// From one muted colour to another.
        Gradient = "gradient",
        /// Fine random grain.
        Noisy = "noisy",
        /// Coarse soft blotches.
        Mottled = "mottled",
    }
}

attribute! {
    /// The brightness of a background.
    Tone {
        /// Bright.
        Light = "light",
        /// Dim.
        Dark = "dark",
    }
}

/// A colour and a shape together: what is held out, and the class of an object.
pub type Pair = (Color, Shape);

/// Number of (colour, shape) classes.
pub const N_CLASSES: usize = Color::ALL.len() * Shape::ALL.len();

/// Index of a (colour, shape) class: row-major, colours first.
pub fn class_index((color, shape): Pair) -> usize {
    color as usize * Shape::ALL.len() + shape as usize
}

/// The pair of a class index.
///
/// # Panics
///
/// When `class` is not below [`N_CLASSES`].
pub fn class_pair(class: usize) -> Pair {
    assert!(class < N_CLASSES, "class {class} of {N_CLASSES}");
    let n_shapes = Shape::ALL.len();
    (Color::ALL[class / n_shapes], Shape::ALL[class % n_shapes])
}

/// Name of a class, such as `red circle`.
///
/// # Panics
///
/// When `class` is not below [`N_CLASSES`].
pub fn class_name(class: usize) -> String {
    let (color, shape) = class_pair(class);
    format!("{} {}", color.name(), shape.name())
}

impl Shape {
    /// The plural.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Triangle => "triangles",
            Self::Star => "stars",
            Self::Cross => "crosses",
            Self::Ring => "rings",
            Self::Diamond => "diamonds",
            Self::Heart => "hearts",
        }
    }
}

impl Color {
    /// Hue in degrees, saturation and value before jitter: eight anchors that stay apart under it.
    pub(super) fn hsv(self) -> [f64; 3] {
        match self {
            Self::Red => [357.0, 0.87, 0.87],
            Self::Orange => [28.0, 0.95, 0.98],
            Self::Yellow => [55.0, 0.82, 0.98],
            Self::Green => [128.0, 0.72, 0.68],
            Self::Cyan => [184.0, 0.62, 0.93],
            Self::Blue => [223.0, 0.80, 0.90],
            Self::Purple => [276.0, 0.72, 0.70],
            Self::Pink => [330.0, 0.42, 0.99],
        }
    }
}

impl Size {
    /// Range of the radius, as a fraction of the image's width. At 64 pixels the smallest object is
    /// 17 pixels across: texture shows, and two or more patches of 8 pixels see nothing else.
    pub(super) fn radius_range(self) -> (f64, f64) {
        match self {
            Self::Small => (0.135, 0.150),
            Self::Medium => (0.190, 0.210),
            Self::Large => (0.265, 0.290),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_enumerate_colour_major() {
        assert_eq!(N_CLASSES, 64);
        assert_eq!(class_name(0), "red circle");
        assert_eq!(class_name(1), "red square");
        assert_eq!(class_name(8), "orange circle");
        for class in 0..N_CLASSES {
            assert_eq!(class_index(class_pair(class)), class);
        }
    }
}
