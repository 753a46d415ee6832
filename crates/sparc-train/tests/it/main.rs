//! Tests of the binary as a user runs it.

mod bad_input;
mod captions;
mod configs;
mod fine_tuning;
mod fixture;
mod objectives;
mod order;
mod phrases;
mod remote;
mod resume;
mod tasks;
