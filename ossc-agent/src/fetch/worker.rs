//! One connection's work: take an extent, fetch it, take the next. Receiving and writing happen on the same
//! thread, and nothing is shared between connections but the queue. `threads` runs these tasks.
//!
//! A failed try is repeated on a fresh connection as `retry` allows; what it cannot get over ends the waiters of
//! the block it is stuck at (or of the whole file, where its object was replaced). A full file is sealed by
//! whichever connection is free next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use super::Event;
use super::crowd::Crowd;
use super::failure::{Cause, Failure};
use super::from_peers::{FromPeers, from_peers};
use super::limit::{Limit, OriginLimit};
use super::nics::{self, Nics};
use super::patience::Patience;
use super::queue::{Queue, Work};
use super::rate::Rate;
use super::retry::{Policy, Retry};
use super::source::{Body as _, Fault, Remedy, Source};
use super::threads::Phase;
use super::transfer::{Transfer, Trouble, Way};
use super::turns::Turns;
use crate::base::{ByteRange, Extent, FileId, Lane, chain};
use crate::peer::{Mode, Peers};
use crate::store::{File, Sealed, Store};

/// Until the origin is asked again for a checksum it could not give.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// How soon a connection that is not to work looks whether there are peers to ask.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What all connections work on.
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) queue: Queue,
    pub(super) turns: Turns,
    pub(super) nics: Nics,
    pub(super) patience: Patience,
    pub(super) crowd: Crowd,
    pub(super) limit: Limit,
    pub(super) origin: OriginLimit,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) retry: Policy,
    pub(super) peers: Option<Peers>,
    /// Most bytes of one request.
    pub(super) max_extent: u64,
}

/// Makes connections through the NIC of this number.
pub(super) type Connect<S> = Arc<dyn Fn(usize) -> S + Send + Sync>;

/// A request that moved nothing again and again, on one connection after the other.
#[derive(Debug, thiserror::Error)]
#[error("no bytes come, on one connection after the other")]
struct StoodStill;

/// One connection's task.
pub(super) struct Connection<S> {
    shared: Arc<Shared>,
    source: S,
    connect: Connect<S>,
    /// Which NIC the source goes through.
    nic: usize,
    /// Nothing has come from the source yet: it may have to connect first.
    fresh: bool,
    /// Its number, from 0, and that of its thread.
    number: u32,
    thread: u32,
    rate: Rate,
    phase: watch::Receiver<Phase>,
}

impl<S: Source> Connection<S> {
    pub(super) fn new(
        shared: Arc<Shared>,
        connect: Connect<S>,
        (number, thread): (u32, u32),
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let nic = shared.nics.join();
        Self {
            source: connect(nic),
            shared,
            connect,
            nic,
            fresh: true,
            number,
            thread,
            rate: Rate::default(),
            phase,
        }
    }

    /// Works until there is nothing more, ever.
    pub(super) async fn run(mut self) {
        loop {
            // Among peers, how many read the origin is theirs to say; the others are to ask peers.
            if self.shared.peers.as_ref().is_none_or(|peers| peers.mode() == Mode::Alone) {
                if !self.shared.crowd.admits(self.number) {
                    // What this one has left to do, such as sealing a file that it has filled, is for another one.
                    self.shared.queue.pass_on();
                }
                tokio::select! {
                    biased;
                    () = self.shared.crowd.admitted(self.number) => {}
                    // Peers may have come meanwhile.
                    () = tokio::time::sleep(LOOK_AGAIN), if self.shared.peers.is_some() => continue,
                    // To be told to stop.
                    _ = self.phase.wait_for(|phase| *phase >= Phase::Draining) => {}
                }
            }
            let reach = self.rate.reach().min(self.shared.max_extent);
            // Connections of a thread write to the same file, since they never write at the same time.
            let slot = || (self.thread % self.shared.turns.width()) as usize;
            match self.shared.queue.next(reach, slot).await {
                Work::Fetch(extent, lane) => self.fetch(extent, lane).await,
                Work::Seal(file) => self.seal(file).await,
                Work::Stop => return,
            }
        }
    }

