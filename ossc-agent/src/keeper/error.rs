//! What can go wrong between agent and keeper. For an agent that starts it is the end: without a keeper it
//! could not promise anything. For the keeper itself nothing is: it logs and goes on.

use std::io;
use std::path::PathBuf;

/// Why there is no keeper, or no taking over from one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keeper's process could not be started.
    #[error("cannot start the keeper, which holds readers if this process dies")]
    Start(#[source] io::Error),
    /// Sending, receiving or listening failed.
    #[error("cannot {what} the keeper of {}", model_dir.display())]
    Talk {
        /// What was tried.
        what: &'static str,
        /// Whose keeper.
        model_dir: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// It closed the connection or sent something else than was asked for.
    #[error(
        "the keeper of {} did not answer as expected: its readers get EIO when its \
         deadline passes; end them, or wait, and start again", model_dir.display()
    )]
    Answer {
        /// Whose keeper.
        model_dir: PathBuf,
    },
    /// Agent and keeper are of versions that do not understand each other.
    #[error(
        "the keeper of {} was started by another version of ossc-agent (it speaks version {theirs}, this one {ours}): \
         start that version again to go on, or wait until the keeper's deadline has passed and its readers got EIO",
        model_dir.display()
    )]
    Version {
        /// Whose keeper.
        model_dir: PathBuf,
        /// Version of the keeper's messages.
        theirs: u64,
        /// Version of ours.
        ours: u64,
    },
    /// Another user listens there.
    #[error("the socket of the keeper of {} belongs to user {uid}", model_dir.display())]
    Stranger {
        /// Whose keeper.
        model_dir: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// The memory for the record could not be made.
    #[error("cannot make the record of held readers")]
    Record(#[source] io::Error),
}

impl Error {
    /// For `map_err`.
    pub(super) fn talk(what: &'static str, model_dir: &std::path::Path) -> impl Fn(io::Error) -> Self {
        let model_dir = model_dir.to_owned();
        move |source| Self::Talk { what, model_dir: model_dir.clone(), source }
    }
}
