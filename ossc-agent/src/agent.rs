//! The wiring: builds every part from a checked config, runs one event loop, drains and stops. The only
//! place that names every part; it decides the sequence and nothing else. `cli` calls [`run`].
//!
//! The sequence of a start is what makes a hole invisible: files are laid out hidden, marked by the gate,
//! and only then given their name. The sequence of a stop is its mirror: incomplete files lose their name
//! first, then the readers that wait are told, then the marks go.

mod error;
mod heads;
mod load;
mod observe;
mod prepare;

pub use error::Error;

use crate::config::Config;

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "start the event loop", source })?;
    runtime.block_on(async {
        let prepared = prepare::prepare(&config).await?;
        load::run(&config, prepared).await
    })
}
