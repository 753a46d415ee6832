//! `cargo +nightly fuzz run image_header`; what is checked stands in `fuzz/targets.rs`.

#![no_main]

#[path = "../targets.rs"]
#[expect(dead_code, reason = "a program for each target")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::image_header(bytes);
});
