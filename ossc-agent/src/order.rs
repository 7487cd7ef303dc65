//! In which order the bytes of a model are likely to be wanted: known by default, learned from earlier loads, or
//! foretold from what readers do now. The agent asks and hands the answers to `fetch` as planned work; a wrong
//! order costs time, never bytes.
//!
//! A load is recorded ([`Recorder`]), kept with its command and model ([`Orders`], on disk in a [`Shelf`]), and the
//! runs kept are merged ([`merge`]) into the plan of the next load, along which a [`Follower`] runs ahead of the
//! readers. Pure but for `shelf`, which owns the files.

mod command;
mod default;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod head;
mod merge;
mod model;
mod plan_file;
mod recorder;
mod shelf;

pub use command::command_name;
pub use default::{default_plan, opening, rest_of_head};
pub use follow::Follower;
pub use head::{Head, head_len};
pub use merge::merge;
pub use model::{Model, ModelId};
pub use plan_file::{BadOrders, Orders, Run};
pub use recorder::{Recorder, Step};
pub use shelf::{Error, Shelf};

use crate::base::{ByteRange, FileId};

/// Ranges in the order in which they are likely to be wanted.
pub type Plan = Vec<(FileId, ByteRange)>;
