//! The wiring: builds every part from a checked config, runs one event loop, drains and stops. The only
//! place that names every part; it decides the sequence and nothing else. `cli` calls [`run`].
//!
//! The sequence of a start is what makes a hole invisible: files are laid out hidden, marked by the gate,
//! and only then given their name; before the first mark a keeper has its copies of what holds readers. The
//! sequence of a stop is its mirror: incomplete files lose their name first, then the readers that wait are
//! told, then the keeper gets its goodbye.

mod error;
mod family;
mod guard;
mod heads;
mod learn;
mod load;
mod observe;
mod prepare;
mod share;

pub use error::Error;

use crate::config::Config;
use crate::keeper;

/// How a run ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// SIGTERM or SIGINT; what was fetched is kept.
    Stopped,
    /// Every file is complete and the user asked to end then.
    Complete,
    /// The command ended with this status.
    CommandExited(u8),
}

/// Runs until the load is over in the sense of the config: a signal, completion or the command's end.
pub fn run(config: Config) -> Result<Outcome, Error> {
    for remark in &config.remarks {
        tracing::warn!("{remark}");
    }
    // Before anything else opens descriptors: those of held readers have numbers that must be free.
    let inherited = keeper::ask(&config.store.model_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "start the event loop", source })?;
    runtime.block_on(async {
        let prepared = prepare::prepare(&config, inherited).await?;
        load::run(&config, prepared).await
    })
}
