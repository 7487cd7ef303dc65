//! One connection's work: take an extent, fetch it, take the next. Receiving and writing happen on the same
//! thread, and nothing is shared between connections but the queue. `threads` runs these tasks.
//!
//! A failed try is repeated on a fresh connection as `retry` allows; what it cannot get over ends the waiters of
//! the block it is stuck at (or of the whole file, where its object was replaced). A full file is sealed by
//! whichever connection is free next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::spawn_blocking;

use super::Event;
use super::failure::{Cause, Failure, chain};
use super::queue::{Queue, Work};
use super::rate::Rate;
use super::retry::{Policy, Retry};
use super::source::{Fault, Remedy, Source};
use super::threads::Phase;
use super::transfer::{Transfer, Trouble};
use crate::base::{ByteRange, Extent, FileId};
use crate::store::{File, Sealed, Store};

/// What all connections work on.
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) queue: Queue,
    /// For each file, whose turn it is to write to it.
    pub(super) turns: Vec<Mutex<()>>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) retry: Policy,
    /// Most bytes of one request.
    pub(super) max_extent: u64,
}

/// Makes connections; each call may use the next network interface.
pub(super) type Connect<S> = Arc<dyn Fn() -> S + Send + Sync>;

/// One connection's task.
pub(super) struct Connection<S> {
    shared: Arc<Shared>,
    source: S,
    connect: Connect<S>,
    rate: Rate,
    phase: watch::Receiver<Phase>,
}

impl<S: Source> Connection<S> {
    pub(super) fn new(shared: Arc<Shared>, connect: Connect<S>, phase: watch::Receiver<Phase>) -> Self {
        Self { shared, source: connect(), connect, rate: Rate::default(), phase }
    }

    /// Works until there is nothing more, ever.
    pub(super) async fn run(mut self) {
        loop {
            let reach = self.rate.reach().min(self.shared.max_extent);
            match self.shared.queue.next(reach).await {
                Work::Fetch(extent, _) => self.fetch(extent).await,
                Work::Seal(file) => self.seal(file).await,
                Work::Stop => return,
            }
        }
    }

    /// Fetches an extent, or says for good that it cannot be had.
    async fn fetch(&mut self, extent: Extent) {
        let shared = Arc::clone(&self.shared);
        let Some(file) = shared.store.file(extent.file) else { return };
        let range = file.layout().range_of_blocks(extent.blocks.clone());
        let Some(turn) = shared.turns.get(extent.file.index()) else { return };
        let mut transfer = Transfer::new(file, turn, &shared.queue, extent);
        let mut retry = Retry::new(shared.retry);
        loop {
            let (began, from, blocks) = (Instant::now(), transfer.position(), transfer.left().blocks.len());
            let result = transfer.attempt(&mut self.source).await;
            self.rate.record(transfer.position() - from, began.elapsed());
            let fault = match result {
                Ok(_) => return file.start_writeback(range),
                Err(Trouble::Source(fault)) => fault,
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
                Remedy::SlowDown => retry.after_slow_down(fastrand::f64()),
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
            self.source = (self.connect)();
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = self.phase.wait_for(|phase| *phase >= Phase::Draining) => return false,
        }
        self.shared.queue.retried(fault.remedy == Remedy::SlowDown);
        true
    }

    /// Checks a full file. Its blocks were let out to readers one by one before this, as each arrived over a
    /// checked request; what is found here is a fault of the path or of the origin, and readers that came before
    /// have seen it. The file is fetched once more, and then lost for good.
    async fn seal(&self, id: FileId) {
        let Some(file) = self.shared.store.file(id).cloned() else { return };
        let sealer = Arc::clone(&file);
        let key = file.object().key.clone();
        match spawn_blocking(move || sealer.seal()).await {
            Ok(Ok(sealed @ (Sealed::Verified | Sealed::Unverified))) => {
                tracing::debug!(object = key, verified = sealed == Sealed::Verified, "file is complete");
                self.shared.tell(Event::Complete(id));
            }
            Ok(Ok(Sealed::Mismatch { expected, found })) => {
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
