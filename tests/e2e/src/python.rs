//! The Python interpreter that has the client libraries (safetensors, numpy).
//!
//! Driven by whatever runs Python clients. A missing interpreter is a failure that says how to get one, never a
//! skipped test.

use std::ffi::OsString;

use anyhow::Context;

/// Names the interpreter.
pub const VARIABLE: &str = "OSSC_TEST_PYTHON";

/// The interpreter, from [`VARIABLE`].
pub fn interpreter() -> anyhow::Result<OsString> {
    std::env::var_os(VARIABLE).with_context(|| {
        format!("{VARIABLE} names no Python with safetensors and numpy: run `cargo xtask setup`, or `cargo xtask test`, which sets it")
    })
}
