//! From a checked config to files that are visible and gated: list, lay out, choose the gate meanwhile, mark, publish.
//! Called once by [`super::run`]. When any step fails, what it made is taken back by the part that made it.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Error;
use super::guard::{Choice, Guard};
use super::learn::Learner;
use super::share;
use crate::base::{Bytes, FileId, millis};
use crate::config::Config;
use crate::fetch::{self, Fetcher};
use crate::keeper::Inherited;
use crate::peer::Peers;
use crate::spans::Spans;
use crate::store::{self, Store};
use crate::{metrics, oss, sys};

/// Descriptors besides the one of each file: sockets, events of held readers, probes, log.
const DESCRIPTORS_BESIDES_FILES: u64 = 512;

/// A load that readers can already use.
pub(super) struct Prepared {
    pub(super) store: Arc<Store>,
    /// Files of which the fetcher will report the completion, or the loss.
    pub(super) incomplete: BTreeSet<FileId>,
    pub(super) fetcher: Fetcher,
    pub(super) peers: Option<Peers>,
    pub(super) learner: Arc<Learner>,
    /// None when every file was complete from the start.
    pub(super) guard: Option<Guard>,
    pub(super) events: UnboundedReceiver<fetch::Event>,
    /// Requests to OSS.
    pub(super) requests: metrics::Requests,
    /// Where the state of the load is to be served.
    pub(super) port: Option<TcpListener>,
    /// Bytes that were ready before anything was fetched.
    pub(super) at_start: u64,
    pub(super) started: Instant,
    /// Who wants to know of steps.
    pub(super) spans: Option<Spans>,
    /// When the files became visible.
    pub(super) visible: SystemTime,
}

pub(super) async fn prepare(
    config: &Config,
    inherited: Option<Inherited>,
    watchers: oss::Watchers,
) -> Result<Prepared, Error> {
    let started = Instant::now();
    std::fs::create_dir_all(&config.state_dir)
        .map_err(|source| Error::StateDir { path: config.state_dir.clone(), source })?;
    let port = super::view::listen(config)?;
    let (spans, audit) = (watchers.spans.clone(), watchers.audit.clone());
    let client = oss::Client::watched(config.oss.clone(), watchers)?;
    let requests = client.metrics();
    let choice = Choice::begin(config, inherited.as_ref());
    let store = Arc::new(lay_out(config, &client, inherited.as_ref(), spans.as_ref(), started).await?);
    // Before the fetcher, which seals at once what an earlier run left full.
    let incomplete = store.files().iter().filter(|file| !file.is_complete()).map(|file| file.id()).collect();
    let (sender, events) = unbounded_channel();
    let peers = share::start(config, &store, audit)?;
    let fetcher = Fetcher::start(&config.fetch, Arc::clone(&store), client, peers.clone(), sender)?;
    let at_start = fetcher.progress().bytes_ready;
    share::attach(peers.as_ref(), &store, &fetcher);
    let learner = Arc::new(Learner::start(config, &store, &fetcher));
    let began = SystemTime::now();
    let guard = match publish(config, &store, &fetcher, &learner, (inherited, choice)) {
        Ok(guard) => guard,
        Err(error) => {
            // What was laid out is hidden and resumed by the next start.
            store.retire()?;
            return Err(error);
        }
    };
    let visible = SystemTime::now();
    spans.iter().for_each(|spans| spans.step("show", began, []));
    Ok(Prepared {
        store,
        incomplete,
        fetcher,
        peers,
        learner,
        guard,
        events,
        requests,
        port,
        at_start,
        started,
        spans,
        visible,
    })
}

async fn lay_out(
    config: &Config,
    client: &oss::Client,
    inherited: Option<&Inherited>,
    spans: Option<&Spans>,
    started: Instant,
) -> Result<Store, Error> {
    let objects = if config.offline {
        let mut objects = store::recorded(&config.store.model_dir)?;
        // Another model may be in the directory, too.
        objects.retain(|object| object.key.starts_with(&config.oss.prefix));
        if objects.is_empty() {
            return Err(Error::NothingRecorded { model_dir: config.store.model_dir.clone() });
        }
        objects
    } else {
        let began = Instant::now();
        let objects = step(spans, "list", client.list()).await?;
        tracing::info!(
            objects = objects.len(),
            bytes = %Bytes(objects.iter().map(|object| object.size).sum()),
            ms = millis(began.elapsed()),
            "objects listed"
        );
        objects
    };
    let limit =
        sys::process::raise_open_files().map_err(sys::Error::when("raise the limit of open descriptors"))?;
    if u64::try_from(objects.len()).unwrap_or(u64::MAX).saturating_add(DESCRIPTORS_BESIDES_FILES) > limit {
        return Err(Error::TooManyFiles { files: objects.len(), limit });
    }
    let files = inherited.iter().flat_map(|inherited| &inherited.files);
    let files = files
        .map(|(_, fd)| fd.try_clone())
        .collect::<Result<_, _>>()
        .map_err(sys::Error::when("duplicate a descriptor"))?;
    let store = step(spans, "lay out", async { Store::take_over(&config.store, objects, files) }).await?;
    say(store.report(), started);
    let incomplete = store.files().iter().filter(|file| !file.is_complete()).count();
    if config.offline && incomplete > 0 {
        let files = store.files().len();
        store.retire()?;
        return Err(Error::Incomplete { incomplete, files, model_dir: config.store.model_dir.clone() });
    }
    Ok(store)
}

/// Does something that is a span of the load.
async fn step<T>(spans: Option<&Spans>, name: &'static str, work: impl Future<Output = T>) -> T {
    let began = SystemTime::now();
    let done = work.await;
    spans.iter().for_each(|spans| spans.step(name, began, []));
    done
}

/// Guards and publishes every file. A model that is complete needs no guard at all.
fn publish(
    config: &Config,
    store: &Store,
    fetcher: &Fetcher,
    learner: &Arc<Learner>,
    guards: (Option<Inherited>, Choice),
) -> Result<Option<Guard>, Error> {
    let guard = Guard::start_if_needed(config, store, fetcher, learner, guards)?;
    match store.files().iter().try_for_each(|file| store.publish(file.id())) {
        Ok(()) => Ok(guard),
        Err(error) => {
            // Its keeper would wait for another agent.
            store.retire()?;
            if let Some(guard) = guard {
                guard.stop(store);
            }
            Err(error.into())
        }
    }
}

/// What was found on disk.
fn say(report: &store::Report, started: Instant) {
    tracing::info!(
        new = report.new.files,
        resumed = report.resumed.files,
        resumed_bytes = %Bytes(report.resumed.bytes),
        complete = report.complete.files,
        ms = millis(started.elapsed()),
        "files laid out"
    );
    for name in &report.replaced {
        tracing::warn!(file = %name, "the object changed in OSS since it was loaded: the file is replaced");
    }
    for name in &report.gone {
        tracing::warn!(file = %name, "the object is no longer in OSS: the file is left as it is");
    }
}
