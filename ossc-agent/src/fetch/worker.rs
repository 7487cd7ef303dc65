//! The threads that move bytes. Each has its own single-threaded runtime and its own connections, one task a
//! connection: take an extent, fetch it, take the next. Receiving and writing happen on the same thread, and
//! nothing is shared between connections but the queue.
//!
//! A failed try is repeated on a fresh connection as `retry` allows; what it cannot get over ends the waiters of
//! the blocks that are left (or the whole file, where its object was replaced). A full file is sealed by
//! whichever connection is free next. On drain every task ends at its next block; at the deadline the rest is
//! cut off, which loses only the block begun.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet, spawn_blocking, spawn_local};

use super::failure::{Cause, Failure, chain};
use super::queue::{Queue, Work};
use super::rate::Rate;
use super::retry::{Policy, Retry};
use super::source::{Fault, Remedy, Source};
use super::transfer::{Transfer, Trouble};
use super::{Event, StartError};
use crate::base::{Extent, FileId};
use crate::store::{File, Sealed, Store};

/// How far the threads are on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// Blocks begun may end; no waiting for a retry any more.
    Draining,
    /// Everything is dropped where it stands.
    Halted,
}

/// What all connections work on.
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) queue: Queue,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) retry: Policy,
    /// Most bytes of one request.
    pub(super) max_extent: u64,
}

/// Makes connections; each call may use the next network interface.
pub(super) type Connect<S> = Arc<dyn Fn() -> S + Send + Sync>;

/// The running threads. Dropping it halts them without waiting.
pub(super) struct Threads {
    phase: watch::Sender<Phase>,
    running: std::sync::Mutex<Running>,
}

struct Running {
    handles: Vec<JoinHandle<()>>,
    /// Closed when the last thread has ended; nothing is ever sent.
    ended: Receiver<()>,
}

impl Threads {
    pub(super) fn start<S: Source + 'static>(
        shared: &Arc<Shared>,
        connect: &Connect<S>,
        threads: u32,
        connections: u32,
    ) -> Result<Self, StartError> {
        let (phase, _) = watch::channel(Phase::Running);
        let (alive, ended) = channel();
        let started = Self { phase, running: Running { handles: Vec::new(), ended }.into() };
        for number in 0..threads {
            let fail = |source| StartError { number, source };
            let runtime = Builder::new_current_thread().enable_all().build().map_err(fail)?;
            let thread = Thread {
                shared: Arc::clone(shared),
                connect: Arc::clone(connect),
                phase: started.phase.subscribe(),
                _alive: alive.clone(),
            };
            let handle = std::thread::Builder::new()
                .name(format!("ossc-fetch-{number}"))
                .spawn(move || thread.run(&runtime, connections))
                .map_err(fail)?;
            started.with_running(|running| running.handles.push(handle));
        }
        Ok(started)
    }

    /// Ends the threads: gives blocks in flight until the deadline, then cuts off. Joins them all.
    pub(super) fn drain(&self, queue: &Queue, timeout: Duration) {
        queue.close();
        self.phase.send_replace(Phase::Draining);
        self.with_running(|running| {
            if running.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!(?timeout, "requests still running at the end of the drain time are cut off");
                self.phase.send_replace(Phase::Halted);
            }
            for handle in running.handles.drain(..) {
                if handle.join().is_err() {
                    tracing::error!("a fetch thread had panicked");
                }
            }
        });
    }

    fn with_running<R>(&self, act: impl FnOnce(&mut Running) -> R) -> R {
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Halted);
    }
}

/// One thread's share.
struct Thread<S> {
    shared: Arc<Shared>,
    connect: Connect<S>,
    phase: watch::Receiver<Phase>,
    /// Dropped when the thread ends.
    _alive: Sender<()>,
}

impl<S: Source + 'static> Thread<S> {
    fn run(self, runtime: &Runtime, connections: u32) {
        LocalSet::new().block_on(runtime, async {
            // In a task of its own, so that it is looked at when a connection ends and not whenever bytes come.
            let supervisor = spawn_local(async move {
                let mut tasks = JoinSet::new();
                for _ in 0..connections {
                    let connection = Connection {
                        shared: Arc::clone(&self.shared),
                        source: (self.connect)(),
                        connect: Arc::clone(&self.connect),
                        rate: Rate::default(),
                        phase: self.phase.clone(),
                    };
                    tasks.spawn_local(connection.run());
                }
                let mut phase = self.phase.clone();
                tokio::select! {
                    () = async { while tasks.join_next().await.is_some() {} } => {}
                    _ = phase.wait_for(|phase| *phase == Phase::Halted) => {}
                }
            });
            if let Err(error) = supervisor.await {
                tracing::error!(%error, "the tasks of a fetch thread ended out of turn");
            }
        });
    }
}

/// One connection's task.
struct Connection<S> {
    shared: Arc<Shared>,
    source: S,
    connect: Connect<S>,
    rate: Rate,
    phase: watch::Receiver<Phase>,
}

impl<S: Source> Connection<S> {
    async fn run(mut self) {
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
        let mut transfer = Transfer::new(file, &shared.queue, extent);
        let mut retry = Retry::new(shared.retry);
        loop {
            let (began, from, blocks) = (Instant::now(), transfer.position(), transfer.left().blocks.len());
            let result = transfer.attempt(&mut self.source).await;
            self.rate.record(transfer.position() - from, began.elapsed());
            let fault = match result {
                Ok(_) => return,
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
            range = %transfer.left_range(),
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
                tracing::info!(object = key, verified = sealed == Sealed::Verified, "file is complete");
                self.shared.tell(Event::Complete(id));
            }
            Ok(Ok(Sealed::Mismatch { expected, found })) => {
                file.forget_blocks();
                if self.shared.queue.refetch(id) {
                    tracing::error!(
                        object = key,
                        expected,
                        found,
                        "CRC-64 is wrong; the file is fetched again"
                    );
                } else {
                    self.shared.file_lost(id, Cause::Checksum { key, expected, found });
                }
            }
            Ok(Err(error)) => self.shared.file_lost(id, Cause::Seal { key, source: error.into() }),
            Err(error) => self.shared.file_lost(id, Cause::Seal { key, source: error.into() }),
        }
    }
}

impl Shared {
    /// Gives up what is left of an extent: said once here, and to each reader of these blocks by errno.
    fn extent_lost(
        &self,
        file: &File,
        transfer: &Transfer<'_>,
        cause: impl FnOnce(String, crate::base::ByteRange) -> Cause,
    ) {
        let failure = Failure::new(cause(file.object().key.clone(), transfer.left_range()));
        tracing::error!(errno = %failure.errno(), cause = failure.chain(), "blocks are lost to their readers");
        self.queue.extent_lost(transfer.left(), &failure);
    }

    /// Gives up a file.
    fn file_lost(&self, file: FileId, cause: Cause) {
        let failure = Failure::new(cause);
        if self.queue.file_lost(file, &failure) {
            tracing::error!(errno = %failure.errno(), cause = failure.chain(), "file is lost to its readers");
            self.tell(Event::Failed(file, failure));
        }
    }

    fn tell(&self, event: Event) {
        if self.events.send(event).is_err() {
            tracing::debug!("nobody listens to fetch events any more");
        }
    }
}
