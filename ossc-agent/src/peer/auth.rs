//! How two agents know each other. [`Auth`] is what connections and messages go through; without any of it peers are
//! refused unless the user said `--insecure-peers`.

use std::io;

use tokio::net::TcpStream;

use super::config::Security;
use super::error::Error;
use super::stream::Stream;

/// What all connections of this node go through.
#[derive(Debug)]
pub(super) enum Auth {
    /// Anybody who reaches the port.
    Open,
}

impl Auth {
    /// Reads the keys that the user named.
    pub(super) fn new(security: &Security) -> Result<Self, Error> {
        match security {
            Security::Insecure => Ok(Self::Open),
        }
    }

    /// Secures a connection that was made.
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        match self {
            Self::Open => Ok(Stream::Plain(stream)),
        }
    }

    /// Secures a connection that was accepted.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        match self {
            Self::Open => Ok(Stream::Plain(stream)),
        }
    }
}
