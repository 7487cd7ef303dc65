//! Sharing blocks with the other nodes that load the same model, so that all of them together read OSS about once.
//!
//! `fetch` asks which block to fetch next and gets each from here or learns that it may read the origin; the agent
//! wires it and says when it ends. What is decided is in `swarm` and the files that extend it, all pure; around it
//! are the connections (`link`), the server (`server`), who is there (`membership`), and how they know each other
//! (`auth`). Peers are advice: wrong, old or missing blocks cost speed and never bytes, because a block is summed
//! before it becomes ready and the whole file is compared with OSS's checksum at the end.

pub mod answer;
mod auth;
pub mod authority;
pub mod bitmap;
mod choose;
mod config;
mod counts;
mod error;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod health;
mod id;
mod inner;
mod link;
pub mod manifest;
mod membership;
pub mod placement;
pub mod pursuit;
mod ramp;
pub mod reach;
mod sends;
mod server;
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub mod sim;
mod stream;
mod suspects;
pub mod swarm;
#[cfg(test)]
mod tests;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

pub use config::{Config, ManifestFiles, Security, TlsFiles, Trial};
pub use counts::{Counts, Partner, Tally};
pub use error::Error;
pub use exchange::{Body, BodyError, Fetching, Next, OriginRead};
pub use id::{BadName, Name, ObjectId};

use self::auth::Auth;
use self::inner::{Came, Inner};
use self::link::Pool;
use self::manifest::Manifest;
use self::membership::Discovery;
use self::sends::Sends;
use self::swarm::Swarm;
use crate::base::{BlockIndex, FileId};
use crate::oss::Audit;
use crate::store::Store;
use crate::sys::privileges;

/// Threads of the server and the membership, at most: at 100 Gbit/s sendfile keeps one or two busy.
const MAX_THREADS: usize = 4;

/// How long a stop lets blocks go out that peers are being sent.
const FINISH: Duration = Duration::from_secs(2);

/// What the rest of the agent does for peers. Implemented by the agent over the fetcher.
pub trait Local: Send + Sync {
    /// Fetches a block for a peer, after all that readers here wait for; calls `done` with whether it is there.
    fn want(&self, file: FileId, block: BlockIndex, done: Box<dyn FnOnce(bool) + Send>);
    /// Something was heard that may let an idle connection find work.
    fn wake(&self);
}

/// How planned and background work is chosen at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As if there were no peers.
    Alone,
    /// Only what readers wait for, until the peers have been asked for the first time.
    Settling,
    /// Block by block, as [`Peers::choose`] says.
    Sharing,
}

/// Handle to the exchange; clones share it.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
    /// Ended by [`Peers::stop`].
    running: Arc<Mutex<Running>>,
}

/// The threads; None once they are ended. Ended without waiting, because the agent's loop may not block.
struct Running(Option<Runtime>);

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

