//! Getting one block from peers: the steps that [`Swarm`] decides, done. Driven by a connection of `fetch`, which
//! writes the bytes and compares their checksum before the block becomes ready.
//!
//! [`Swarm`]: super::swarm::Swarm

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counts::Why;
use super::link::{self, Send};
use super::pursuit::{Outcome, Pursuit, Role, Step};
use super::swarm::NodeIndex;
use super::wire::{self, Reply};
use super::{Came, Inner, Name, Peers, lock};
use crate::base::{BlockIndex, FileId};
use crate::oss::PeerRequest;

/// Between two looks whether a second peer is to be asked.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Bytes a second that are a crawl whatever is usual: with all places taken, 2 Mbit/s of a network.
const CRAWL: u64 = 16 << 10;

/// A block on its way from peers.
pub struct Fetching {
    inner: Arc<Inner>,
    pursuit: Pursuit,
    /// Whom the body at hand is from.
    from: Option<(NodeIndex, Option<Name>)>,
    /// Questions for it so far.
    asked: u32,
    /// Lands the block when this is dropped, unless an [`OriginRead`] has taken that over.
    landing: Option<OriginRead>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// The block's bytes from a peer.
    Body(Box<Body>),
    /// The block is to be read from the origin; peers may wait for it as long as this lives.
    Origin(OriginRead),
}

/// Blocks count as being under way here until this is dropped.
pub struct OriginRead {
    inner: Arc<Inner>,
    file: FileId,
    blocks: std::ops::Range<u32>,
}

/// The body of a peer's block.
pub struct Body {
    body: link::Body,
    crc64: u64,
    proof: Option<blake3::Hash>,
    pace: Pace,
    audited: Option<PeerRequest>,
}

/// How fast a body comes. One that is kept alive by a byte now and then would keep its block, and a reader, for ever.
#[derive(Debug, Clone, Copy)]
struct Pace {
    began: Instant,
    /// Bytes that were lent since.
    lent: u64,
    /// How long it may take: `Swarm::slowest`.
    slowest: (Duration, bool),
}

impl Pace {
    /// What is wrong with it when so many bytes have come of the next ones.
    fn fault(&self, come: usize) -> Option<BodyError> {
        let (took, bytes) = (self.began.elapsed(), self.lent + come as u64);
        let (slowest, is_known) = self.slowest;
        let crawls = took > slowest && (is_known || bytes < CRAWL * took.as_secs());
        crawls.then_some(BodyError::Crawls { bytes, seconds: took.as_secs() })
    }
}

/// A peer's bytes did not come.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection.
    #[error("receiving a block from a peer")]
    Transport(#[from] io::Error),
    /// The checksum.
    #[error("a peer's block has CRC-64 {found:016x}, not the {promised:016x} it promised")]
    Corrupt {
        /// In the reply's head.
        promised: u64,
        /// Of the bytes.
        found: u64,
    },
    /// The peer.
    #[error("a peer's block comes far too slowly: {bytes} bytes in {seconds} s")]
    Crawls {
        /// That came.
        bytes: u64,
        /// In this time.
        seconds: u64,
    },
    /// The manifest.
    #[error("a peer's block has BLAKE3 {found}, not the {expected} of the manifest")]
    Forged {
        /// In the manifest.
        expected: blake3::Hash,
        /// Of the bytes.
        found: blake3::Hash,
    },
}

/// A request for a block.
#[derive(Debug, Clone)]
struct Ask {
    at: (FileId, BlockIndex),
    node: NodeIndex,
    role: Role,
    hop: u8,
    wait: Duration,
    /// From 1.
    attempt: u32,
}

/// A reply, its body, how long its head took, and its line of the audit log.
type Answer = io::Result<(Reply, link::Body, Duration, Option<PeerRequest>)>;

impl Ask {
    async fn send(self, inner: Arc<Inner>, urgent: bool) -> Answer {
        let (file, block) = self.at;
        let (object, name) = {
            let swarm = inner.swarm();
            (swarm.object(file), swarm.name(self.node).cloned())
        };
        let address = name.as_ref().and_then(|name| lock(&inner.addresses).get(name).copied());
        let (Some(object), Some(name), Some(to)) = (object, name, address) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let line = wire::block_line(object, block);
        let headers = wire::block_headers(self.role, self.hop, self.wait, urgent);
        let asked = Instant::now();
        let mut audited = inner.audit.as_ref().zip(inner.store.file(file)).map(|(audit, found)| {
            let range = found.layout().range_of(block);
            audit.ask_peer(name.as_str(), &found.object().key, range, urgent, self.attempt)
        });
        let send = Send { to, line: &line, headers: &headers, body: &[], wait: self.wait };
        let answer = inner.pool.ask(send).await;
        if let Some(audited) = &mut audited {
            match &answer {
                Ok((reply, _)) => audited.answered(reply.status),
                Err(error) => audited.ended(Some(error)),
            }
        }
        let (reply, body) = answer?;
        Ok((reply, body, asked.elapsed(), audited))
    }
}

