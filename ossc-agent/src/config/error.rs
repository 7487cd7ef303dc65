//! Why what the user said cannot be used.

use std::path::PathBuf;

/// A configuration error; each message says where the value stood and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is missing or unreadable.
    #[error("cannot read the configuration file {}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file cannot be a configuration.
    #[error("the configuration file {} has {size} bytes, more than the 1 MiB a configuration may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// Somebody else decides what is in the file.
    #[error("the configuration file {} cannot be trusted: {problem}; give it to root and take away others' right to write", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file is not JSON of the expected form.
    #[error("the configuration file {} is not valid", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected.
        source: serde_json::Error,
    },
    /// Something without a default is missing.
    #[error("no {what}: give {flag}, set {env}, or write \"{key}\" in the configuration file")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// Flag that would give it.
        flag: &'static str,
        /// Environment variable that would give it.
        env: &'static str,
        /// JSON key that would give it.
        key: &'static str,
    },
    /// `OSS_PATH` is no `oss://` path.
    #[error("'{text}' is not an OSS path: {why}; write oss://BUCKET/PREFIX/")]
    OssPath {
        /// As given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A value outside of what its setting takes.
    #[error("{name} = '{value}': {wanted}")]
    Value {
        /// Setting.
        name: &'static str,
        /// As given.
        value: String,
        /// What it takes.
        wanted: String,
    },
    /// One half of a key pair.
    #[error("{given} is set but {missing} is not; set both, or neither for anonymous access")]
    HalfKey {
        /// The variable that is set.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
}
