//! What a person sees of a running training: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sparc_data::skips::SkipCounts;

use crate::run::Speed;
use crate::step::StepMetrics;

/// The progress of a training run.
pub struct TrainProgress {
    bar: ProgressBar,
    is_terminal: bool,
    steps: u64,
}

impl TrainProgress {
    /// Starts at step `done` of `steps`.
    pub fn new(steps: u64, done: u64) -> TrainProgress {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = bar(steps, "{bar:28} {pos}/{len} steps  {msg}  {eta} left");
        bar.set_position(done);
        bar.reset_eta();
        TrainProgress { bar, is_terminal, steps }
    }

    /// One more step is done.
    pub fn advance(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Shows the numbers that have just been logged.
    pub fn logged(&self, done: u64, metrics: &StepMetrics, speed: Speed, skips: &SkipCounts) {
        let mut text = format!(
            "loss {:.4}  {:.0} samples/s  {:.0} % waiting for data",
            metrics.get("loss").unwrap_or(f64::NAN),
            speed.samples_per_s,
            100.0 * speed.data_wait_share,
        );
        if !skips.is_empty() {
            text = format!("{text}  {skips}");
        }
        if !self.is_terminal {
            tracing::info!("step {done}/{}  {text}", self.steps);
        }
        self.bar.set_message(text);
    }

    /// Leaves the bar on the screen as it is.
    pub fn finish(&self) {
        self.bar.abandon();
    }
}

/// A bar on standard error; hidden when that is no terminal.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸─"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
