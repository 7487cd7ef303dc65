//! The outside view of a running load. It reads snapshots and changes nothing. Today: what a terminal or a
//! log shows of the progress. Driven by the agent's loop.

mod progress;
mod terminal;

pub use progress::{Progress, Reporter};
pub use terminal::Terminal;
