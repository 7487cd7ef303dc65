//! Asking other agents: kept-alive connections to each, and one request at a time on each of them. The body of a
//! block is lent piece by piece, as that of an OSS reply is, so that it goes from the socket into the file. Times are
//! short: a node on the same network answers at once, or another one is asked.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout_at};

use super::auth::{Auth, BodyHash};
use super::id::Name;
use super::stream::{Received, Stream, within};
use super::wire::{self, MAX_BODY, Reply};
use crate::base::Nic;
use crate::sys;

/// Time for a TCP connect. Dead nodes are found by this, so it decides what a death costs.
const CONNECT: Duration = Duration::from_millis(300);
/// And to a peer that was heard lately: on a full link the first packet may be lost, and is sent again after a
/// second (RFC 6298 section 2.1).
const CONNECT_ALIVE: Duration = Duration::from_millis(1500);
/// What "lately" is: twelve rounds of questions what it has.
const LATELY: Duration = Duration::from_secs(3);
/// Time for a TLS handshake, which may queue behind others on a busy node.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Time for a reply's head beyond what the peer may hold the request, in which nothing at all comes from the peer: a
/// reply may queue behind many others on a full link.
const HEAD: Duration = Duration::from_millis(1500);
/// Time in which at least one byte of a body must come, or of anything else from the peer.
const PROGRESS: Duration = Duration::from_secs(2);
/// And the most that is waited for a head or for the next byte of a body while the peer sends other things.
const MOST: Duration = Duration::from_secs(5);
/// Idle connections kept to each peer; as many as are used at once.
const KEPT: usize = 4;
/// Most bytes lent at once.
const BUFFER: usize = 256 << 10;
/// Buffers kept for the next body.
const KEPT_BUFFERS: usize = 32;

/// The open connections to all peers.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<HashMap<SocketAddr, Vec<Link>>>,
    buffers: Mutex<Vec<Box<[u8]>>>,
    pulses: Mutex<HashMap<SocketAddr, Arc<Pulse>>>,
    auth: Arc<Auth>,
    cluster: Name,
    me: Name,
    /// NICs to connect through, in turn.
    sources: Vec<Nic>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Link {
    stream: Stream,
    received: Received,
    pulse: Arc<Pulse>,
}

/// A request to send.
pub(super) struct Send<'a> {
    pub(super) to: SocketAddr,
    /// Method and target.
    pub(super) line: &'a str,
    /// Headers besides those that every request has.
    pub(super) headers: &'a [(&'a str, String)],
    pub(super) body: &'a [u8],
    /// How long the peer may hold it.
    pub(super) wait: Duration,
}

impl Pool {
    pub(super) fn new(auth: Arc<Auth>, cluster: Name, me: Name, sources: Vec<Nic>) -> Self {
        let (idle, buffers, pulses) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { idle, buffers, pulses, auth, cluster, me, sources, turn: AtomicUsize::new(0) }
    }

    /// Sends a request; the reply's head, and its body to be received.
    pub(super) async fn ask(self: &Arc<Self>, send: Send<'_>) -> io::Result<(Reply, Body)> {
        let limit = send.wait + HEAD;
        let (mut head, mut proof) = self.head(&send);
        while let Some(mut link) = self.take_idle(send.to) {
            if !link.is_quiet().await {
                continue;
            }
            match link.converse(&head, send.body, limit).await {
                Ok(Some(reply)) => return self.reply(send.to, link, reply, proof.as_deref()),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                // It was closed meanwhile; so may the others be.
                Ok(None) | Err(_) => {}
            }
            // It may have been taken: a proof is good for one request.
            (head, proof) = self.head(&send);
        }
        let mut link = self.connect(send.to).await?;
        let reply = link.converse(&head, send.body, limit).await?;
        self.reply(send.to, link, reply.ok_or(io::ErrorKind::UnexpectedEof)?, proof.as_deref())
    }

    /// The request's head, and its proof where peers share a key.
    fn head(&self, send: &Send<'_>) -> (String, Option<String>) {
        let mut extra = send.headers.to_vec();
        if !send.body.is_empty() {
            extra.push(("content-length", send.body.len().to_string()));
        }
        let proof = self.auth.key().map(|key| {
            if !send.body.is_empty() {
                let mut hash = key.body_hash();
                hash.update(send.body);
                extra.push(("x-ossc-body", hash.finish()));
            }
            let said = wire::said(send.line, &self.cluster, &self.me, &extra);
            let said: Vec<_> = said.iter().map(String::as_str).collect();
            key.prove(&said)
        });
        extra.extend(proof.iter().map(|proof| ("x-ossc-proof", proof.clone())));
        (wire::request(send.line, &self.cluster, &self.me, &extra), proof)
    }

