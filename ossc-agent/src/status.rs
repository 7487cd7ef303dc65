//! The outside view of a running load: its progress for a terminal or a log, and the status server, which shows one
//! snapshot as text, as JSON, as a page and as metrics. It reads counters and changes nothing but what root asks for
//! over the socket. Driven by the agent's loop; `cli` asks the server of another process.

mod answer;
mod client;
mod exposition;
mod positions;
mod progress;
mod server;
pub mod snapshot;
mod terminal;
mod text;
mod view;

pub use answer::{Evict, Evicted, Prefetched, Served};
pub use client::{Client, Error};
pub use positions::Positions;
pub use progress::{Progress, Reporter};
pub use server::Server;
pub use terminal::Terminal;
pub use text::text;
pub use view::{About, Parts, View};

use crate::store::Door;

/// Where root asks and steers the agent.
const DOOR: Door = Door::of_stream("status");

#[expect(clippy::cast_precision_loss, reason = "a speed to look at")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a speed to look at, never negative"
)]
fn whole(speed: f64) -> u64 {
    speed as u64
}