impl Peers {
    /// A reader waits for these blocks: those that are on their way to it already are hurried. Called by `fetch`.
    pub fn urge(&self, file: FileId, blocks: &std::ops::Range<u32>) {
        self.inner.swarm().urge(file, blocks);
    }

    /// Begins to fetch a block that was claimed or chosen.
    #[must_use]
    pub fn fetch(&self, file: FileId, block: BlockIndex, urgent: bool) -> Fetching {
        let pursuit = self.inner.swarm().pursue((file, block), urgent, Instant::now());
        let landing = OriginRead { inner: Arc::clone(&self.inner), file, blocks: block.0..block.0 + 1 };
        Fetching { inner: Arc::clone(&self.inner), pursuit, from: None, asked: 0, landing: Some(landing) }
    }

    /// Blocks that are read from the origin without asking anybody.
    #[must_use]
    pub fn read_origin(&self, file: FileId, blocks: std::ops::Range<u32>) -> OriginRead {
        let (mut swarm, now) = (self.inner.swarm(), Instant::now());
        for block in blocks.clone().map(BlockIndex) {
            let bytes = swarm.len((file, block));
            swarm.counts.read_origin(Why::Alone, bytes);
            swarm.read_begins((file, block), now);
        }
        OriginRead { inner: Arc::clone(&self.inner), file, blocks }
    }
}

impl Fetching {
    /// The next body to try, or the permission to read the origin. After a body, [`Self::received`] comes first.
    pub async fn next(&mut self) -> Next {
        loop {
            let step = self.inner.swarm().next_step(&mut self.pursuit, Instant::now());
            match step {
                Step::Origin => {
                    let (file, block) = self.pursuit.at();
                    let landing = self.landing.take().unwrap_or_else(|| OriginRead {
                        inner: Arc::clone(&self.inner),
                        file,
                        blocks: block.0..block.0 + 1,
                    });
                    return Next::Origin(landing);
                }
                Step::Wait(pause) => tokio::time::sleep(pause).await,
                Step::Ask { node, role, hop, wait } => {
                    self.asked += 1;
                    let ask = Ask { at: self.pursuit.at(), node, role, hop, wait, attempt: self.asked };
                    if let Some(body) = self.answer(ask).await {
                        return Next::Body(Box::new(body));
                    }
                }
            }
        }
    }

    /// Asks a peer, and a second one if a reader waits and the first one takes long. The body that comes first.
    async fn answer(&mut self, ask: Ask) -> Option<Body> {
        let mut first = pin!(ask.clone().send(Arc::clone(&self.inner), self.pursuit.is_urgent()));
        let mut wait = self.inner.swarm().hedge_after(ask.node);
        let second = loop {
            if let Ok(answer) = tokio::time::timeout(wait, &mut first).await {
                return self.take(ask.node, answer).await;
            }
            if let Some(node) = self.inner.swarm().hedge(&mut self.pursuit, Instant::now()) {
                break node;
            }
            // No reader waits, or nobody else has it: both may change.
            wait = LOOK_AGAIN;
        };
        self.asked += 1;
        let other = Ask { node: second, role: Role::Holder, hop: 0, attempt: self.asked, ..ask };
        let mut other = pin!(other.send(Arc::clone(&self.inner), true));
        tokio::select! {
            answer = &mut first => {
                if let Some(body) = self.take(ask.node, answer).await {
                    self.inner.swarm().abandoned(second);
                    return Some(body);
                }
                let answer = other.await;
                self.take(second, answer).await
            }
            answer = &mut other => {
                if let Some(body) = self.take(second, answer).await {
                    self.inner.swarm().abandoned(ask.node);
                    return Some(body);
                }
                let answer = first.await;
                self.take(ask.node, answer).await
            }
        }
    }

    /// Takes in what a peer answered; its body if that is the block.
    async fn take(&mut self, node: NodeIndex, answer: Answer) -> Option<Body> {
        match answer {
            Ok((reply, body, took, mut audited)) => {
                if let Some(queue) = reply.queue {
                    self.inner.swarm().queue_is(node, queue);
                }
                match self.sort(&reply) {
                    Ok(crc64) => {
                        self.inner.swarm().answered_after(node, took);
                        self.from = Some((node, reply.by));
                        let proof = self.inner.proof(self.pursuit.at());
                        let slowest = self.inner.swarm().slowest();
                        let pace = Pace { began: Instant::now(), lent: 0, slowest };
                        return Some(Body { body, crc64, proof, pace, audited });
                    }
                    Err(outcome) => {
                        // Reads what little body there is, so that the connection is kept.
                        body.whole().await.ok();
                        if let Some(audited) = &mut audited {
                            audited.ended(None);
                        }
                        self.tell(node, &outcome);
                    }
                }
            }
            Err(error) => {
                let is_alive = self.is_slow(node, &error);
                tracing::debug!(%error, ?node, is_alive, "a peer did not answer");
                let outcome = if is_alive { Outcome::Busy(Duration::ZERO) } else { Outcome::Failed };
                self.tell(node, &outcome);
            }
        }
        None
    }

