//! What an evaluation leaves behind: tables for the terminal, `summary.json` and `report.html`.
//!
//! The page is one file that needs no network: style, script, pictures and weights are inside it.
//! Files are written to a temporary name, synced and renamed, so that a reader never sees half of one.

mod atomic;
mod chart;
mod data;
mod gallery;
mod html;
mod metric;
mod metric_html;
mod page;
mod rows;
mod scale;
mod summary;
mod table;

pub use data::{Chart, GalleryItem, MethodHeatmaps, Picture, ReportData, Series};
pub use metric::{Better, MetricInfo, MetricRow, Unit, metric_info};
pub use page::{render_html, write_report};
pub use rows::metric_rows;
pub use summary::{Summary, write_summary};
pub use table::{markdown_table, text_table};

use std::path::PathBuf;

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file system refused.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture could not be encoded.
    #[error("cannot encode the picture `{name}`")]
    Picture {
        /// The gallery item's key or the picture's title.
        name: String,
        /// What the encoder said.
        source: image::ImageError,
    },
    /// Parts of the data do not fit together.
    #[error("{0}")]
    Mismatch(String),
}