    /// Takes a reply if it is from who it says it is.
    fn reply(
        self: &Arc<Self>,
        to: SocketAddr,
        link: Link,
        reply: Reply,
        proof: Option<&str>,
    ) -> io::Result<(Reply, Body)> {
        let denied = |text: &str| io::Error::new(io::ErrorKind::PermissionDenied, text.to_owned());
        if reply.node.as_ref().is_some_and(|node| !self.auth.is_node(&link.stream, node)) {
            return Err(denied("the peer's certificate is another node's"));
        }
        let mut hash = None;
        if let (Some(key), Some(proof)) = (self.auth.key(), proof) {
            let said: Vec<_> = reply.said.iter().map(String::as_str).collect();
            if !key.is_answer(proof, &said, reply.proof.as_deref()) {
                return Err(denied(if reply.status == 403 {
                    "the peer refused: another key or cluster, or a clock that is off"
                } else {
                    "the reply has no good proof"
                }));
            }
            if reply.length > 0 {
                let expected =
                    reply.body_hash.clone().ok_or_else(|| denied("the reply's body has no sum"))?;
                hash = Some((key.body_hash(), expected));
            }
        }
        if reply.status == 403 {
            return Err(denied("the peer refused: another cluster, or a certificate of another node"));
        }
        let missing = reply.length;
        Ok((
            reply,
            Body { pool: Arc::clone(self), to, link: Some(link), missing, buffer: None, filled: 0, hash },
        ))
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Link> {
        let reaches = |source: &&Nic| match source {
            Nic::Address(address) => address.is_ipv4() == to.is_ipv4(),
            Nic::Interface(_) => true,
        };
        let usable: Vec<_> = self.sources.iter().filter(reaches).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let source = turn.checked_rem(usable.len()).and_then(|at| usable.get(at)).copied();
        let socket = TcpSocket::from_std_stream(sys::socket::tcp_socket(to, source)?);
        let pulse = Arc::clone(lock(&self.pulses).entry(to).or_default());
        let limit = if pulse.is_within(LATELY) { CONNECT_ALIVE } else { CONNECT };
        let stream = within(limit, socket.connect(to)).await?;
        let stream = within(HANDSHAKE, self.auth.connect(stream)).await?;
        Ok(Link { stream, received: Received::default(), pulse })
    }

    /// Whether something came from this address lately.
    pub(super) fn hears_from(&self, address: SocketAddr) -> bool {
        lock(&self.pulses).get(&address).is_some_and(|pulse| pulse.is_within(HEAD))
    }

    fn take_idle(&self, to: SocketAddr) -> Option<Link> {
        lock(&self.idle).get_mut(&to)?.pop()
    }

    fn keep(&self, to: SocketAddr, link: Link) {
        let mut idle = lock(&self.idle);
        let links = idle.entry(to).or_default();
        if links.len() < KEPT {
            links.push(link);
        }
    }

    /// Closes all idle connections; those in use end with their reply.
    pub(super) fn close(&self) {
        lock(&self.idle).clear();
    }
}

impl Link {
    /// Whether a kept connection is open and has nothing to say.
    async fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let pending = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut byte);
            Poll::Ready(Pin::new(&mut self.stream).poll_read(cx, &mut buffer).is_pending())
        });
        pending.await && self.received.is_empty()
    }

    /// Sends a request and receives the reply's head, unless nothing comes from the peer for `quiet`.
    async fn converse(&mut self, head: &str, body: &[u8], quiet: Duration) -> io::Result<Option<Reply>> {
        let pulse = Arc::clone(&self.pulse);
        let reply = pulse.patiently(quiet, async {
            self.stream.write_all(head.as_bytes()).await?;
            self.stream.write_all(body).await?;
            self.stream.flush().await?;
            self.received.head(&mut self.stream, wire::parse_reply).await
        });
        let reply = reply.await?;
        pulse.beat();
        Ok(reply)
    }
}

