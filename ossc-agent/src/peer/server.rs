//! Answering other agents: one task a connection, requests one after the other. Blocks go from the page cache of the
//! files that readers use straight into the socket; there is no second copy. `Swarm::answer` decides; this file
//! bounds how many blocks are sent at a time, altogether and to each peer, and how fast.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::sendfile::sendfile64;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};

use super::Inner;
use super::answer::{Answer, Question};
use super::sends::Place;
use super::stream::{Received, Stream, within};
use super::wire::{self, Ask, Request};
use crate::base::{BlockIndex, ByteRange, FileId};
use crate::store::File;

/// A connection on which nothing is asked for so long is closed; peers keep theirs while they load.
const IDLE: Duration = Duration::from_secs(60);
/// Time for the rest of a request whose first byte has come, and for each piece of a reply to go out.
const PROGRESS: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// What a busy or refusing node asks to wait.
const RETRY: Duration = Duration::from_millis(100);
/// After a failed accept (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most connections; a cluster of 500 with 4 each.
const MAX_CONNECTIONS: usize = 2048;

/// Accepts until the runtime ends.
pub(super) async fn serve(inner: Arc<Inner>, listener: TcpListener) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    if let Err(error) = converse(&inner, stream, from).await {
                        tracing::debug!(%error, %from, "a peer's connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(inner: &Arc<Inner>, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = within(HANDSHAKE, inner.auth.accept(stream)).await?;
    let mut received = Received::default();
    loop {
        let request = match within(IDLE, received.head(&mut stream, wire::parse_request)).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    refuse(&mut stream, 400).await?;
                }
                return Err(error);
            }
        };
        if request.cluster != inner.cluster {
            tracing::debug!(%from, node = %request.from, cluster = %request.cluster, "refused a peer of another cluster");
            return refuse(&mut stream, 403).await;
        }
        reply(inner, &mut stream, &mut received, request).await?;
    }
}

async fn refuse(stream: &mut Stream, status: u16) -> io::Result<()> {
    send_head(stream, wire::reply(status, 0, &[("connection", "close".to_owned())])).await
}

async fn reply(
    inner: &Arc<Inner>,
    stream: &mut Stream,
    received: &mut Received,
    request: Request,
) -> io::Result<()> {
    match request.ask {
        Ask::Block(question, wait) => block(inner, stream, question, wait).await,
        Ask::Have => {
            let (headers, body) = inner.own_have();
            send_small(stream, 200, &headers, &body).await
        }
        Ask::Digests(object) => match inner.own_digests(object) {
            Some(body) => send_small(stream, 200, &[], &body).await,
            None => send_small(stream, 404, &[], &[]).await,
        },
        Ask::Gossip(length) => {
            let message = within(PROGRESS, received.body(stream, length)).await?;
            let status = if inner.gossip_came(message) { 200 } else { 404 };
            send_small(stream, status, &[], &[]).await
        }
    }
}

async fn block(inner: &Arc<Inner>, stream: &mut Stream, question: Question, wait: Duration) -> io::Result<()> {
    let deadline = Instant::now() + wait;
    let mut answer = inner.answer(&question);
    if let Answer::Park(file) | Answer::Read(file) = answer {
        // Readers elsewhere are not ours: the block is planned here, and never before our own readers' demands.
        let arrived = inner.await_block(file, question.block);
        answer = match tokio::time::timeout_at(deadline.into(), arrived).await {
            Ok(true) => inner.answer(&question),
            Ok(false) => Answer::NotHere,
            Err(_) => Answer::Park(file),
        };
    }
    let queue = ("x-ossc-queue", inner.sends.queue().to_string());
    let retry = ("x-ossc-retry-ms", RETRY.as_millis().to_string());
    match answer {
        Answer::Send(file) => match inner.sends.place(&question.from, question.urgent) {
            Some(place) => send_block(inner, stream, (file, question.block), place).await,
            None => send_small(stream, 503, &[queue, retry], &[]).await,
        },
        Answer::Redirect(holder) => {
            send_small(stream, 307, &[queue, ("x-ossc-holder", holder.to_string())], &[]).await
        }
        Answer::Park(_) | Answer::Read(_) => send_small(stream, 425, &[queue, retry], &[]).await,
        Answer::NotHere | Answer::Unknown => send_small(stream, 404, &[queue], &[]).await,
    }
}

async fn send_block(
    inner: &Arc<Inner>,
    stream: &mut Stream,
    (file, block): (FileId, BlockIndex),
    mut place: Place,
) -> io::Result<()> {
    place.wait().await;
    let Some((file, crc64, by)) = inner.block(file, block) else {
        return send_small(stream, 404, &[], &[]).await;
    };
    let range = file.layout().range_of(block);
    let mut headers = vec![
        ("x-ossc-crc64", format!("{crc64:016x}")),
        ("x-ossc-queue", inner.sends.queue().to_string()),
    ];
    if let Some(by) = by {
        headers.push(("x-ossc-by", by.to_string()));
    }
    send_head(stream, wire::reply(200, range.len(), &headers)).await?;
    send_range(inner, stream, &file, range).await
}

/// Sends bytes of a file, piece by piece, at most as fast as peers may be served.
async fn send_range(inner: &Arc<Inner>, stream: &mut Stream, file: &File, range: ByteRange) -> io::Result<()> {
    let mut at = range.start();
    let mut buffer = Vec::new();
    while at < range.end() {
        let piece = usize::try_from(range.end() - at).unwrap_or(PIECE).min(PIECE);
        inner.sends.pace(piece).await;
        let sent = match stream {
            Stream::Plain(stream) => within(PROGRESS, send_from_cache(stream, file, at, piece)).await?,
            Stream::Tls(_) => {
                buffer.resize(piece, 0);
                let read = file.read_at(at, &mut buffer).map_err(io::Error::other)?;
                let bytes = buffer.get(..read).unwrap_or_default();
                within(PROGRESS, stream.write_all(bytes)).await?;
                read
            }
        };
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += sent as u64;
    }
    stream.flush().await
}

/// sendfile(2): from the page cache into the socket, without a copy here.
async fn send_from_cache(stream: &TcpStream, file: &File, at: u64, bytes: usize) -> io::Result<usize> {
    let mut offset = i64::try_from(at).map_err(io::Error::other)?;
    let send = || Ok(sendfile64(stream.as_fd(), file.fd(), Some(&mut offset), bytes)?);
    stream.async_io(Interest::WRITABLE, send).await
}

async fn send_head(stream: &mut Stream, head: String) -> io::Result<()> {
    within(PROGRESS, async {
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await
    })
    .await
}

async fn send_small(
    stream: &mut Stream,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
) -> io::Result<()> {
    let mut message = wire::reply(status, body.len() as u64, headers).into_bytes();
    message.extend_from_slice(body);
    within(PROGRESS, async {
        stream.write_all(&message).await?;
        stream.flush().await
    })
    .await
}
