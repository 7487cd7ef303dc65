//! End-to-end tests, one module per promise.
//!
//! They need root, loop devices, the mkfs programs of the file systems, and a Python with safetensors and numpy;
//! `cargo xtask setup` installs what is missing. None of them is skipped where something is missing: it fails.

mod reader_itself;
