//! Criterion benches of sparc; see `objectives.rs`.
