//! End-to-end tests, one module per promise.
//!
//! They need root, loop devices, the mkfs programs of the file systems, and a Python with safetensors and numpy;
//! `cargo xtask setup` installs what is missing. None of them is skipped where something is missing: it fails.
//! Start with `readers`, the promise that the others only add to.

mod audit;
mod command;
mod container;
mod crash_storm;
mod demand_first;
mod doctor;
mod durability;
mod errors;
mod evict;
mod failure;
mod faults;
mod hostile;
mod keeper;
mod learned_order;
mod limits;
mod manifest;
mod memory;
mod nics;
mod on_change;
mod once;
mod origin_rate;
mod peers;
mod privileges;
mod proxy;
mod reader_itself;
mod readers;
mod restart;
mod resume;
mod secrets;
mod service_manager;
mod serving;
mod signatures;
mod slow_tail;
mod soak;
mod status;
mod stop;
mod terminal;
mod tls;
mod traces;
mod verify;

use std::path::Path;

use e2e::reader::Reading;

/// The reader binary.
const READER: &str = env!("CARGO_BIN_EXE_ossc-reader");
/// 1 MiB.
const MIB: u64 = 1 << 20;

/// Reads of one kind, with copies going to `scratch`.
fn reading(kind: &str, scratch: &Path) -> Reading {
    Reading::new(Path::new(READER), kind).scratch(scratch)
}
