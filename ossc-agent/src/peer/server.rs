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
use super::wire::{self, Ask};
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
        if let Err(reason) = inner.auth.check(&stream, &request, &inner.cluster) {
            tracing::warn!(%from, node = %request.from, %reason, "a peer's request is refused");
            return refuse(&mut stream, 403).await;
        }
        let mut talk = Talk { inner, stream: &mut stream, proof: request.proof };
        match request.ask {
            Ask::Block(question, wait) => talk.block(question, wait).await?,
            Ask::Have => {
                let (headers, body) = inner.own_have();
                talk.small(200, headers, &body).await?;
            }
            Ask::Digests(object) => match inner.own_digests(object) {
                Some(body) => talk.small(200, vec![], &body).await?,
                None => talk.small(404, vec![], &[]).await?,
            },
            Ask::Gossip(length, sender) => {
                let message = within(PROGRESS, received.body(talk.stream, length)).await?;
                let authentic = inner.auth.key().is_none_or(|key| {
                    let mut hash = key.body_hash();
                    hash.update(&message);
                    request.body_hash.as_deref() == Some(&hash.finish())
                });
                let taken = authentic && inner.gossip_came(sender, &message);
                talk.small(if taken { 200 } else { 404 }, vec![], &[]).await?;
            }
        }
    }
}

async fn refuse(stream: &mut Stream, status: u16) -> io::Result<()> {
    send_all(stream, wire::reply(status, 0, &[("connection", "close".to_owned())]).as_bytes()).await
}

/// One request and its reply.
struct Talk<'a> {
    inner: &'a Arc<Inner>,
    stream: &'a mut Stream,
    /// The request's, which the reply's is bound to.
    proof: Option<String>,
}

type Headers = Vec<(&'static str, String)>;

impl Talk<'_> {
    async fn block(&mut self, question: Question, wait: Duration) -> io::Result<()> {
        let inner = self.inner;
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
                Some(place) => {
                    self.send_block((file, question.block), place).await?;
                    inner.swarm().served(&question.from, (file, question.block));
                    Ok(())
                }
                None => self.small(503, vec![queue, retry], &[]).await,
            },
            Answer::Busy => self.small(503, vec![queue, retry], &[]).await,
            Answer::Redirect(holder) => {
                self.small(307, vec![queue, ("x-ossc-holder", holder.to_string())], &[]).await
            }
            Answer::Park(_) | Answer::Read(_) | Answer::Later => {
                self.small(425, vec![queue, retry], &[]).await
            }
            Answer::NotHere | Answer::Unknown => self.small(404, vec![queue], &[]).await,
        }
    }

    async fn send_block(&mut self, (id, block): (FileId, BlockIndex), mut place: Place) -> io::Result<()> {
        place.wait().await;
        let inner = self.inner;
        let Some((file, crc64, by)) = inner.block(id, block) else {
            return self.small(404, vec![], &[]).await;
        };
        let range = file.layout().range_of(block);
        let mut headers = vec![
            ("x-ossc-crc64", format!("{crc64:016x}")),
            ("x-ossc-by", by.to_string()),
            ("x-ossc-queue", inner.sends.queue().to_string()),
        ];
        if inner.auth.key().is_some() {
            headers.push(("x-ossc-body", inner.block_hash(id, block).await?));
        }
        let head = self.head(200, range.len(), headers);
        within(PROGRESS, self.stream.write_all(head.as_bytes())).await?;
        send_range(inner, self.stream, file, range).await?;
        inner.sends.count(range.len());
        Ok(())
    }

    /// A reply with a small body or none.
    async fn small(&mut self, status: u16, mut headers: Headers, body: &[u8]) -> io::Result<()> {
        if let Some(key) = self.inner.auth.key().filter(|_| !body.is_empty()) {
            let mut hash = key.body_hash();
            hash.update(body);
            headers.push(("x-ossc-body", hash.finish()));
        }
        let mut message = self.head(status, body.len() as u64, headers).into_bytes();
        message.extend_from_slice(body);
        send_all(self.stream, &message).await
    }

    fn head(&self, status: u16, length: u64, mut headers: Headers) -> String {
        if let (Some(key), Some(proof)) = (self.inner.auth.key(), &self.proof) {
            let said = wire::reply_said(status, length, &headers);
            let said: Vec<_> = said.iter().map(String::as_str).collect();
            headers.push(("x-ossc-proof", key.answer(proof, &said)));
        }
        wire::reply(status, length, &headers)
    }
}

/// Sends bytes of a file, piece by piece, at most as fast as peers may be served.
async fn send_range(
    inner: &Arc<Inner>,
    stream: &mut Stream,
    file: &File,
    range: ByteRange,
) -> io::Result<()> {
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

async fn send_all(stream: &mut Stream, message: &[u8]) -> io::Result<()> {
    within(PROGRESS, async {
        stream.write_all(message).await?;
        stream.flush().await
    })
    .await
}