impl Peers {
    /// Listens and begins to look for peers. `bucket` is part of what makes objects the same; `connections` is how
    /// many blocks `fetch` moves at a time; `audit` hears of each request to a peer. Called by the agent with the store laid
    /// out.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the keys cannot be used.
    pub fn start(
        config: &Config,
        bucket: &str,
        store: Arc<Store>,
        connections: u32,
        audit: Option<Audit>,
    ) -> Result<Self, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("ossc-peer")
            // Keys and certificates that change are read again; all else is open.
            .on_thread_start(|| privileges::keep_only(privileges::FETCH))
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let runtime = Running(Some(runtime));
        let (listener, address) = runtime
            .listen(config.listen)
            .map_err(|source| Error::Listen { address: config.listen, source })?;
        let me = config.node.clone().unwrap_or_else(|| name_of(address));
        let auth = Arc::new(Auth::new(&config.security, &config.cluster, &me)?);
        let sources = config.sources.clone();
        let pool = Arc::new(Pool::new(Arc::clone(&auth), config.cluster.clone(), me.clone(), sources));
        let files = store.files().iter();
        let files =
            files.map(|file| (ObjectId::of(bucket, file.object(), file.layout()), file.layout())).collect();
        let proofs = config.manifest.as_ref().map(|files| proofs(files, bucket, &store)).transpose()?;
        let started = Instant::now();
        // Some connections are left for the origin: peers wait for what this node reads.
        let settings = swarm::Settings {
            peer_slots: (connections / 2).clamp(1, 16),
            origin_slots: connections.saturating_sub(connections / 2).clamp(1, 64),
            zone: config.zone.clone(),
            any_holder: !config.trial.owners_only,
            ..swarm::Settings::default()
        };
        let swarm = Swarm::new(settings, (me.clone(), config.weight), files, fastrand::u64(..), started);
        let inner = Arc::new(Inner {
            me,
            cluster: config.cluster.clone(),
            weight: config.weight,
            started,
            swarm: Mutex::new(swarm),
            addresses: Mutex::default(),
            readers: Mutex::default(),
            suspects: Mutex::default(),
            hashes: Mutex::default(),
            settled: OnceLock::new(),
            trial: config.trial,
            proofs,
            store,
            pool,
            audit,
            auth,
            sends: Arc::new(Sends::new(config.serve_slots, config.serve_rate)),
            local: Mutex::new(None),
            gossip: Mutex::new(None),
        });
        runtime.spawn(server::serve(Arc::clone(&inner), listener));
        runtime.spawn({
            let inner = Arc::clone(&inner);
            async move { inner.auth.keep_fresh().await }
        });
        let discovery = match (config.gossip, config.advertise) {
            (false, _) => Discovery::List,
            (true, Some(advertised)) => Discovery::Gossip(advertised),
            (true, None) if address.ip().is_unspecified() => return Err(Error::Advertise { address }),
            (true, None) => Discovery::Gossip(address),
        };
        runtime.spawn(membership::run(Arc::clone(&inner), config.seeds.clone(), discovery));
        tracing::info!(%address, node = %inner.me, cluster = %inner.cluster, "blocks are shared with peers");
        Ok(Self { inner, running: Arc::new(Mutex::new(runtime)) })
    }

    /// Gives peers what they need of the agent. Called once, when the fetcher runs.
    pub fn attach(&self, local: Arc<dyn Local>) {
        *lock(&self.inner.local) = Some(local);
    }

    /// How work is to be chosen now. Called by the queue of `fetch` for each choice.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.inner.settled.get().is_none() {
            Mode::Settling
        } else if self.inner.swarm().is_sharing(Instant::now()) {
            Mode::Sharing
        } else {
            Mode::Alone
        }
    }

    /// Takes a block that a reader waits for, or lets it wait for a free place.
    #[must_use]
    pub fn claim(&self, file: FileId, block: BlockIndex) -> bool {
        self.inner.swarm().claim((file, block), Instant::now())
    }

    /// Chooses among blocks in the order they are wanted, and takes one.
    pub fn choose(
        &self,
        wanted: &mut dyn Iterator<Item = (FileId, BlockIndex)>,
    ) -> Option<(FileId, BlockIndex)> {
        self.inner.swarm().choose(wanted, Instant::now())
    }

    /// The origin asks for fewer requests.
    pub fn slow_down(&self) {
        self.inner.swarm().ramp.slow_down(Instant::now());
    }

    /// This node's part of what the whole cluster may read from OSS a second. Called by `fetch` for each piece, where
    /// that is limited.
    #[must_use]
    pub fn origin_part(&self) -> f64 {
        self.inner.swarm().origin_part()
    }

    /// What came from where so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (blocks, bytes) = self.inner.sends.sent();
        Counts { served: Tally { blocks, bytes }, ..self.inner.swarm().counts }
    }

    /// How many nodes are there besides this one, and how many of all are not listened to because they sent wrong bytes.
    #[must_use]
    pub fn census(&self) -> (u64, u64) {
        self.inner.swarm().census()
    }

    /// Each node that this one knows or knew, but itself, and what went between them.
    #[must_use]
    pub fn partners(&self) -> Vec<Partner> {
        self.inner.swarm().partners()
    }

    /// Logs what came from where. Called by the agent when the load is over.
    pub fn log_counts(&self) {
        self.counts().log();
    }

    /// This node owns nothing from now on, and still serves. Called by the agent before it ends.
    pub fn drain(&self) {
        self.inner.swarm().drain();
    }

    /// Sends to their end the blocks that peers are being sent, for a while at most, and takes no new requests for any.
    /// Called by the agent before it ends.
    pub async fn finish(&self) {
        self.inner.sends.finish(FINISH).await;
    }

    /// Ends the exchange; connections in use are cut off. Called by the agent at its end.
    pub fn stop(&self) {
        *lock(&self.inner.local) = None;
        self.inner.pool.close();
        lock(&self.running).end();
    }
}

impl Running {
    fn listen(&self, on: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
        let listener = std::net::TcpListener::bind(on)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _context = self.0.as_ref().map(Runtime::enter);
        Ok((TcpListener::from_std(listener)?, address))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            // Runs until the runtime ends.
            drop(runtime.spawn(task));
        }
    }

    fn end(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the blocks of each file must be.
fn proofs(files: &ManifestFiles, bucket: &str, store: &Store) -> Result<Vec<Vec<blake3::Hash>>, Error> {
    let manifest = Manifest::read(&files.manifest, &files.public_key)?;
    let blocks = |file: &crate::store::File| {
        let (object, layout) = (file.object(), file.layout());
        manifest.blocks(bucket, object, layout).ok_or_else(|| Error::NotInManifest {
            path: files.manifest.clone(),
            key: object.key.clone(),
            etag: object.etag.as_str().to_owned(),
            block_size: layout.block_size().bytes(),
        })
    };
    store.files().iter().map(|file| blocks(file)).collect()
}

/// A name for a node that has none: its address and port.
fn name_of(address: SocketAddr) -> Name {
    let text = format!("{}-{}", address.ip(), address.port());
    let text: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let text = text.trim_matches('-').replace("--", "-x-");
    text.parse().unwrap_or_else(|_| Name::fallback())
}

/// A lock taken over from a panicked holder: holders leave the state whole between statements.
fn lock<T: ?Sized>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
