//! Starts the eBPF probes for a load. They are advice: without them the load is the same, only blind, so
//! every failure here is a line in the log and nothing more.

use std::sync::Arc;

use super::learn::Learner;
use crate::bpf::{self, Probes};
use crate::config::{Config, Targets};
use crate::store::Store;
use crate::sys::privileges;

/// The probes of a load, or none where the kernel gives none.
pub(super) struct Observation(Option<Probes>);

/// Loads and attaches the probes and tells them the files. Waits for the kernel on a thread of its own.
pub(super) async fn start(config: &Config, store: &Arc<Store>, learner: &Arc<Learner>) -> Observation {
    let targets = if config.observes_everybody() {
        bpf::Targets::Everybody
    } else {
        let Targets { pids, cgroups } = config.targets.clone();
        bpf::Targets::Chosen { pids, cgroups }
    };
    let (store, learner) = (Arc::clone(store), Arc::clone(learner));
    // A thread of its own and not one of the runtime's, which lack what this needs.
    let (sender, attached) = tokio::sync::oneshot::channel();
    let attach = move || {
        let observation = attach(targets, &store, learner);
        privileges::keep_only(privileges::NONE);
        // The receiver waits below, or the agent is ending.
        sender.send(observation).ok();
    };
    let started = std::thread::Builder::new().name("ossc-attach".into()).spawn(attach);
    if let Err(error) = started {
        tracing::warn!(%error, "accesses are not observed");
        return Observation(None);
    }
    attached.await.unwrap_or_else(|error| {
        tracing::error!(%error, "attaching the probes ended early");
        Observation(None)
    })
}

fn attach(targets: bpf::Targets, store: &Store, learner: Arc<Learner>) -> Observation {
    let probes = match Probes::start(&bpf::Config { targets }, move |access| learner.probes_saw(access)) {
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
