//! Asks the agent that loads a model, over the socket in the model's state directory. Used by `cli`.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::DOOR;
use super::answer::{Evicted, Prefetched};
use super::snapshot::{Snapshot, VERSION};
use crate::store::{self, Reached};

/// An agent answers within milliseconds, even on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest reply, bytes: a hundred times the status of a large model.
const MAX_REPLY: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error(
        "no agent serves {}: start one, or name the directory of another one with --model-dir; an agent that has just \
         been started serves it when its files are visible", model_dir.display()
    )]
    Nobody {
        /// Model directory.
        model_dir: PathBuf,
    },
    /// Nobody listens any more.
    #[error("the agent of {} has died; its log says why, if it could", model_dir.display())]
    Dead {
        /// Model directory.
        model_dir: PathBuf,
    },
    /// The socket cannot be reached.
    #[error("cannot ask the agent of {}; ask as root", model_dir.display())]
    Connect {
        /// Model directory.
        model_dir: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Another user's process has the socket.
    #[error("user {uid} listens in place of an agent of {}; it was asked nothing", model_dir.display())]
    Stranger {
        /// Its user.
        uid: u32,
        /// Model directory.
        model_dir: PathBuf,
    },
    /// No whole reply.
    #[error("the agent of {} gave no answer; look whether it is ending, and ask again", model_dir.display())]
    Broken {
        /// Model directory.
        model_dir: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The agent will not.
    #[error("{}", text.trim_end())]
    Refused {
        /// Its words.
        text: String,
    },
    /// Another version.
    #[error(
        "the agent speaks version {found} of the status and this program {VERSION}: use the agent's program"
    )]
    Version {
        /// What it speaks.
        found: u64,
    },
}

/// The agent of one model directory.
#[derive(Debug)]
pub struct Client {
    model_dir: PathBuf,
}

impl Client {
    /// Of this directory; nothing is asked yet.
    #[must_use]
    pub fn new(model_dir: &Path) -> Self {
        Self { model_dir: model_dir.to_owned() }
    }

    /// The status as JSON, as the agent writes it.
    pub async fn json(&self) -> Result<Bytes, Error> {
        self.ask(Method::GET, "/status.json", "").await
    }

    /// The status.
    pub async fn status(&self) -> Result<Snapshot, Error> {
        #[derive(serde::Deserialize)]
        struct Versioned {
            version: u64,
        }
        let text = self.json().await?;
        let versioned: Versioned = self.parse(&text)?;
        if versioned.version != u64::from(VERSION) {
            return Err(Error::Version { found: versioned.version });
        }
        self.parse(&text)
    }

    /// Ends the load, as SIGINT does.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.ask(Method::POST, "/cancel", "").await.map(drop)
    }

    /// Has a file, or all below a directory, fetched before all that no reader waits for. `path`: below the model
    /// directory.
    pub async fn prefetch(&self, path: &str) -> Result<Prefetched, Error> {
        let text = self.ask(Method::POST, "/prefetch", path).await?;
        self.parse(&text)
    }

    /// Empties a file, or all below a directory, that no program has open; a reader has them fetched anew. `path`: below
    /// the model directory.
    pub async fn evict(&self, path: &str) -> Result<Evicted, Error> {
        let text = self.ask(Method::POST, "/evict", path).await?;
        self.parse(&text)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, text: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(text).map_err(|error| self.broken(io::Error::other(error)))
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Result<Bytes, Error> {
        let model_dir = || self.model_dir.clone();
        let connect = |source| Error::Connect { model_dir: model_dir(), source };
        let socket = match DOOR.connect(&self.model_dir).map_err(connect)? {
            Reached::Somebody(socket) => std::os::unix::net::UnixStream::from(socket),
            Reached::Nobody => return Err(Error::Nobody { model_dir: model_dir() }),
            Reached::Dead => return Err(Error::Dead { model_dir: model_dir() }),
        };
        if let Some(uid) = store::stranger(socket.as_fd()).map_err(connect)? {
            return Err(Error::Stranger { uid, model_dir: model_dir() });
        }
        socket.set_nonblocking(true).map_err(connect)?;
        let socket = tokio::net::UnixStream::from_std(socket).map_err(connect)?;
        let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        let request = request.map_err(|error| self.broken(io::Error::other(error)))?;
        let exchange = timeout(PATIENCE, exchange(socket, request)).await;
        let (status, body) =
            exchange.map_err(io::Error::from).flatten().map_err(|error| self.broken(error))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(Error::Refused { text: String::from_utf8_lossy(&body).into_owned() })
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Broken { model_dir: self.model_dir.clone(), source }
    }
}

async fn exchange(
    socket: tokio::net::UnixStream,
    request: Request<Full<Bytes>>,
) -> io::Result<(StatusCode, Bytes)> {
    let connection = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = connection.map_err(io::Error::other)?;
    // Makes the exchange move; how it ends is seen by the exchange as well.
    drop(tokio::spawn(connection));
    let reply = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), MAX_REPLY).collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes()))
}
