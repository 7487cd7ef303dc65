//! Serves the state of the load: brings the parts together that `status` looks at, and says which name and port it is
//! served at. Called by `prepare` and `load`.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::Error;
use super::prepare::Prepared;
use super::room::Room;
use crate::config::Config;
use crate::status::{About, Evict, Parts, Served, Server, View};

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

/// What an operator may have the loop do.
pub(super) struct Controls {
    /// Ends the load.
    pub(super) cancel: UnboundedSender<()>,
    /// Empties a file.
    pub(super) evict: UnboundedSender<Evict>,
}

/// Begins to serve. A load that cannot be served goes on all the same.
pub(super) fn serve(
    config: &Config,
    load: &mut Prepared,
    room: &Room,
    controls: Controls,
) -> (Arc<View>, Option<Server>) {
    let model_dir = &config.store.model_dir;
    let guard = load.guard.as_ref();
    let about = About {
        source: format!("oss://{}/{}", config.oss.bucket, config.oss.prefix),
        model_dir: std::path::absolute(model_dir).unwrap_or_else(|_| model_dir.clone()).display().to_string(),
        gate: guard.map(|guard| guard.gate().mode().to_string()),
        expire: config.room.expire,
        budget: config.room.budget,
    };
    let parts = Parts {
        store: Arc::clone(&load.store),
        fetcher: load.fetcher.clone(),
        gate: guard.map(|guard| guard.gate().numbers()).unwrap_or_default(),
        requests: load.requests.clone(),
        foresight: load.learner.foresight(),
        room: room.numbers(),
        positions: load.learner.positions(),
        peers: load.peers.clone(),
    };
    let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default().trim().to_owned();
    let view = Arc::new(View::new(about, parts, load.at_start, load.started));
    let served = Served {
        view: Arc::clone(&view),
        cancel: config.command.is_empty().then_some(controls.cancel),
        evict: controls.evict,
        host,
    };
    let server = Server::start(served, model_dir, load.port.take());
    (view, server.inspect_err(|error| tracing::error!(%error, "the state of the load is not served")).ok())
}
