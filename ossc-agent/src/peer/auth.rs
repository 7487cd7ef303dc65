//! How two agents know each other. [`Auth`] is what connections and messages go through: mutual TLS with the
//! cluster's own certificate authority (`tls`), a shared key (`psk`), or, if the user insists, nothing.

pub(super) mod psk;
mod tls;

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::config::Security;
use super::error::Error;
use super::id::Name;
use super::stream::Stream;
use super::wire::Request;

pub(super) use psk::{BodyHash, Key};
use tls::Certificates;
pub(super) use tls::{cluster_name, node_name};

/// Between two looks whether certificate files have changed.
const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// What all connections of this node go through.
#[derive(Debug)]
pub(super) enum Auth {
    /// Anybody who reaches the port.
    Open,
    /// Who has a certificate of the cluster's authority.
    Tls(Box<Certificates>),
    /// Who has the cluster's key.
    Psk(Key),
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it belongs to cluster '{0}'")]
    Cluster(Name),
    #[error("its certificate is not that of node '{0}'")]
    Node(Name),
    #[error("{0}")]
    Proof(&'static str),
}

impl Auth {
    /// Reads the keys that the user named.
    pub(super) fn new(security: &Security, cluster: &Name, node: &Name) -> Result<Self, Error> {
        match security {
            Security::Insecure => Ok(Self::Open),
            Security::Tls(files) => Ok(Self::Tls(Box::new(Certificates::load(files, cluster, node)?))),
            Security::Psk(file) => Ok(Self::Psk(Key::load(file)?)),
        }
    }

    /// Secures a connection that was made.
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        match self {
            Self::Open | Self::Psk(_) => Ok(Stream::Plain(stream)),
            Self::Tls(certificates) => certificates.connect(stream).await,
        }
    }

    /// Secures a connection that was accepted.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        match self {
            Self::Open | Self::Psk(_) => Ok(Stream::Plain(stream)),
            Self::Tls(certificates) => certificates.accept(stream).await,
        }
    }

    /// Whether the other end of a connection is the node that it says it is.
    pub(super) fn is_node(&self, stream: &Stream, node: &Name) -> bool {
        match (self, stream) {
            (Self::Open | Self::Psk(_), _) => true,
            (Self::Tls(certificates), Stream::Tls(stream)) => certificates.is_node(stream, node),
            (Self::Tls(_), Stream::Plain(_)) => false,
        }
    }

    /// Whether a request may be answered.
    pub(super) fn check(&self, stream: &Stream, request: &Request, cluster: &Name) -> Result<(), Refused> {
        if request.cluster != *cluster {
            return Err(Refused::Cluster(request.cluster.clone()));
        }
        if !self.is_node(stream, &request.from) {
            return Err(Refused::Node(request.from.clone()));
        }
        match self {
            Self::Psk(key) => key.check(request).map_err(Refused::Proof),
            Self::Open | Self::Tls(_) => Ok(()),
        }
    }

    /// The key that requests and replies are signed with, where there is one.
    pub(super) fn key(&self) -> Option<&Key> {
        match self {
            Self::Psk(key) => Some(key),
            Self::Open | Self::Tls(_) => None,
        }
    }

    /// Takes up changed certificates until the runtime ends.
    pub(super) async fn keep_fresh(&self) {
        if let Self::Tls(certificates) = self {
            loop {
                tokio::time::sleep(RELOAD_EVERY).await;
                certificates.reload();
            }
        }
    }
}
