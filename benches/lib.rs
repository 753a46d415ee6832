//! What the criterion benches of sparc share; see `objectives.rs` and `generation.rs`.

use std::fs;

/// By how much `run` raises the peak resident memory of this process above what is resident before it, in MiB.
/// Linux only.
///
/// # Panics
///
/// If `/proc` does not tell.
pub fn peak_mib(run: impl FnOnce()) -> f64 {
    fs::write("/proc/self/clear_refs", "5").expect("resetting the peak");
    let before = status_kib("VmRSS");
    run();
    (status_kib("VmHWM") - before) / 1024.0
}

fn status_kib(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("reading /proc/self/status");
    let line = status.lines().find(|line| line.split(':').next() == Some(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).expect("a field in KiB")
}
