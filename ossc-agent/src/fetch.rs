//! Moving bytes: everything between "this range is wanted" and "it is in the file". The gate demands ranges for
//! held readers, the agent plans the order and starts the background; worker threads take extents from one
//! queue, each block once whoever wants it, and move them from OSS connections straight into the files.
//!
//! Failures are retried within bounds; what is lost for good reaches exactly the readers that wait for it, as an
//! errno, and the log once with its cause. The gate decides who is held, the store what is ready; this part only
//! asks the one and fills the other.

mod crowd;
mod failure;
mod from_peers;
mod inflight;
mod lanes;
mod limit;
mod nics;
mod patience;
mod progress;
mod queue;
mod rate;
mod retry;
mod source;
mod sync;
mod threads;
mod transfer;
mod turns;
mod view;
mod worker;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

pub use failure::Failure;
pub use progress::{Counts, LaneWork, Progress};
pub use view::{BlockState, Network, NicView};

use self::crowd::Crowd;
use self::lanes::Lanes;
use self::limit::{Limit, OriginLimit};
use self::nics::Nics;
use self::patience::Patience;
use self::queue::Queue;
use self::retry::Policy;
use self::source::Source;
use self::threads::Threads;
use self::turns::Turns;
use self::view::Provenance;
use self::worker::{Connect, Shared};
use crate::base::{ByteRange, FileId, Lane, Nic};
use crate::oss;
use crate::peer::Peers;
use crate::store::Store;

/// What `sync` is made of.
mod primitives {
    pub(super) use std::sync::Mutex;
    pub(super) use tokio::sync::Notify;
    pub(super) use tokio::time::sleep_until;
}

/// Most threads by default: at 100 Gbit/s, 16 move less than 1 GB/s each.
const MAX_THREADS: u32 = 16;
/// Connections a thread by default: enough to fill a link whose connections are slow, few enough that a demand's
/// connection has a fair share of it.
const CONNECTIONS_PER_THREAD: u32 = 8;
/// Most connections by default. Each has a buffer of up to 1 MiB, and the agent is to stay below 128 MiB.
const MAX_CONNECTIONS: u32 = 96;
/// Most bytes of one request by default: at this size requests a second are no cost, and a broken one is
/// resumed anyway.
const MAX_EXTENT: u64 = 32 << 20;

/// Tries of one request by default: about 25 s with the waits between them, as patient as a load can be that a
/// reader waits for.
const TRIES: u32 = 8;
/// How long a file that could not be fetched is left alone by default: long enough not to hammer, short enough
/// that a load goes on by itself after an outage.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Worker threads.
    pub threads: NonZeroU32,
    /// Connections of each thread, at most; how many of them work at once depends on what that brings.
    pub connections_per_thread: NonZeroU32,
    /// NICs to connect through; empty = as the routes say.
    pub sources: Vec<Nic>,
    /// Most bytes of one request, rounded down to blocks but never below one.
    pub max_extent: u64,
    /// Tries of a request that makes no progress, the first one included; then readers that wait for its bytes
    /// get an error.
    pub tries: NonZeroU32,
    /// How long nothing of a file is fetched ahead of readers after that.
    pub retry_pause: Duration,
    /// Most bytes a second of all connections together.
    pub bandwidth_limit: Option<NonZeroU64>,
    /// Most bytes a second from OSS of this node and all its peers together.
    pub origin_max_rate: Option<NonZeroU64>,
}

impl Default for Config {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = u32::try_from(cpus).unwrap_or(MAX_THREADS).clamp(1, MAX_THREADS);
        let connections = CONNECTIONS_PER_THREAD.min(MAX_CONNECTIONS / threads);
        let positive = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            threads: positive(threads),
            connections_per_thread: positive(connections),
            sources: Vec::new(),
            max_extent: MAX_EXTENT,
            tries: positive(TRIES),
            retry_pause: RETRY_PAUSE,
            bandwidth_limit: None,
            origin_max_rate: None,
        }
    }
}

/// A worker thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start fetch thread {number}; check the limits on threads and open files")]
pub struct StartError {
    number: u32,
    source: std::io::Error,
}

/// Called once when a wanted range is ready or lost for good: from a worker thread, or at once from the asking
/// one. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), Failure>) + Send>;

/// What the agent's loop wants to know.
#[derive(Debug)]
pub enum Event {
    /// Every block is there and the checksum agrees (or OSS has none). Not sent for files that were complete
    /// at start.
    Complete(FileId),
    /// The file cannot be completed: its object was replaced, or its bytes are wrong. Sent once a file. Its
    /// ready blocks stay ready, except after wrong bytes.
    Failed(FileId, Failure),
}

