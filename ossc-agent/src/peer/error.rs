//! Why the exchange cannot start.

use std::io;
use std::net::SocketAddr;

/// The exchange cannot start; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port.
    #[error("cannot listen for peers on {address}; give another one with --peers-listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// Threads or descriptors.
    #[error("cannot start the threads that serve peers; check the limits on threads and open files")]
    Runtime(#[source] io::Error),
}
