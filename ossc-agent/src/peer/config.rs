//! Settings of the exchange; `config` fills them in from flags, environment and file.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::id::Name;
use crate::base::Nic;

/// Everything the exchange needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where this node is asked by others.
    pub listen: SocketAddr,
    /// Where to find peers at first: addresses or names with ports. This node may be among them.
    pub seeds: Vec<String>,
    /// Whether peers tell of other peers; else the seeds are all there are.
    pub gossip: bool,
    /// Where other nodes reach this one, if not at `listen`.
    pub advertise: Option<SocketAddr>,
    /// Nodes of other clusters are refused.
    pub cluster: Name,
    /// This node's name; from its address if there is none.
    pub node: Option<Name>,
    /// Blocks are shared with nodes of the same zone alone.
    pub zone: Option<Name>,
    /// Speed of its network in Gbit/s: how much of the model it reads compared with others.
    pub weight: f64,
    /// Most bytes a second sent to peers.
    pub serve_rate: Option<u64>,
    /// Blocks sent to peers at a time, at most; a few more that their readers wait for.
    pub serve_slots: NonZeroU32,
    /// How long a node that was told to end when it is complete still serves the others.
    pub linger: Duration,
    /// NICs to connect through, in turn.
    pub sources: Vec<Nic>,
    /// Blocks of peers must be those of this manifest.
    pub manifest: Option<ManifestFiles>,
    /// How peers know each other.
    pub security: Security,
    /// For tests and the testbed.
    pub trial: Trial,
}

/// What only tests ask for; a release build has nothing that sets it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trial {
    /// The load begins at this time, when all nodes know each other.
    pub start: Option<SystemTime>,
    /// Blocks come from their owners alone.
    pub owners_only: bool,
    /// Blocks are sent with wrong checksums.
    pub lies: bool,
}

/// How peers know each other.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all: anybody who reaches the port reads the model.
    Insecure,
    /// Mutual TLS with a private certificate authority.
    Tls(TlsFiles),
    /// A key in this file that all nodes share; for networks that nobody else can listen on.
    Psk(PathBuf),
}

/// A manifest and the key to check it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFiles {
    /// The manifest.
    pub manifest: PathBuf,
    /// PEM file of the public key.
    pub public_key: PathBuf,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The cluster's authority.
    pub authority: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}