    /// Fetches an extent, or says for good that it cannot be had.
    async fn fetch(&mut self, extent: Extent, lane: Lane) {
        let shared = Arc::clone(&self.shared);
        let Some(file) = shared.store.file(extent.file) else { return };
        let mut transfer = Transfer::new(file, &shared.turns, &shared.queue, extent);
        // Held while the origin is read: peers may wait for these blocks as long as it is.
        let _reading = match from_peers(&shared, &mut transfer, lane, &mut self.phase).await {
            FromPeers::Not(reading) => reading,
            FromPeers::There | FromPeers::Ended => return,
            FromPeers::Write(error) => {
                let cause = |key, range| Cause::Write { key, range, source: error.into() };
                return shared.extent_lost(file, &transfer, cause);
            }
        };
        let nic = shared.nics.between(self.nic, Instant::now());
        if nic != self.nic {
            self.connect(nic);
            self.rate = Rate::default();
        }
        let mut retry = Retry::new(shared.retry);
        let mut tries = 0;
        loop {
            tries += 1;
            self.source.set_purpose(lane, tries);
            let (began, from, blocks) = (Instant::now(), transfer.position(), transfer.left().blocks.len());
            let way = Way {
                patience: &shared.patience,
                limit: &shared.limit,
                origin: &shared.origin,
                nics: &shared.nics,
                nic: self.nic,
                fresh: self.fresh,
            };
            let result = transfer.attempt(&mut self.source, way).await;
            let took = began.elapsed();
            let bytes = transfer.position() - from;
            self.rate.record(bytes, took);
            shared.crowd.arrived(bytes, shared.patience.typical(), Instant::now());
            shared.turns.record(took, transfer.take_waited());
            self.fresh &= transfer.position() == from;
            if result.is_ok() && shared.nics.worked(self.nic) {
                tracing::info!(nic = self.nic, "a NIC works again");
            }
            let fault = match result {
                Ok(_) => return,
                Err(Trouble::Source(fault)) => fault,
                Err(Trouble::SlowToEnd { nic }) => {
                    let (object, range) = (&file.object().key, transfer.stuck_at());
                    tracing::debug!(object, %range, from = self.nic, to = nic, "the end goes over a faster NIC");
                    shared.nics.change(self.nic, nic);
                    self.rate = Rate::default();
                    self.connect(nic);
                    shared.queue.retried(false);
                    continue;
                }
                Err(trouble @ (Trouble::Still { .. } | Trouble::Crawls)) if transfer.give_up() => {
                    tracing::debug!(
                        object = file.object().key,
                        range = %transfer.stuck_at(),
                        nic = self.nic,
                        ?trouble,
                        "request stands still; asking for the rest anew"
                    );
                    self.leave_nic(match trouble {
                        Trouble::Crawls => Some(nics::Failure::Crawls),
                        // What stands still while others come through the same NIC tells nothing of that.
                        Trouble::Still { silent: false } => None,
                        _ => Some(nics::Failure::Broken),
                    });
                    shared.queue.retried(false);
                    continue;
                }
                Err(Trouble::Still { .. } | Trouble::Crawls) => {
                    Fault { remedy: Remedy::TryAgain, cause: StoodStill.into() }
                }
                Err(Trouble::Write(error)) => {
                    let cause = |key, range| Cause::Write { key, range, source: error.into() };
                    return shared.extent_lost(file, &transfer, cause);
                }
            };
            if transfer.left().blocks.len() < blocks {
                retry.progressed();
            }
            let wait = match fault.remedy {
                Remedy::TryAgain => retry.after_failure(fastrand::f64()),
                Remedy::SlowDown => {
                    shared.crowd.slow_down(Instant::now());
                    shared.peers.iter().for_each(Peers::slow_down);
                    retry.after_slow_down(fastrand::f64())
                }
                Remedy::GiveUp => None,
                Remedy::GiveUpFile => {
                    let object = file.object();
                    let (key, etag) = (object.key.clone(), object.etag.clone());
                    return shared.file_lost(file.id(), Cause::Changed { key, etag, source: fault.cause });
                }
            };
            let Some(wait) = wait else {
                let cause = |key, range| Cause::Origin { key, range, source: fault.cause };
                return shared.extent_lost(file, &transfer, cause);
            };
            if !self.pause(file, &transfer, &fault, wait).await {
                return;
            }
        }
    }

    /// Goes on with a new connection, after one that failed or stood still; through another NIC if there is one.
    fn leave_nic(&mut self, failure: Option<nics::Failure>) {
        let nics = &self.shared.nics;
        if failure.is_some_and(|failure| nics.failed(self.nic, failure, Instant::now())) {
            tracing::warn!(nic = self.nic, "a NIC does not answer; its connections move to the others");
        }
        let nic = nics.after_failure(self.nic);
        if nic != self.nic {
            self.rate = Rate::default();
        }
        self.connect(nic);
    }

    fn connect(&mut self, nic: usize) {
        self.source = (self.connect)(nic);
        (self.nic, self.fresh) = (nic, true);
    }

    /// Waits before the next try. False if the load is being shut down.
    async fn pause(&mut self, file: &File, transfer: &Transfer<'_>, fault: &Fault, wait: Duration) -> bool {
        tracing::debug!(
            object = file.object().key,
            range = %transfer.stuck_at(),
            ?wait,
            cause = chain(&*fault.cause),
            "request is tried again"
        );
        if fault.remedy == Remedy::TryAgain {
            self.leave_nic(Some(nics::Failure::Broken));
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = self.phase.wait_for(|phase| *phase >= Phase::Draining) => return false,
        }
        self.shared.queue.retried(fault.remedy == Remedy::SlowDown);
        true
    }

