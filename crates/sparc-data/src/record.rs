//! The project's record format: the members of one sample (see `docs/formats/shards.md`).

use serde::{Deserialize, Serialize};

/// A region as written in a record: `box` is `[x0, y0, x1, y1]` in `[0, 1]` of the stored image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// `x0, y0, x1, y1`, x right, y down.
    #[serde(rename = "box")]
    pub box_xyxy: [f32; 4],
    /// What the box holds.
    pub text: String,
    /// Confidence of a pseudo-label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

impl RegionRecord {
    /// Whether the box has an area and lies inside the image. Coordinates may overshoot by the
    /// rounding of a few decimals.
    pub fn is_inside(&self) -> bool {
        const ROUNDING: f32 = 1e-3;
        let [x0, y0, x1, y1] = self.box_xyxy;
        self.box_xyxy.iter().all(|v| (-ROUNDING..=1.0 + ROUNDING).contains(v)) && x0 < x1 && y0 < y1
    }
}

/// The `.json` member; keys that are not known are ignored, as the format allows.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct RecordJson {
    /// Captions, if the sample has them here instead of in `.txt`.
    #[serde(default)]
    pub captions: Vec<String>,
    /// Regions; no key means not annotated, an empty list annotated and none there.
    #[serde(default)]
    pub regions: Option<Vec<RegionRecord>>,
}