/// Handle to queue and workers; clones share them. When the last one is dropped the threads stop by themselves.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Starts the threads. Nothing is fetched until it is asked for, but files that have all blocks from an
    /// earlier run and were not sealed are sealed now. Called by the agent, with the store laid out.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub fn start(
        config: &Config,
        store: Arc<Store>,
        client: oss::Client,
        peers: Option<Peers>,
        events: UnboundedSender<Event>,
    ) -> Result<Self, StartError> {
        let sources = config.sources.clone();
        let connect: Connect<oss::Connection> =
            Arc::new(move |nic| client.connection(sources.get(nic).cloned()));
        let retry = Policy { tries: config.tries.get(), rest: config.retry_pause, ..Policy::default() };
        Self::start_with(config, store, &connect, retry, peers, events)
    }

    fn start_with<S: Source + 'static>(
        config: &Config,
        store: Arc<Store>,
        connect: &Connect<S>,
        retry: Policy,
        peers: Option<Peers>,
        events: UnboundedSender<Event>,
    ) -> Result<Self, StartError> {
        let connections = config.threads.saturating_mul(config.connections_per_thread);
        let mut lanes = Lanes::new(connections);
        let mut full = VecDeque::new();
        for file in store.files() {
            lanes.add_file(file.layout(), |block| file.ready().is_ready(block));
            if file.ready().is_full() && !file.is_complete() {
                full.push_back(file.id());
            }
        }
        let provenance = store.files().iter().map(|file| Provenance::new(file.ready().snapshot()));
        let queue = Queue::new(lanes, full, peers.clone()).with_provenance(provenance.collect());
        let turns = Turns::new(store.files().len(), config.threads.get());
        let shared = Arc::new(Shared {
            store,
            queue,
            turns,
            nics: Nics::new(config.sources.len(), Instant::now()),
            patience: Patience::new(retry.still),
            crowd: Crowd::new(connections.get(), config.threads.get(), Instant::now()),
            limit: Limit::new(config.bandwidth_limit, Instant::now()),
            origin: OriginLimit::new(config.origin_max_rate, peers.clone(), Instant::now()),
            events,
            retry,
            peers,
            max_extent: config.max_extent,
        });
        let threads =
            Threads::start(&shared, connect, config.threads.get(), config.connections_per_thread.get())?;
        Ok(Self { shared, threads: Arc::new(threads) })
    }

    /// A reader waits for `range`: fetch it before all else, then call `done`. Calls it at once when the range
    /// is ready or cannot be had. Called by the gate.
    pub fn demand(&self, file: FileId, range: ByteRange, done: Done) {
        self.want(file, range, Lane::Demand, done);
    }

    /// Plans `range` as [`Self::plan`] does, and calls `done` as [`Self::demand`] does. For the agent, which
    /// reads the head of a file to learn what else to plan.
    pub fn plan_then(&self, file: FileId, range: ByteRange, done: Done) {
        self.want(file, range, Lane::Planned, done);
    }

    fn want(&self, file: FileId, range: ByteRange, lane: Lane, done: Done) {
        let is_there = || self.shared.store.file(file).is_some_and(|file| file.ready().covers(range));
        if is_there() {
            return done(Ok(()));
        }
        self.shared.queue.want(file, range, lane, is_there, done);
        if lane == Lane::Demand
            && let (Some(peers), Some(found)) = (&self.shared.peers, self.shared.store.file(file))
        {
            peers.urge(file, &found.layout().blocks_of(range));
        }
    }

    /// Expected to be wanted after what was planned before; fetched after all demands. Called by the agent.
    pub fn plan(&self, file: FileId, range: ByteRange) {
        self.shared.queue.plan(file, range);
    }

    /// Readers are about to want `ranges`: they come before all that was planned, and in place of what this was
    /// called with before. Called by the agent as readers go on.
    pub fn plan_ahead(&self, ranges: &[(FileId, ByteRange)]) {
        self.shared.queue.plan_ahead(ranges);
    }

    /// Plans a whole file before all else that is planned. How many bytes of it are missing. Called for an operator.
    pub fn plan_first(&self, file: FileId) -> u64 {
        self.shared.queue.plan_first(file)
    }

    /// Begins to fetch all the rest, file by file. Called by the agent when the default order is planned.
    pub fn start_background(&self) {
        self.shared.queue.start_background();
    }

    /// Lets idle connections look for what peers have by now. Called by the agent when peers have news.
    pub fn wake(&self) {
        self.shared.queue.wake();
    }

    /// The numbers of this moment. Cheap; takes the queue's lock.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.queue.progress()
    }

    /// What each lane has done and has to do, the most urgent first. Takes the queue's lock, for as long as counting
    /// wanted blocks takes: less than a millisecond for each thousand.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneWork> {
        self.shared.queue.lanes()
    }

    /// The blocks of a file. Takes the queue's lock, for as long as copying them takes.
    #[must_use]
    pub fn blocks(&self, file: FileId) -> Vec<BlockState> {
        self.shared.queue.blocks(file)
    }

    /// Whether the file is lost for good.
    #[must_use]
    pub fn is_lost(&self, file: FileId) -> bool {
        self.shared.queue.is_lost(file)
    }

    /// The store is about to empty this complete file: nothing of it is fetched, and whoever wants it waits, until
    /// [`Self::end_emptying`] says whether its bytes are gone. Called by the agent.
    pub fn begin_emptying(&self, file: FileId) {
        self.shared.queue.begin_emptying(file);
    }

    /// Ends that. A file whose bytes are gone is not fetched again until a reader, a peer or an operator wants it.
    pub fn end_emptying(&self, file: FileId, are_gone: bool) {
        self.shared.queue.end_emptying(file, are_gone);
    }

    /// Files that were emptied, and that nobody has wanted since.
    #[must_use]
    pub fn dormant(&self) -> BTreeSet<FileId> {
        self.shared.queue.dormant()
    }

    /// The connections to OSS.
    #[must_use]
    pub fn network(&self) -> Network {
        let (at_work, most) = self.shared.crowd.size();
        Network { at_work, most, nics: self.shared.nics.view() }
    }

    /// Stops handing out work, gives blocks in flight up to `timeout` to arrive, ends and joins the threads, and
    /// fails everyone who still waits. Blocks; call it from a thread that may. Later demands fail at once.
    pub fn drain(&self, timeout: Duration) {
        self.threads.drain(&self.shared.queue, timeout);
        self.shared.queue.end_waiters();
    }
}

#[cfg(test)]
mod tests;
