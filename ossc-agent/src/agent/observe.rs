//! Starts the eBPF probes for a load. They are advice: without them the load is the same, only blind, so
//! every failure here is a line in the log and nothing more. They end when there is nothing more to learn, so that an
//! agent whose load is over costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::learn::Learner;
use crate::bpf::{self, Probes, Seen};
use crate::config::{Config, Targets};
use crate::store::Store;
use crate::sys::privileges;

/// How long after the last access that was news a complete load is watched: longer than a server that has started
/// takes to its first request, which may touch what its start did not.
const PATIENCE: Duration = Duration::from_secs(300);

/// The probes of a load, or none where the kernel gives none, or when there is nothing more to learn.
pub(super) struct Observation {
    probes: Option<Probes>,
    /// Blocks that had been touched when that number last changed, and when that was.
    touched: u64,
    changed: Instant,
}

/// Loads and attaches the probes and tells them the files. Waits for the kernel on a thread of its own.
pub(super) async fn start(config: &Config, store: &Arc<Store>, learner: &Arc<Learner>) -> Observation {
    if !config.observe {
        tracing::info!("accesses are not observed, as configured");
        return Observation::of(None);
    }
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
        return Observation::of(None);
    }
    attached.await.unwrap_or_else(|error| {
        tracing::error!(%error, "attaching the probes ended early");
        Observation::of(None)
    })
}

fn attach(targets: bpf::Targets, store: &Store, learner: Arc<Learner>) -> Observation {
    let sink = move |seen| match seen {
        Seen::Access(access) => learner.probes_saw(access),
        // Nobody asked for them; the gate knows better.
        Seen::Stall(_) => {}
    };
    let probes = match Probes::start(&bpf::Config::new(targets), sink) {
        Ok(probes) => probes,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "accesses are not observed");
            return Observation::of(None);
        }
    };
    for file in store.files() {
        if let Err(error) = probes.watch(file.fd(), file.id()) {
            tracing::warn!(file = %file.object().name, error = &error as &dyn std::error::Error, "file not observed");
        }
    }
    probes.find_mappings();
    Observation::of(Some(probes))
}

impl Observation {
    fn of(probes: Option<Probes>) -> Self {
        Self { probes, touched: 0, changed: Instant::now() }
    }

    /// Whether a complete load has nothing more to tell: every block was touched, or for long none that was not
    /// before. To be asked now and then.
    pub(super) fn is_over(&mut self, (touched, all): (u64, u64), now: Instant) -> bool {
        if touched != self.touched {
            (self.touched, self.changed) = (touched, now);
        }
        self.probes.is_some() && (touched == all || now.duration_since(self.changed) >= PATIENCE)
    }

    /// Detaches the probes: from here on they cost nobody anything. Waits for the kernel on a thread of its own.
    pub(super) fn end(&mut self) {
        if let Some(probes) = self.probes.take() {
            tokio::task::spawn_blocking(move || {
                drop(probes);
                tracing::info!("the order is known; eBPF probes detached");
            });
        }
    }

    /// Observes this process and its descendants too.
    pub(super) fn add_pid(&self, pid: u32) {
        if let Some(probes) = &self.probes
            && let Err(error) = probes.add_pid(pid)
        {
            tracing::warn!(pid, error = &error as &dyn std::error::Error, "process not observed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_all_is_touched_or_nothing_new_for_long() {
        // Without targets nothing is attached but what everybody needs.
        let targets = bpf::Targets::Chosen { pids: Vec::new(), cgroups: Vec::new() };
        let probes = Probes::start(&bpf::Config::new(targets), drop).unwrap();
        let mut observation = Observation::of(Some(probes));
        let start = observation.changed;
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!observation.is_over((0, 9), at(299)));
        assert!(!observation.is_over((5, 9), at(299)));
        assert!(!observation.is_over((5, 9), at(598)));
        assert!(observation.is_over((5, 9), at(599)));
        assert!(observation.is_over((9, 9), at(0)));
        observation.probes = None;
        assert!(!observation.is_over((9, 9), at(0)), "there is nothing left to end");
    }
}
