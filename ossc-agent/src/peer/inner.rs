//! The state of the exchange that its threads share, and what each asks of it: answers, what this node has, the
//! bytes and sums of a block. Decisions are the swarm's; nothing here waits for the network.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use super::answer::{Answer, Question};
use super::auth::Auth;
use super::config::Trial;
use super::id::{Name, ObjectId};
use super::link::Pool;
use super::sends::Sends;
use super::swarm::Swarm;
use super::{Local, lock, membership, suspects, wire};
use crate::base::{BlockIndex, FileId};
use crate::oss::Audit;
use crate::store::{self, Store};

/// What all threads of the exchange share.
pub(super) struct Inner {
    pub(super) me: Name,
    pub(super) cluster: Name,
    pub(super) weight: f64,
    pub(super) started: Instant,
    pub(super) swarm: Mutex<Swarm>,
    /// Where nodes are reached.
    pub(super) addresses: Mutex<HashMap<Name, SocketAddr>>,
    /// For each block that came from a peer: who read it from the origin, and who sent it.
    pub(super) readers: Mutex<HashMap<(FileId, BlockIndex), Came>>,
    /// Blocks with a wrong checksum that peers sent, by file: asked about once a file.
    pub(super) suspects: Mutex<HashMap<FileId, Vec<suspects::Suspect>>>,
    /// Keyed sums of blocks that were sent, where peers share a key.
    pub(super) hashes: Mutex<HashMap<(FileId, BlockIndex), String>>,
    /// Every seed was asked once, or the time for it is over.
    pub(super) settled: OnceLock<()>,
    pub(super) trial: Trial,
    /// By file and block, what they must be; None if anything that has its checksum will do.
    pub(super) proofs: Option<Vec<Vec<blake3::Hash>>>,
    pub(super) store: Arc<Store>,
    pub(super) pool: Arc<Pool>,
    /// Gets a line for each request to a peer.
    pub(super) audit: Option<Audit>,
    pub(super) auth: Arc<Auth>,
    pub(super) sends: Arc<Sends>,
    pub(super) local: Mutex<Option<Arc<dyn Local>>>,
    /// Where the membership takes its messages.
    pub(super) gossip: Mutex<Option<membership::gossip::Incoming>>,
}

/// How a block came from peers.
#[derive(Debug, Clone)]
pub(super) struct Came {
    /// Who read it from the origin, as its sender says.
    pub(super) reader: Name,
    /// Who sent it.
    pub(super) sender: Name,
}

