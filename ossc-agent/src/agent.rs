//! The wiring: builds every part from a checked config, runs one event loop, drains and stops. The only
//! place that names every part; it decides the sequence and nothing else. `cli` calls [`run`].
//!
//! The sequence of a start is what makes a hole invisible: files are laid out hidden, marked by the gate,
//! and only then given their name; before the first mark a keeper has its copies of what holds readers. The
//! sequence of a stop is its mirror: incomplete files lose their name first, then the readers that wait are
//! told, then the keeper gets its goodbye. A stop for a restart leaves names and readers as they are, to the keeper.

mod error;
mod family;
mod guard;
mod heads;
mod learn;
mod load;
pub mod manifest;
mod observe;
mod prepare;
mod restart;
mod room;
mod rotation;
mod service;
mod share;
mod verify;
mod view;

pub use error::{Error, ManifestError};
pub use service::Given;
pub use verify::{FileReport, Finding, Report, Status, verify};

use std::sync::Arc;

use self::rotation::Rotation;
use crate::config::Config;
use crate::spans::Spans;
use crate::sys::log_file::LogFile;
use crate::sys::privileges;
use crate::{gate, keeper, oss, store, sys};

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

/// Runs until the load is over in the sense of the config: a signal, completion or the command's end. Executes the
/// program anew, and then does not return, when an object changed and the config wants that.
/// `given` is what the service manager kept for a time without agent and keeper.
/// `log` is the file of the log, to be reopened on SIGHUP.
pub fn run(config: Config, given: Given, log: Option<Arc<LogFile>>) -> Result<Outcome, Error> {
    for remark in &config.remarks {
        tracing::warn!("{remark}");
    }
    // First of all, so that what lacks is named by its name and not by what fails without.
    drop(gate::new_group(gate::Mode::Open)?);
    // Before anything else opens descriptors: those of held readers have numbers that must be free.
    let inherited = keeper::ask(&config.store.model_dir, given.of(&config.store.model_dir))?;
    if inherited.is_none() {
        // Nobody guards what is visible and incomplete: out of sight with it, whether OSS answers or not.
        store::hide_incomplete(&config.store.model_dir, store::LOCK_PATIENCE)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Threads for what blocks: they write ready files, and hide what the disk has lost.
        .on_thread_start(|| privileges::keep_only(privileges::AGENT))
        .build()
        .map_err(sys::Error::when("start the event loop"))?;
    let rotation = Rotation::begin(&config, log)?;
    let no_rights = || privileges::keep_only(privileges::NONE);
    let spans = config.otlp.as_ref().map(|collector| Spans::start(collector, no_rights)).transpose();
    let spans = spans.map_err(sys::Error::when("start the thread that sends spans"))?;
    let ending = runtime.block_on(async {
        rotation.reopen_on_hangup()?;
        let watchers = oss::Watchers { audit: rotation.audit(), spans: spans.clone() };
        let prepared = prepare::prepare(&config, inherited, watchers);
        let prepared = service::while_starting(prepared).await?;
        load::run(&config, prepared).await
    });
    rotation.end();
    spans.iter().for_each(|spans| spans.finish(rotation::LAST_LINES));
    match ending? {
        load::Ending::Outcome(outcome) => Ok(outcome),
        load::Ending::Changed { command } => Err(restart::execute(&config, command)),
    }
}
