//! Numbers and pictures from features.
//!
//! [`metrics`] are pure functions on `ndarray`; [`tasks`] run a network through the narrow traits of
//! sparc-core and call the metrics; [`report`] writes tables, JSON and the HTML page; [`draw`] paints
//! heatmaps and alignment sheets.

pub mod draw;
pub mod metrics;
pub mod report;
pub mod tasks;
