//! Getting one block from peers: the steps that [`Swarm`] decides, done. Driven by a connection of `fetch`, which
//! writes the bytes and compares their checksum before the block becomes ready.
//!
//! [`Swarm`]: super::swarm::Swarm

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counts::Why;
use super::link::{self, Send};
use super::pursuit::{Outcome, Pursuit, Step};
use super::swarm::NodeIndex;
use super::wire::{self, Reply};
use super::{Came, Inner, Name, Peers, lock};
use crate::base::{BlockIndex, FileId};

/// A block on its way from peers.
pub struct Fetching {
    inner: Arc<Inner>,
    pursuit: Pursuit,
    /// Whom the body at hand is from.
    from: Option<(NodeIndex, Option<Name>)>,
    /// Lands the block when this is dropped, unless an [`OriginRead`] has taken that over.
    landing: Option<OriginRead>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// The block's bytes from a peer.
    Body(Body),
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
}

impl Peers {
    /// Begins to fetch a block that was claimed or chosen.
    #[must_use]
    pub fn fetch(&self, file: FileId, block: BlockIndex, urgent: bool) -> Fetching {
        let pursuit = self.inner.swarm().pursue((file, block), urgent, Instant::now());
        let landing = OriginRead { inner: Arc::clone(&self.inner), file, blocks: block.0..block.0 + 1 };
        Fetching { inner: Arc::clone(&self.inner), pursuit, from: None, landing: Some(landing) }
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
                    let (file, block) = self.pursuit.at();
                    let headers = wire::block_headers(role, hop, wait, self.pursuit.is_urgent());
                    match self.ask(node, (file, block), &headers, wait).await {
                        Ok((reply, body)) => {
                            if let Some(queue) = reply.queue {
                                self.inner.swarm().queue_is(node, queue);
                            }
                            match self.sort(&reply) {
                                Ok(crc64) => {
                                    self.from = Some((node, reply.by));
                                    return Next::Body(Body { body, crc64 });
                                }
                                Err(outcome) => {
                                    // Reads what little body there is, so that the connection is kept.
                                    body.whole().await.ok();
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
                }
            }
        }
    }

    /// Whether a request failed only because its peer is busy: something comes from it all the time.
    fn is_slow(&self, node: NodeIndex, error: &io::Error) -> bool {
        let name = self.inner.swarm().name(node).cloned();
        let address = name.and_then(|name| lock(&self.inner.addresses).get(&name).copied());
        error.kind() == io::ErrorKind::TimedOut
            && address.is_some_and(|address| self.inner.pool.hears_from(address))
    }

    /// What became of the body: the block is there, or why not.
    pub fn received(&mut self, result: Result<(), &BodyError>) {
        let Some((node, by)) = self.from.take() else { return };
        let outcome = match result {
            Ok(()) => Outcome::Got,
            Err(BodyError::Transport(_)) => Outcome::Failed,
            Err(BodyError::Corrupt { .. }) => Outcome::Corrupt,
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

    async fn ask(
        &self,
        node: NodeIndex,
        (file, block): (FileId, BlockIndex),
        headers: &[(&str, String)],
        wait: Duration,
    ) -> io::Result<(Reply, link::Body)> {
        let inner = &self.inner;
        let (object, name) = {
            let swarm = inner.swarm();
            (swarm.object(file), swarm.name(node).cloned())
        };
        let address = name.and_then(|name| lock(&inner.addresses).get(&name).copied());
        let (Some(object), Some(to)) = (object, address) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let line = wire::block_line(object, block);
        inner.pool.ask(Send { to, line: &line, headers, body: &[], wait }).await
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

    /// Waits until [`Self::next`] has its bytes at once. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes for a while. Final.
    pub async fn fill(&mut self, max: usize) -> Result<(), BodyError> {
        Ok(self.body.fill(max).await?)
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
        Ok(self.body.next(max).await?)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("crc64", &self.crc64).finish_non_exhaustive()
    }
}
