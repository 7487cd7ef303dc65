//! Starts the eBPF probes for a load. They are advice: without them the load is the same, only blind, so
//! every failure here is a line in the log and nothing more.

use std::sync::Arc;

use crate::bpf::{self, Probes};
use crate::config::{Config, Targets};
use crate::store::Store;

/// The probes of a load, or none where the kernel gives none.
pub(super) struct Observation(Option<Probes>);

/// Loads and attaches the probes and tells them the files. Waits for the kernel on a thread of its own.
pub(super) async fn start(config: &Config, store: &Arc<Store>) -> Observation {
    let Targets { pids, cgroups } = config.targets.clone();
    let targets = if pids.is_empty() && cgroups.is_empty() && config.command.is_empty() {
        bpf::Targets::Everybody
    } else {
        bpf::Targets::Chosen { pids, cgroups }
    };
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || attach(targets, &store)).await {
        Ok(observation) => observation,
        Err(error) => {
            tracing::error!(%error, "attaching the probes ended early");
            Observation(None)
        }
    }
}

fn attach(targets: bpf::Targets, store: &Store) -> Observation {
    let probes = match Probes::start(&bpf::Config { targets }, |access| tracing::trace!(?access, "access")) {
        Ok(probes) => probes,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "accesses are not observed");
            return Observation(None);
        }
    };
    for file in store.files() {
        if let Err(error) = probes.watch(file.fd(), file.id()) {
            tracing::warn!(file = %file.object().name, error = &error as &dyn std::error::Error, "file not observed");
        }
    }
    Observation(Some(probes))
}

impl Observation {
    /// Observes this process and its descendants too.
    pub(super) fn add_pid(&self, pid: u32) {
        if let Some(probes) = &self.0
            && let Err(error) = probes.add_pid(pid)
        {
            tracing::warn!(pid, error = &error as &dyn std::error::Error, "process not observed");
        }
    }
}
