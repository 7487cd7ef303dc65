//! Answers questions about a running load: over the socket in the state directory, and over a TCP port where one is
//! asked for. Both speak HTTP; what changes anything is for the socket alone. A thread of its own without any privilege
//! parses what comes, so that neither the load nor its readers depend on it.
//!
//! Bounds: so many connections at a time, one request each, within some seconds; heads and bodies of a few KiB.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::DOOR;
use super::answer::{self, Door, Served};
use super::view::SAMPLE_EVERY;
use crate::store;
use crate::sys::privileges;

/// Connections of each door at a time; one more is closed at once.
const MOST_CONNECTIONS: usize = 32;
/// From its beginning to its end.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Until the head of the request is there.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Longest head of a request, bytes; hyper takes no less than 8 KiB.
const MAX_HEAD: usize = 16 << 10;
/// After a connection could not be taken: out of descriptors, most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The server of one load. Dropping it takes the socket's name away; the thread ends with the process.
#[derive(Debug)]
pub struct Server {
    model_dir: PathBuf,
}

impl Server {
    /// Serves `served` from now on. Called when the files are visible, with the model directory locked. A socket that
    /// cannot be made is a line in the log: the load does not need it.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub fn start(served: Served, model_dir: &Path, port: Option<TcpListener>) -> io::Result<Self> {
        let socket = DOOR.listen(model_dir).map(std::os::unix::net::UnixListener::from);
        let socket = socket.inspect_err(|error| {
            tracing::warn!(%error, model_dir = %model_dir.display(), "`ossc-agent status` cannot ask this agent");
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("ossc-status".into()).spawn(move || {
            privileges::keep_only(privileges::NONE);
            if let Err(error) = runtime.block_on(serve(Arc::new(served), socket.ok(), port)) {
                tracing::error!(%error, "status is not served any more");
            }
        })?;
        Ok(Self { model_dir: model_dir.to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = DOOR.forget(&self.model_dir) {
            tracing::debug!(%error, "the status socket keeps its name");
        }
    }
}

async fn serve(
    served: Arc<Served>,
    socket: Option<std::os::unix::net::UnixListener>,
    port: Option<TcpListener>,
) -> io::Result<()> {
    if let Some(socket) = socket {
        socket.set_nonblocking(true)?;
        let (socket, served) = (tokio::net::UnixListener::from_std(socket)?, Arc::clone(&served));
        drop(tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
            loop {
                let Some((stream, _)) = taken(socket.accept().await).await else { continue };
                match store::stranger(stream.as_fd()) {
                    Ok(None) => converse(&served, Door::Socket, stream, &places),
                    stranger => {
                        tracing::warn!(?stranger, "another user asks for the status and gets no answer")
                    }
                }
            }
        }));
    }
    if let Some(port) = port {
        port.set_nonblocking(true)?;
        let (port, served) = (tokio::net::TcpListener::from_std(port)?, Arc::clone(&served));
        drop(tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
            loop {
                let Some((stream, _)) = taken(port.accept().await).await else { continue };
                converse(&served, Door::Port, stream, &places);
            }
        }));
    }
    let mut tick = interval(SAMPLE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        served.view.sample();
    }
}

/// A connection that was accepted; waits a little if none could be.
async fn taken<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::debug!(%error, "a connection for the status could not be taken");
            tokio::time::sleep(ACCEPT_AGAIN).await;
            None
        }
    }
}

/// Answers one request of a connection, in a task of its own.
fn converse(
    served: &Arc<Served>,
    door: Door,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    places: &Arc<Semaphore>,
) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
    let served = Arc::clone(served);
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let served = Arc::clone(&served);
        async move { Ok::<_, Infallible>(answer::answer(&served, door, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).keep_alive(false).max_buf_size(MAX_HEAD);
    let conversation = http.serve_connection(TokioIo::new(stream), answer);
    drop(tokio::spawn(async move {
        let _place = place;
        let problem: &dyn fmt::Display = match timeout(CONNECTION_TIME, conversation).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => &error.to_string(),
            Err(elapsed) => &elapsed.to_string(),
        };
        tracing::debug!(%problem, "a conversation about the status broke off");
    }));
}