    /// Whether a request failed only because its peer is busy: something comes from it all the time.
    fn is_slow(&self, node: NodeIndex, error: &io::Error) -> bool {
        let name = self.inner.swarm().name(node).cloned();
        let address = name.and_then(|name| lock(&self.inner.addresses).get(&name).copied());
        error.kind() == io::ErrorKind::TimedOut
            && address.is_some_and(|address| self.inner.pool.hears_from(address))
    }

    /// What became of the body: the block is there, or why not.
    pub fn received(&mut self, mut body: Box<Body>, result: Result<(), &BodyError>) {
        if let Some(audited) = &mut body.audited {
            audited.ended(result.err().map(|error| error as &dyn std::error::Error));
        }
        let Some((node, by)) = self.from.take() else { return };
        let outcome = match result {
            Ok(()) => Outcome::Got,
            Err(BodyError::Transport(_)) => Outcome::Failed,
            Err(BodyError::Crawls { .. }) => Outcome::Crawled,
            Err(BodyError::Corrupt { .. } | BodyError::Forged { .. }) => Outcome::Corrupt,
        };
        if outcome == Outcome::Got {
            let sender = self.inner.swarm().name(node).cloned();
            if let Some(sender) = sender {
                let reader = by.unwrap_or_else(|| sender.clone());
                lock(&self.inner.readers).insert(self.pursuit.at(), Came { reader, sender });
            }
        }
        self.tell(node, &outcome);
    }

    /// A reply's checksum if it brings the block, or what it says instead.
    fn sort(&self, reply: &Reply) -> Result<u64, Outcome> {
        let (file, block) = self.pursuit.at();
        let length = self.inner.swarm().len((file, block));
        match (reply.status, reply.crc64) {
            (200, Some(crc64)) if reply.length == length => Ok(crc64),
            (307, _) => {
                reply.holder.clone().map_or(Err(Outcome::NotHere), |name| Err(Outcome::Redirected(name)))
            }
            (404, _) => Err(Outcome::NotHere),
            (425, _) => Err(Outcome::NotYet),
            (503, _) => Err(Outcome::Busy(reply.retry.unwrap_or_default())),
            _ => Err(Outcome::Failed),
        }
    }

    fn tell(&mut self, node: NodeIndex, outcome: &Outcome) {
        let mut swarm = self.inner.swarm();
        if swarm.outcome(&mut self.pursuit, node, outcome, Instant::now()) {
            let name = swarm.name(node).cloned();
            tracing::error!(
                node = name.as_ref().map(Name::as_str),
                "a peer sent wrong bytes again and again; nothing is taken from it any more"
            );
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // Dropped in the middle of a body, at the end of the load: the request is over in any case.
        if let Some((node, _)) = self.from.take() {
            self.tell(node, &Outcome::NotYet);
        }
    }
}

impl Drop for OriginRead {
    fn drop(&mut self) {
        self.inner.judge(self.file, self.blocks.clone());
        let (mut swarm, now) = (self.inner.swarm(), Instant::now());
        for block in self.blocks.clone().map(BlockIndex) {
            swarm.land((self.file, block), now);
        }
    }
}

impl std::fmt::Debug for OriginRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginRead")
            .field("file", &self.file)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// CRC-64/XZ of the whole block, as the peer has it.
    #[must_use]
    pub fn block_crc64(&self) -> u64 {
        self.crc64
    }

    /// BLAKE3 that the block must have, where there is a manifest.
    #[must_use]
    pub fn block_proof(&self) -> Option<blake3::Hash> {
        self.proof
    }

    /// Waits until [`Self::next`] has its bytes at once. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection breaks, or nothing or far too little comes for a while. Final.
    pub async fn fill(&mut self, max: usize) -> Result<(), BodyError> {
        let pace = self.pace;
        let filled = self.body.fill(max, |come| pace.fault(come).is_none()).await;
        filled.map_err(|error| pace.fault(self.body.come()).unwrap_or_else(|| error.into()))
    }

    /// How many bytes of what [`Self::fill`] waits for have come.
    #[must_use]
    pub fn come(&self) -> usize {
        self.body.come()
    }

    /// The next bytes, at least one and at most `max`; None behind the last one.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes for a while. Final.
    pub async fn next(&mut self, max: usize) -> Result<Option<&[u8]>, BodyError> {
        let bytes = self.body.next(max).await?;
        self.pace.lent += bytes.map_or(0, |bytes| bytes.len() as u64);
        if let (Some(audited), Some(bytes)) = (&mut self.audited, bytes) {
            audited.received(bytes.len() as u64);
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("crc64", &self.crc64).finish_non_exhaustive()
    }
}
