//! ossc-agent as a library: the parts, listed from the lowest floor to the highest.
//! A part uses only parts listed before it (docs/architecture.md); `cargo xtask lint` checks this.

// Floor 0: words. Pure, no I/O.
pub mod base;
// Floor 1: hands. The only unsafe code is in sys.
pub mod metrics;
pub mod spans;
pub mod sys;
pub mod systemd;
// Floor 2: engines. None knows another.
pub mod bpf;
pub mod order;
pub mod oss;
pub mod store;
// Floor 3: what outlives the agent, and the other nodes. Neither knows the other.
pub mod keeper;
pub mod peer;
// Floor 4: moving bytes.
pub mod fetch;
// Floor 5: readers.
pub mod gate;
// Floor 6: what the user says and sees; trace is a program of its own on the probes.
pub mod config;
pub mod status;
pub mod trace;
// Floor 7: wiring; doctor looks at what a load would need, without one.
pub mod agent;
pub mod doctor;
// Floor 8: the door.
pub mod cli;
// On top of all: the parsers of outside bytes, for fuzzers. Part of no release.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
