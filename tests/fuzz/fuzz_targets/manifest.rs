//! Fuzzes `manifest` of `ossc_agent::fuzzing`, where it is described.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ossc_agent::fuzzing::run("manifest", bytes));
