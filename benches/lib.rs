//! What the criterion benches of sparc share; see `objectives.rs`, `generation.rs` and `loader.rs`.

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

/// Seconds that the threads of this process have spent on processors: on a busy machine they say more than
/// the clock. Linux only, in hundredths.
///
/// # Panics
///
/// If `/proc` does not tell.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("reading /proc/self/stat");
    // The name of the program, in parentheses, may have spaces; user and system time are the 14th and 15th field.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().expect("a number of ticks")).sum::<f64>() / 100.0
}

fn status_kib(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("reading /proc/self/status");
    let line = status.lines().find(|line| line.split(':').next() == Some(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).expect("a field in KiB")
}
