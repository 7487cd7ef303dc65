//! The process that outlives the agent, so that a reader never sees a hole when the agent is killed.
//!
//! The kernel lets every reader through, to zeros, when the last descriptor of a fanotify group closes. A
//! keeper holds a second one, together with the data files that are not complete and the record of events
//! that have no answer. While the agent lives it only waits. When the agent dies without a goodbye, readers
//! stay held; an agent that starts for the same model directory takes everything over ([`ask`]), answers
//! the readers its predecessor left, and the same keeper goes on for it. When none comes within the deadline
//! the keeper hides the incomplete files and fails their readers with EIO for as long as one has any open.
//!
//! The agent's side is [`Keeper`] and [`Inherited`]; [`run`] is the keeper itself: the same program, started
//! with the hidden argument [`ARGUMENT`]. [`Record`] is what the gate writes for the next agent.
//!
//! An agent that is stopped for a restart says so, and its readers wait for a shorter time. Whoever kills both at the
//! same moment has the kernel's behaviour, unless a service manager has copies ([`Passed`]). A keeper that ends alone
//! is replaced.

mod error;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handle;
mod inherit;
mod place;
mod process;
mod record;
#[cfg(test)]
mod tests;
mod wire;

pub use error::Error;
pub use handle::{Guards, Keeper, Settings};
pub use inherit::{Inherited, Passed, ask};
pub use process::{Config, run};
pub use record::{Pending, Record, Wanted};

/// First argument of the program when it is to be a keeper.
pub const ARGUMENT: &str = "keeper";