    /// Asks the origin for the whole object's checksum where all blocks came from peers: those do not have the last
    /// word. False if the file is lost, or is to be sealed later.
    async fn ask_crc64(&mut self, file: &File) -> bool {
        let mut retry = Retry::new(self.shared.retry);
        while file.crc64().is_none() && file.layout().size() > 0 {
            let fault = match self.source.get(file.object(), ByteRange::new(0, 1)).await {
                Ok(body) => {
                    match body.object_crc64() {
                        Some(crc64) => file.note_crc64(crc64),
                        None => return true,
                    }
                    continue;
                }
                Err(fault) => fault,
            };
            let wait = match fault.remedy {
                Remedy::TryAgain => retry.after_failure(fastrand::f64()),
                Remedy::SlowDown => retry.after_slow_down(fastrand::f64()),
                Remedy::GiveUp => None,
                Remedy::GiveUpFile => {
                    let object = file.object();
                    let (key, etag) = (object.key.clone(), object.etag.clone());
                    self.shared.file_lost(file.id(), Cause::Changed { key, etag, source: fault.cause });
                    return false;
                }
            };
            let Some(wait) = wait else {
                let cause = chain(&*fault.cause);
                tracing::warn!(
                    object = file.object().key,
                    cause,
                    "the checksum of the object is not known; asking again later"
                );
                let (shared, id) = (Arc::clone(&self.shared), file.id());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(ASK_AGAIN).await;
                    shared.queue.full_again(id);
                });
                return false;
            };
            self.leave_nic(Some(nics::Failure::Broken));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = self.phase.wait_for(|phase| *phase >= Phase::Draining) => return false,
            }
        }
        true
    }

    /// Checks a full file. Its blocks were let out to readers one by one before this, as each arrived over a
    /// checked request; what is found here is a fault of the path or of the origin, and readers that came before
    /// have seen it. The file is fetched once more, and then lost for good.
    async fn seal(&mut self, id: FileId) {
        let Some(file) = self.shared.store.file(id).cloned() else { return };
        if self.shared.peers.is_some() && !self.ask_crc64(&file).await {
            return;
        }
        let sealer = Arc::clone(&file);
        let key = file.object().key.clone();
        match spawn_blocking(move || sealer.seal()).await {
            Ok(Ok(sealed @ (Sealed::Verified | Sealed::Unverified))) => {
                tracing::debug!(object = key, verified = sealed == Sealed::Verified, "file is complete");
                self.shared.tell(Event::Complete(id));
            }
            Ok(Ok(Sealed::Mismatch { expected, found })) => {
                let suspects = match &self.shared.peers {
                    Some(peers) => peers.suspects(id).await,
                    None => Vec::new(),
                };
                if !suspects.is_empty() {
                    tracing::error!(
                        object = key,
                        expected,
                        found,
                        blocks = suspects.len(),
                        "CRC-64 is wrong, and peers sent some of it; these blocks are fetched from OSS"
                    );
                    // The store first: a block it has afterwards was fetched afterwards.
                    file.forget_some(&suspects);
                    return self.shared.queue.forgotten_some(id, &suspects);
                }
                let again = self.shared.queue.mismatched(id);
                let failure = Failure::new(Cause::Checksum { key: key.clone(), expected, found });
                let lost = !again && self.shared.queue.file_lost(id, &failure);
                // The store first: a block it has afterwards was fetched afterwards.
                file.forget_blocks();
                self.shared.queue.forgotten(id);
                if lost {
                    self.shared.announce_lost(id, failure);
                } else {
                    tracing::error!(
                        object = key,
                        expected,
                        found,
                        "CRC-64 is wrong; the file is fetched again"
                    );
                }
            }
            Ok(Err(error)) => self.shared.file_lost(id, Cause::Seal { key, source: error.into() }),
            Err(error) => self.shared.file_lost(id, Cause::Seal { key, source: error.into() }),
        }
    }
}

impl Shared {
    /// Gives up the block an extent is stuck at: said once here, and to each of its readers by errno.
    fn extent_lost(
        &self,
        file: &File,
        transfer: &Transfer<'_>,
        cause: impl FnOnce(String, ByteRange) -> Cause,
    ) {
        let failure = Failure::new(cause(file.object().key.clone(), transfer.stuck_at()));
        // Each reader that asks tries again; that it fails as before is no news.
        if self.queue.extent_lost(transfer.left(), &failure, self.retry.rest) {
            tracing::error!(errno = %failure.errno(), cause = failure.chain(), "a block is lost to its readers");
        } else {
            tracing::debug!(errno = %failure.errno(), cause = failure.chain(), "a block is lost to its readers");
        }
    }

    /// Gives up a file.
    fn file_lost(&self, file: FileId, cause: Cause) {
        let failure = Failure::new(cause);
        if self.queue.file_lost(file, &failure) {
            self.announce_lost(file, failure);
        }
    }

    fn announce_lost(&self, file: FileId, failure: Failure) {
        tracing::error!(errno = %failure.errno(), cause = failure.chain(), "file is lost to its readers");
        self.tell(Event::Failed(file, failure));
    }

    fn tell(&self, event: Event) {
        if self.events.send(event).is_err() {
            tracing::debug!("nobody listens to fetch events any more");
        }
    }
}
