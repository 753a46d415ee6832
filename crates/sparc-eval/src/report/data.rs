//! What the page shows, as plain data.

use image::RgbImage;

use super::metric::MetricRow;

/// Everything on the page. Sections whose list is empty are left out.
#[derive(Debug, Clone, Default)]
pub struct ReportData {
    /// The heading.
    pub title: String,
    /// One sentence under the heading.
    pub subtitle: String,
    /// The commands that were run, shown as code.
    pub commands: Vec<String>,
    /// What was run, as name and value: steps, seconds, model size.
    pub facts: Vec<(String, String)>,
    /// The methods compared, baseline first, as they are to be shown; this order gives the colours.
    pub methods: Vec<String>,
    /// The metric table's rows; `values` are in the order of `methods`.
    pub metrics: Vec<MetricRow>,
    /// Curves, one chart for each group of series.
    pub curves: Vec<Chart>,
    /// Images whose captions show where each token looks.
    pub gallery: Vec<GalleryItem>,
    /// Further pictures, such as segmentations.
    pub pictures: Vec<Picture>,
}

/// Lines over one pair of axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// The heading.
    pub title: String,
    /// What runs along the horizontal axis, for example `step`.
    pub x_label: String,
    /// What runs along the vertical axis, for example `loss`.
    pub y_label: String,
    /// Whether the vertical axis is logarithmic; points that are not positive are then left out.
    pub log_y: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// One method's line.
#[derive(Debug, Clone)]
pub struct Series {
    /// A name out of [`ReportData::methods`].
    pub method: String,
    /// The points; they are sorted by `x`, and non-finite ones are left out.
    pub points: Vec<(f64, f64)>,
}

/// One image with its caption and each method's weights.
#[derive(Debug, Clone)]
pub struct GalleryItem {
    /// The image as the networks saw it.
    pub image: RgbImage,
    /// The sample's key.
    pub key: String,
    /// Height and width of the patch grid.
    pub grid: (usize, usize),
    /// The caption's tokens as the tokenizer writes them.
    pub token_pieces: Vec<String>,
    /// One entry for each method to compare.
    pub heatmaps: Vec<MethodHeatmaps>,
    /// A remark under the caption; may be empty.
    pub note: String,
}

/// One method's weights for the tokens of one caption.
#[derive(Debug, Clone)]
pub struct MethodHeatmaps {
    /// A name out of [`ReportData::methods`].
    pub method: String,
    /// For each token one weight a patch, row by row from the top left. Shown relative to the token's
    /// largest; 0, negative and non-finite weights are patches left out.
    pub weights: Vec<Vec<f32>>,
}

/// A picture with a heading and a text.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The heading.
    pub title: String,
    /// The picture.
    pub image: RgbImage,
    /// What it shows.
    pub text: String,
}
