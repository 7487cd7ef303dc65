//! Why the exchange cannot start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::id::Name;

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
    /// Others cannot reach an unspecified address.
    #[error(
        "{address} is every address of this machine; say with --peers-advertise which one other nodes reach"
    )]
    Advertise {
        /// As listened on.
        address: SocketAddr,
    },
    /// Certificates or their key.
    #[error("cannot use {} for peers; `ossc-agent peers issue` makes certificates", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A good certificate, but not this node's.
    #[error(
        "the certificate {} is not for node '{node}' of cluster '{cluster}'; give the names that it was issued for \
         with --peers-node and --peers-cluster, or issue another one", path.display()
    )]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// This node's cluster.
        cluster: Name,
        /// This node's name.
        node: Name,
    },
    /// The shared key.
    #[error("the key file {} cannot be used: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of the authority.
    #[error("cannot {what} {}", path.display())]
    Authority {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A manifest or a key of one.
    #[error("cannot {what} {}: {why}", path.display())]
    Manifest {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The model has changed, or is cut into other blocks.
    #[error(
        "the manifest {} says nothing of {key} (version {etag}, blocks of {block_size} bytes); make a new one with \
         `ossc-agent manifest create`, with the same --block-size if one is set", path.display()
    )]
    NotInManifest {
        /// The manifest.
        path: PathBuf,
        /// Object key.
        key: String,
        /// Its version.
        etag: String,
        /// Bytes.
        block_size: u64,
    },
    /// Threads or descriptors.
    #[error("cannot start the threads that serve peers; check the limits on threads and open files")]
    Runtime(#[source] io::Error),
}
