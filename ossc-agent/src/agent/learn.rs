//! Learns in which order the model is read, and uses what was learned. Every access comes by here, from the gate's
//! thread and from the probes': it is recorded for the loads to come, and tells what to fetch ahead in this one.
//! The loop has the recording kept when the load is complete, and again at the end of the run.
//!
//! All of it is advice. An order that cannot be read or kept is a line in the log, and the load goes on as one
//! without.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::family::Family;
use crate::base::{Access, AccessKind, ByteRange, Bytes, FileId, Layout};
use crate::config::Config;
use crate::fetch::Fetcher;
use crate::metrics::Foresight;
use crate::order::{self, Follower, Model, Orders, Plan, Recorder, Run, Shelf, Step};
use crate::status::Positions;
use crate::store::Store;
use crate::sys;

/// Name of the order of all readers together, when none was chosen.
const EVERYBODY: &str = "everybody";
/// A run that touched less of the model than this is not kept: it ended early, or was no load.
const LEAST_PERCENT: u64 = 10;

/// The order of one load.
pub(super) struct Learner {
    store: Arc<Store>,
    fetcher: Fetcher,
    /// Whose reads are recorded; every reader is followed.
    family: Family,
    recorder: Recorder,
    follower: Mutex<Follower>,
    positions: Arc<Positions>,
    plan: Plan,
    model: Model,
    command: String,
    started_ms: u64,
    /// Locked while something is kept.
    shelf: Mutex<Shelf>,
}

impl Learner {
    /// Looks up what is known of this model and command.
    pub(super) fn start(config: &Config, store: &Arc<Store>, fetcher: &Fetcher) -> Self {
        let source = format!("oss://{}/{}", config.oss.bucket, config.oss.prefix);
        let model = Model::new(source, store.files().iter().map(|file| file.object()));
        let command = command(config);
        let layouts: Vec<Layout> = store.files().iter().map(|file| file.layout()).collect();
        let shelf = Shelf::new(&config.state_dir);
        let plan = learned(&shelf, &model, &command, &layouts);
        Self {
            family: Family::new(&config.targets, config.observes_everybody()),
            recorder: Recorder::new(&layouts, sys::process::monotonic_ns()),
            follower: Mutex::new(Follower::new(layouts, &plan)),
            positions: Arc::default(),
            started_ms: since_1970_ms(),
            store: Arc::clone(store),
            fetcher: fetcher.clone(),
            shelf: Mutex::new(shelf),
            plan,
            model,
            command,
        }
    }

    /// Counts whether readers found their bytes there.
    pub(super) fn foresight(&self) -> Foresight {
        lock(&self.follower).foresight()
    }

    /// Where readers were last seen.
    pub(super) fn positions(&self) -> Arc<Positions> {
        Arc::clone(&self.positions)
    }

    /// The learned order; empty if nothing was learned.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// This process and its descendants are to be recorded too.
    pub(super) fn add_pid(&self, pid: u32) {
        self.family.add(pid);
    }

    /// The gate saw an access, of any process.
    pub(super) fn gate_saw(&self, access: Access) {
        if self.family.contains(access.pid) {
            self.recorder.note(&access);
        }
        self.follow(access);
    }

    /// The probes saw an access of a process they were told to watch.
    pub(super) fn probes_saw(&self, access: Access) {
        if access.kind == AccessKind::Unmap {
            return;
        }
        self.recorder.note(&access);
        self.follow(access);
    }

    fn follow(&self, access: Access) {
        tracing::trace!(?access, "access");
        self.positions.note(&access);
        let is_ready = |file: FileId, range: ByteRange| {
            self.store.file(file).is_none_or(|file| file.ready().covers(range))
        };
        let ahead = lock(&self.follower).access(access.file, access.range, is_ready);
        if let Some(ahead) = ahead {
            self.fetcher.plan_ahead(&ahead);
        }
    }

    /// How many blocks were touched so far, of how many.
    pub(super) fn touched(&self) -> (u64, u64) {
        self.recorder.touched()
    }

    /// Keeps the recording so far, in place of what this run kept before. Waits for the disk.
    pub(super) fn keep(&self) {
        let steps = self.recorder.steps();
        let run = Run { version: self.model.version.clone(), started_ms: self.started_ms, steps };
        let shelf = lock(&self.shelf);
        let known = shelf.load(&self.model.id()).unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the learned order is begun anew");
            None
        });
        let mut orders = known.unwrap_or_else(|| Orders::new(&self.model));
        let (touched, total) = (run.bytes(), orders.size());
        if touched.saturating_mul(100) < total.saturating_mul(LEAST_PERCENT) {
            tracing::debug!(touched = %Bytes(touched), "too little was read to learn an order from");
            return;
        }
        if orders.runs(&self.command, &run.version).contains(&&run) {
            return;
        }
        let steps = run.steps.len();
        orders.source.clone_from(&self.model.source);
        orders.add(&self.command, run);
        match shelf.save(&orders) {
            Ok(()) => {
                tracing::info!(command = self.command, steps, touched = %Bytes(touched), "order learned");
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the order of this load is not kept"
                );
            }
        }
    }
}

/// The plan of the loads before.
fn learned(shelf: &Shelf, model: &Model, command: &str, layouts: &[Layout]) -> Plan {
    let orders = match shelf.load(&model.id()) {
        Ok(Some(orders)) => orders,
        Ok(None) => return Plan::new(),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the load begins without a learned order"
            );
            return Plan::new();
        }
    };
    let runs: Vec<&[Step]> =
        orders.runs(command, &model.version).into_iter().map(|run| run.steps.as_slice()).collect();
    let plan = order::merge(layouts, &runs);
    let planned: u64 = plan.iter().map(|(_, range)| range.len()).sum();
    if planned > 0 {
        tracing::info!(command, runs = runs.len(), planned = %Bytes(planned), "learned order found");
    }
    plan
}

/// What the order is learned for: the command, or the process observed, or everybody.
fn command(config: &Config) -> String {
    let words = match config.targets.pids.first() {
        _ if !config.command.is_empty() => config.command.clone(),
        Some(pid) => words_of(*pid),
        None => Vec::new(),
    };
    order::command_name(&words).unwrap_or_else(|| EVERYBODY.to_owned())
}

/// The words of a running command (proc_pid_cmdline(5)); none if it has ended.
fn words_of(pid: u32) -> Vec<OsString> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    words.take_while(|word| !word.is_empty()).collect()
}

fn since_1970_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Every holder leaves the state whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
