//! Joins the exchange with peers and the fetcher: neither knows how the other does its work. Called by `prepare`
//! at the start and by `load` at the end.

use std::sync::Arc;

use super::Error;
use crate::base::{BlockIndex, FileId};
use crate::config::Config;
use crate::fetch::Fetcher;
use crate::oss::Audit;
use crate::peer::{Local, Peers};
use crate::store::Store;

/// Starts the exchange if the user wants it. A model that is complete is served all the same.
pub(super) fn start(
    config: &Config,
    store: &Arc<Store>,
    audit: Option<Audit>,
) -> Result<Option<Peers>, Error> {
    let Some(peers) = &config.peers else { return Ok(None) };
    let connections = config.fetch.threads.get().saturating_mul(config.fetch.connections_per_thread.get());
    Ok(Some(Peers::start(peers, &config.oss.bucket, Arc::clone(store), connections, audit)?))
}

/// Lets peers have blocks fetched.
pub(super) fn attach(peers: Option<&Peers>, store: &Arc<Store>, fetcher: &Fetcher) {
    if let Some(peers) = peers {
        peers.attach(Arc::new(ForPeers { store: Arc::clone(store), fetcher: fetcher.clone() }));
    }
}

/// What peers may have this agent do.
struct ForPeers {
    store: Arc<Store>,
    fetcher: Fetcher,
}

impl Local for ForPeers {
    fn want(&self, file: FileId, block: BlockIndex, done: Box<dyn FnOnce(bool) + Send>) {
        match self.store.file(file) {
            Some(found) => {
                let range = found.layout().range_of(block);
                self.fetcher.plan_then(file, range, Box::new(move |result| done(result.is_ok())));
            }
            None => done(false),
        }
    }

    fn wake(&self) {
        self.fetcher.wake();
    }
}
