//! Serves the state of the load: brings the parts together that `status` looks at, and says which name and port it is
//! served at. Called by `prepare` and `load`.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::Error;
use super::guard::Guard;
use super::learn::Learner;
use crate::config::Config;
use crate::fetch::Fetcher;
use crate::metrics;
use crate::peer::Peers;
use crate::status::{About, Parts, Served, Server, View};
use crate::store::Store;

/// What this machine is called (hostname(7), proc_sys_kernel(5)).
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Takes the port, before anything is done that would have to be undone without it.
pub(super) fn listen(config: &Config) -> Result<Option<TcpListener>, Error> {
    let Some(address) = config.http else { return Ok(None) };
    let fail = |source| Error::Http { address, source };
    let listener = TcpListener::bind(address).map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    tracing::info!(%address, "the state of the load is served");
    Ok(Some(listener))
}

/// Begins to serve. `cancel` ends the load. One that cannot be served is loaded all the same.
pub(super) fn serve(
    config: &Config,
    (store, fetcher, guard, learner, peers): (
        &Arc<Store>,
        &Fetcher,
        Option<&Guard>,
        &Learner,
        Option<&Peers>,
    ),
    (requests, port): (metrics::Requests, Option<TcpListener>),
    cancel: UnboundedSender<()>,
    (at_start, started): (u64, Instant),
) -> Option<Server> {
    let model_dir = &config.store.model_dir;
    let about = About {
        source: format!("oss://{}/{}", config.oss.bucket, config.oss.prefix),
        model_dir: std::path::absolute(model_dir).unwrap_or_else(|_| model_dir.clone()).display().to_string(),
        gate: guard.map(|guard| guard.gate().mode().to_string()),
    };
    let parts = Parts {
        store: Arc::clone(store),
        fetcher: fetcher.clone(),
        gate: guard.map(|guard| guard.gate().numbers()).unwrap_or_default(),
        requests,
        foresight: learner.foresight(),
        positions: learner.positions(),
        peers: peers.cloned(),
    };
    let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default().trim().to_owned();
    let served = Served {
        view: Arc::new(View::new(about, parts, at_start, started)),
        cancel: config.command.is_empty().then_some(cancel),
        host,
    };
    let server = Server::start(served, model_dir, port);
    server.inspect_err(|error| tracing::error!(%error, "the state of the load is not served")).ok()
}