impl Inner {
    pub(super) fn swarm(&self) -> MutexGuard<'_, Swarm> {
        lock(&self.swarm)
    }

    /// What a block of a peer must be.
    pub(super) fn proof(&self, (file, block): (FileId, BlockIndex)) -> Option<blake3::Hash> {
        self.proofs.as_ref()?.get(file.index())?.get(block.0 as usize).copied()
    }

    /// What a peer's question is answered at this moment.
    pub(super) fn answer(&self, question: &Question) -> Answer {
        let is_ready =
            |file: FileId| self.store.file(file).is_some_and(|file| file.ready().is_ready(question.block));
        self.swarm().answer(question, is_ready, self.sends.queue(), Instant::now())
    }

    /// Has a block fetched if it is not under way, and waits for it.
    pub(super) async fn await_block(&self, file: FileId, block: BlockIndex) -> bool {
        let Some(local) = lock(&self.local).clone() else { return false };
        let (tell, told) = tokio::sync::oneshot::channel();
        local.want(
            file,
            block,
            Box::new(move |there| {
                // The peer may have gone meanwhile.
                tell.send(there).ok();
            }),
        );
        told.await.unwrap_or(false)
    }

    /// A ready block, its checksum, and who read it from the origin.
    pub(super) fn block(&self, file: FileId, block: BlockIndex) -> Option<(&store::File, u64, Name)> {
        let found = self.store.file(file)?;
        let crc64 = found.block_crc64(block)? ^ u64::from(self.trial.lies);
        let by = lock(&self.readers)
            .get(&(file, block))
            .map_or_else(|| self.me.clone(), |came| came.reader.clone());
        Some((found, crc64, by))
    }

    /// The keyed sum of a block, where peers share a key: worked out once.
    pub(super) async fn block_hash(
        self: &Arc<Self>,
        file: FileId,
        block: BlockIndex,
    ) -> std::io::Result<String> {
        if let Some(known) = lock(&self.hashes).get(&(file, block)) {
            return Ok(known.clone());
        }
        let inner = Arc::clone(self);
        let sum = move || {
            let (Some(key), Some(found)) = (inner.auth.key(), inner.store.file(file)) else {
                return Err(std::io::Error::from(std::io::ErrorKind::NotFound));
            };
            let (range, mut hash) = (found.layout().range_of(block), key.body_hash());
            let mut buffer = vec![0; 256 << 10];
            let mut at = range.start();
            while at < range.end() {
                let left = usize::try_from(range.end() - at).unwrap_or(usize::MAX).min(buffer.len());
                let read = found.read_at(at, buffer.get_mut(..left).unwrap_or_default());
                let read = read.map_err(std::io::Error::other)?;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                hash.update(buffer.get(..read).unwrap_or_default());
                at += read as u64;
            }
            Ok(hash.finish())
        };
        let hash = tokio::task::spawn_blocking(sum).await.map_err(std::io::Error::other)??;
        lock(&self.hashes).insert((file, block), hash.clone());
        Ok(hash)
    }

    /// What this node has, as it tells others.
    pub(super) fn own_have(&self) -> (Vec<(&'static str, String)>, Vec<u8>) {
        let (objects, reading, draining, zone) = {
            let swarm = self.swarm();
            let files = self.store.files().iter();
            let objects: Vec<_> = files.filter_map(|file| Some((swarm.object(file.id())?, file))).collect();
            (objects, swarm.own_reading(), swarm.is_draining(), swarm.settings.zone.clone())
        };
        let words: Vec<_> = objects.iter().map(|(_, file)| file.ready().snapshot()).collect();
        let haves = objects.iter().zip(&words).filter(|((_, file), _)| file.layout().block_count() > 0);
        let haves =
            haves.map(|((object, file), words)| (*object, file.layout().block_count(), words.as_slice()));
        let body = wire::have_body(haves, &reading);
        let mut headers = vec![
            ("x-ossc-node", self.me.to_string()),
            ("x-ossc-weight", self.weight.to_string()),
            ("x-ossc-age-ms", self.started.elapsed().as_millis().to_string()),
            ("x-ossc-draining", u8::from(draining).to_string()),
            ("x-ossc-queue", self.sends.queue().to_string()),
        ];
        headers.extend(zone.map(|zone| ("x-ossc-zone", zone.to_string())));
        (headers, body)
    }

    /// The checksums of an object's blocks and who read them.
    pub(super) fn own_digests(&self, object: ObjectId) -> Option<Vec<u8>> {
        let file = self.swarm().file(object)?;
        let file = self.store.file(file)?;
        let readers = lock(&self.readers);
        let lines = (0..file.layout().block_count()).map(BlockIndex).filter_map(|block| {
            let crc64 = file.block_crc64(block)?;
            let by = readers.get(&(file.id(), block)).map_or(&self.me, |came| &came.reader);
            Some(format!("{} {crc64:016x} {by}\n", block.0))
        });
        Some(lines.collect::<String>().into_bytes())
    }

    /// A message of the membership. False if nobody takes it.
    pub(super) fn gossip_came(&self, from: SocketAddr, message: &[u8]) -> bool {
        let Some(message) = membership::gossip::parse(message) else { return false };
        let gossip = lock(&self.gossip).clone();
        // A full queue drops it, as a full socket buffer would.
        gossip.is_some_and(|gossip| gossip.try_send((from, message)).is_ok())
    }

    pub(super) fn wake(&self) {
        let local = lock(&self.local).clone();
        if let Some(local) = local {
            local.wake();
        }
    }
}
