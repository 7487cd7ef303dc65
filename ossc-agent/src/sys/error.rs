//! The error of what every machine has and nobody can do anything about: every part that asks the kernel for such
//! things passes it on.

use std::io;

/// The operating system refused something that should always work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct Error {
    what: &'static str,
    source: io::Error,
}

impl Error {
    /// For `map_err`: `what` was tried.
    pub fn when<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self { what, source: source.into() }
    }
}
