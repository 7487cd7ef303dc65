//! Finding who sent wrong blocks. A block is summed when it comes, so the network cannot change one; but a node may have
//! read, kept or made wrong bytes, with a checksum that fits them. The whole file's checksum shows that some block is
//! wrong. Which one: peers are asked for their checksums of all blocks, and those that differ are suspected, or else
//! every block that came from a peer. Suspects are read from the origin; whoever read or sent one that turns out
//! different is not listened to any more.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::link::Send;
use super::{Came, Inner, Name, Peers, lock};
use crate::base::{BlockIndex, FileId};

/// Peers that are asked for their checksums.
const ASKED: usize = 3;
/// Time for an answer: 42 000 lines of 40 bytes.
const ANSWER: Duration = Duration::from_secs(2);

/// A block that may be wrong.
#[derive(Debug)]
pub(super) struct Suspect {
    block: BlockIndex,
    /// What it summed up to.
    crc64: u64,
    came: Came,
}

impl Peers {
    /// The blocks of a file, whose checksum is wrong, that are to be read from the origin; none if no peer can be to
    /// blame, or was asked about this file before. Called by `fetch`, which forgets and fetches them.
    pub async fn suspects(&self, file: FileId) -> Vec<BlockIndex> {
        let inner = &self.inner;
        let came: Vec<_> = {
            let readers = lock(&inner.readers);
            let of_file = readers.iter().filter(|((of, _), _)| *of == file);
            of_file.map(|((_, block), came)| (*block, came.clone())).collect()
        };
        let first = !lock(&inner.suspects).contains_key(&file);
        // The second time the whole file is fetched, and from nobody else.
        if !first || came.is_empty() {
            let blocks = inner.store.file(file).map_or(0, |file| file.layout().block_count());
            inner.swarm().origin_only.extend((0..blocks).map(|block| (file, BlockIndex(block))));
            return Vec::new();
        }
        let disputed = inner.disputed(file).await;
        let all = !came.iter().any(|(block, _)| disputed.contains(block));
        let chosen = came.into_iter().filter(|(block, _)| all || disputed.contains(block));
        let suspects: Vec<_> = chosen
            .filter_map(|(block, came)| {
                let crc64 = inner.store.file(file)?.block_crc64(block)?;
                Some(Suspect { block, crc64, came })
            })
            .collect();
        let blocks: Vec<_> = suspects.iter().map(|suspect| suspect.block).collect();
        inner.swarm().origin_only.extend(blocks.iter().map(|block| (file, *block)));
        lock(&inner.suspects).insert(file, suspects);
        blocks
    }
}

impl Inner {
    /// Blocks of which a peer has another checksum.
    async fn disputed(self: &Arc<Self>, file: FileId) -> BTreeSet<BlockIndex> {
        let mut peers: Vec<SocketAddr> = lock(&self.addresses).values().copied().collect();
        fastrand::shuffle(&mut peers);
        let object = self.swarm().object(file);
        let (Some(object), Some(found)) = (object, self.store.file(file)) else { return BTreeSet::new() };
        let line = format!("GET /v1/o/{object}/digests");
        let mut disputed = BTreeSet::new();
        for to in peers.into_iter().take(ASKED) {
            let asked = async {
                let send = Send { to, line: &line, headers: &[], body: &[], wait: ANSWER };
                let (reply, body) = self.pool.ask(send).await?;
                let body = body.whole().await?;
                Ok::<_, std::io::Error>(if reply.status == 200 { body } else { Vec::new() })
            };
            let Ok(body) = asked.await else { continue };
            let text = String::from_utf8_lossy(&body);
            let lines = text.lines().filter_map(digest);
            disputed.extend(
                lines
                    .filter(|(block, crc64)| found.block_crc64(*block) != Some(*crc64))
                    .map(|(block, _)| block),
            );
        }
        disputed
    }

    /// Suspects have been read from the origin: whoever sent other bytes is quarantined.
    pub(super) fn judge(&self, file: FileId, blocks: std::ops::Range<u32>) {
        let guilty: Vec<Came> = {
            let mut all = lock(&self.suspects);
            let Some(suspects) = all.get_mut(&file) else { return };
            let read = suspects.extract_if(.., |suspect| blocks.contains(&suspect.block.0));
            let differs = |suspect: &Suspect| {
                let now = self.store.file(file).and_then(|file| file.block_crc64(suspect.block));
                now.is_some_and(|now| now != suspect.crc64)
            };
            read.filter(differs).map(|suspect| suspect.came).collect()
        };
        for block in blocks.map(BlockIndex) {
            lock(&self.readers).remove(&(file, block));
            lock(&self.hashes).remove(&(file, block));
        }
        for Came { reader, sender } in guilty {
            self.quarantine(&reader);
            self.quarantine(&sender);
        }
    }

    fn quarantine(&self, name: &Name) {
        let mut swarm = self.swarm();
        let node = swarm.find(name).filter(|_| *name != self.me);
        if node.is_some_and(|node| swarm.quarantine(node)) {
            tracing::error!(node = %name, "a peer sent a wrong block with a checksum that fits it; nothing is taken from it any more");
        }
    }
}

/// A line of a digest table: block, checksum, reader.
pub(super) fn digest(line: &str) -> Option<(BlockIndex, u64)> {
    let mut words = line.split(' ');
    let block = words.next()?.parse().ok()?;
    Some((BlockIndex(block), u64::from_str_radix(words.next()?, 16).ok()?))
}
