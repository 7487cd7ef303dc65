//! Harness of the end-to-end tests: a real agent, a real kernel, the test OSS server.
//!
//! The tests in `tests/main.rs` drive it, one module per promise. Everything it starts, mounts or writes is ended,
//! unmounted and removed when its handle is dropped, also when the test fails. Tests wait for events (a line of
//! the agent's log, an amount of bytes that the server sent), with a deadline that only a hanging agent meets.

pub mod agent;
pub mod asking;
pub mod checkpoint;
pub mod cluster;
pub mod collector;
pub mod content;
pub mod crowd;
pub mod doctor;
pub mod events;
pub mod evil;
pub mod forward;
pub mod links;
pub mod manager;
pub mod origin;
pub mod process;
pub mod python;
pub mod reader;
pub mod scratch;
pub mod site;
pub mod soak;
pub mod steps;
pub mod sys;
pub mod turn;