/// When something came from a peer last, on any connection.
#[derive(Debug, Default)]
struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    fn beat(&self) {
        *lock(&self.0) = Some(Instant::now());
    }

    fn is_within(&self, time: Duration) -> bool {
        lock(&self.0).is_some_and(|last| last.elapsed() < time)
    }

    /// The future's result, or `TimedOut` when nothing has come from the peer for `quiet`, or after long in any case.
    async fn patiently<T>(
        &self,
        quiet: Duration,
        future: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let began = Instant::now();
        let mut future = pin!(future);
        loop {
            let last = lock(&self.0).map_or(began, |last| last.max(began));
            let until = (last + quiet).min(began + quiet.max(MOST));
            if until <= Instant::now() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Ok(result) = timeout_at(until, &mut future).await {
                return result;
            }
        }
    }
}

/// A reply's body being received. Dropped before its end, it takes the connection with it.
#[derive(Debug)]
pub(super) struct Body {
    pool: Arc<Pool>,
    to: SocketAddr,
    link: Option<Link>,
    missing: u64,
    buffer: Option<Box<[u8]>>,
    /// How much of it is.
    filled: usize,
    /// Where peers share a key: the running sum and what it must come to.
    hash: Option<(BodyHash, String)>,
}

impl Body {
    /// Waits until the next bytes can be lent, as long as `goes_on` says so of how many of them have come; else it has
    /// timed out. May be dropped and called again.
    pub(super) async fn fill(&mut self, max: usize, goes_on: impl Fn(usize) -> bool) -> io::Result<()> {
        if self.missing == 0 {
            return Ok(());
        }
        let link = self.link.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let take_buffer =
            || lock(&self.pool.buffers).pop().unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice());
        let buffer = self.buffer.get_or_insert_with(take_buffer);
        let room = usize::try_from(self.missing).unwrap_or(usize::MAX).min(max).min(buffer.len());
        let begun = link.received.take(room.saturating_sub(self.filled));
        let end = self.filled + begun.len();
        buffer.get_mut(self.filled..end).unwrap_or_default().copy_from_slice(&begun);
        self.filled = end;
        while self.filled < room {
            let rest = buffer.get_mut(self.filled..room).unwrap_or_default();
            let count = link.pulse.patiently(PROGRESS, link.stream.read(rest)).await?;
            link.pulse.beat();
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += count;
            if self.filled < room && !goes_on(self.filled) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// How many bytes of the next ones have come.
    pub(super) fn come(&self) -> usize {
        self.filled
    }

    /// The next bytes, at least one and at most `max`; None at the end, when the connection is kept.
    pub(super) async fn next(&mut self, max: usize) -> io::Result<Option<&[u8]>> {
        if self.missing == 0 {
            self.finish();
            return Ok(None);
        }
        self.fill(max, |_| true).await?;
        let (filled, Some(buffer)) = (std::mem::take(&mut self.filled), self.buffer.as_ref()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.missing -= filled as u64;
        if let Some((hash, expected)) = &mut self.hash {
            hash.update(buffer.get(..filled).unwrap_or_default());
            if self.missing == 0 && hash.finish() != *expected {
                self.link = None;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the body is not what its sender sent",
                ));
            }
        }
        if self.missing == 0 {
            self.finish();
        }
        Ok(self.buffer.as_ref().and_then(|buffer| buffer.get(..filled)))
    }

    /// The whole of a small body.
    pub(super) async fn whole(mut self) -> io::Result<Vec<u8>> {
        if self.missing > MAX_BODY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is too long"));
        }
        let mut whole = Vec::new();
        while let Some(bytes) = self.next(BUFFER).await? {
            whole.extend_from_slice(bytes);
        }
        Ok(whole)
    }

    fn finish(&mut self) {
        if let Some(link) = self.link.take() {
            self.pool.keep(self.to, link);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let mut buffers = lock(&self.pool.buffers);
            if buffers.len() < KEPT_BUFFERS {
                buffers.push(buffer);
            }
        }
    }
}

/// Holders leave the lists whole between statements.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits on a peer that is heard so often every 500 ms and never answers; how long it took to give up.
    async fn wait(beats: u32) -> Duration {
        let pulse = Arc::new(Pulse::default());
        let began = Instant::now();
        let heart = async {
            for _ in 0..beats {
                tokio::time::sleep(Duration::from_millis(500)).await;
                pulse.beat();
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            result = pulse.patiently(PROGRESS, std::future::pending::<io::Result<()>>()) => {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
            }
            () = heart => {}
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_waited_for_while_anything_comes_from_it_but_not_for_ever() {
        let near = |found: Duration, expected: Duration| found.abs_diff(expected) < Duration::from_millis(50);
        assert!(near(wait(0).await, PROGRESS));
        assert!(near(wait(2).await, Duration::from_secs(1) + PROGRESS));
        assert!(near(wait(100).await, MOST));
    }
}
