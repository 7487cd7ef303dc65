//! Hands: the kernel interfaces the other parts use, as safe functions. The only module of the agent
//! with `unsafe`; one operation a block, each with its SAFETY line.
#![expect(unsafe_code, reason = "the one place where the agent talks to the kernel without a safe wrapper")]

pub mod command;
mod error;
pub mod fanotify;
pub mod file;
pub mod lease;
pub mod log_file;
pub mod privileges;
pub mod process;
pub mod reader;
pub mod rights;
pub mod shared;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod tracepoint;
pub mod uses;

pub use error::Error;
