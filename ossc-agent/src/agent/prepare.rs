//! From a checked config to files that are visible and gated: list, lay out, probe the gate, mark, publish.
//! Called once by [`super::run`]. When any step fails, what it made is taken back by the part that made it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Error;
use crate::base::Bytes;
use crate::config::Config;
use crate::fetch::{self, Fetcher};
use crate::gate::{self, Gate};
use crate::store::{self, Store};
use crate::{oss, sys};

/// Descriptors besides the one of each file: sockets, events of held readers, probes, log.
const DESCRIPTORS_BESIDES_FILES: u64 = 512;

/// A load that readers can already use.
pub(super) struct Prepared {
    pub(super) store: Arc<Store>,
    pub(super) fetcher: Fetcher,
    /// None when every file was complete from the start.
    pub(super) gate: Option<Gate>,
    pub(super) events: UnboundedReceiver<fetch::Event>,
    pub(super) started: Instant,
}

pub(super) async fn prepare(config: &Config) -> Result<Prepared, Error> {
    let started = Instant::now();
    std::fs::create_dir_all(&config.state_dir)
        .map_err(|source| Error::StateDir { path: config.state_dir.clone(), source })?;
    let client = oss::Client::new(config.oss.clone())?;
    let store = Arc::new(lay_out(config, &client).await?);
    let (sender, events) = unbounded_channel();
    let fetcher = Fetcher::start(config.fetch.clone(), Arc::clone(&store), client, sender)?;
    let gate = match open_gate(&store, &fetcher) {
        Ok(gate) => gate,
        Err(error) => {
            // Nothing is visible yet; what was laid out stays hidden and is resumed by the next start.
            store.retire()?;
            return Err(error);
        }
    };
    Ok(Prepared { store, fetcher, gate, events, started })
}

async fn lay_out(config: &Config, client: &oss::Client) -> Result<Store, Error> {
    let objects = if config.offline {
        store::recorded(&config.store.model_dir)?
    } else {
        let began = Instant::now();
        let objects = client.list().await?;
        tracing::info!(
            objects = objects.len(),
            bytes = %Bytes(objects.iter().map(|object| object.size).sum()),
            ms = began.elapsed().as_millis(),
            "objects listed"
        );
        objects
    };
    if objects.is_empty() {
        return Err(Error::NothingListed { bucket: config.oss.bucket.clone(), prefix: config.oss.prefix.clone() });
    }
    let limit = sys::process::raise_descriptor_limit()
        .map_err(|source| Error::System { what: "raise the limit of open descriptors", source })?;
    if u64::try_from(objects.len()).unwrap_or(u64::MAX).saturating_add(DESCRIPTORS_BESIDES_FILES) > limit {
        return Err(Error::TooManyFiles { files: objects.len(), limit });
    }
    let store = Store::open(&config.store, objects)?;
    let incomplete = store.files().iter().filter(|file| !file.is_complete()).count();
    if config.offline && incomplete > 0 {
        let files = store.files().len();
        store.retire()?;
        return Err(Error::Incomplete { incomplete, files, model_dir: config.store.model_dir.clone() });
    }
    Ok(store)
}

/// Marks and publishes every file. A model that is complete needs no gate at all.
fn open_gate(store: &Store, fetcher: &Fetcher) -> Result<Option<Gate>, Error> {
    let gate = if store.files().iter().all(|file| file.is_complete()) {
        None
    } else {
        let mode = gate::probe(store.scratch_dir())?;
        tracing::info!(%mode, "gate chosen");
        Some(Gate::start(mode, fetcher.clone())?)
    };
    for file in store.files() {
        if let Some(gate) = &gate
            && !file.is_complete()
        {
            gate.protect(Arc::clone(file))?;
        }
        store.publish(file.id())?;
    }
    Ok(gate)
}
