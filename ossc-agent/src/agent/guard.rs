//! Gate and keeper of a load: started together before the first file is visible, or taken over together from
//! an agent that died.
//!
//! The keeper has its copies before the gate marks anything, so there is no moment in which a file is visible
//! and only this process holds its readers.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::learn::Learner;
use super::{Error, service};
use crate::bpf::stop::{self, Stopper};
use crate::config::{Config, LogFormat, LogLevel};
use crate::fetch::Fetcher;
use crate::gate::{self, Capacity, Gate, Guarded};
use crate::keeper::{self, Inherited, Keeper, Record};
use crate::store::{File, Inode, Store};
use crate::sys::fanotify::Group;
use crate::sys::{self, privileges};

/// What holds readers.
pub(super) struct Guard {
    gate: Gate,
    keeper: Keeper,
    /// What the service manager has copies of.
    in_store: service::Kept,
    /// Told when the keeper has ended.
    ended: Arc<Notify>,
    /// Takes SIGIO, whose default action would end the agent (`Keeper::release_unused_strays`).
    _sigio: Signal,
}

/// The choice of the gate, under way on a thread of its own while the objects are listed and laid out: loading and
/// verifying the programs takes longer than that where OSS is near. A model that turns out to be complete needs none of
/// it, and the programs go when the thread ends.
pub(super) struct Choice(Option<JoinHandle<Result<gate::Found, gate::Error>>>);

impl Choice {
    /// None is under way.
    pub(super) const NONE: Self = Self(None);

    /// Begins, unless what an earlier agent left decides.
    pub(super) fn begin(config: &Config, inherited: Option<&Inherited>) -> Self {
        if inherited.is_some() || is_switched_off(config) {
            return Self::NONE;
        }
        // A directory that is not there yet will be on the file system of the one that it will be made in.
        let model_dir = absolute(&config.store.model_dir);
        let Some(dir) = model_dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned) else {
            return Self::NONE;
        };
        let choosing = thread::Builder::new().name("ossc-choice".into()).spawn(move || gate::probe(&dir));
        Self(choosing.inspect_err(|error| tracing::debug!(%error, "the gate is chosen later")).ok())
    }

    /// What was chosen. A failure counts only in the directory itself.
    fn made(self, config: &Config) -> Result<gate::Found, gate::Error> {
        match self.0.map(JoinHandle::join) {
            Some(Ok(Ok(found))) => Ok(found),
            _ => gate::probe(&config.store.model_dir),
        }
    }
}

impl Guard {
    /// Guards every file that is not complete; `None` when none is and nobody waits.
    pub(super) fn start_if_needed(
        config: &Config,
        store: &Store,
        fetcher: &Fetcher,
        learner: &Arc<Learner>,
        (inherited, choice): (Option<Inherited>, Choice),
    ) -> Result<Option<Self>, Error> {
        let is_needed = store.files().iter().any(|file| !file.is_complete()) && !is_switched_off(config);
        if inherited.is_none() && !is_needed {
            return Ok(None);
        }
        Self::start(config, store, fetcher, learner, (inherited, choice)).map(Some)
    }

    /// Guards every file that is not complete, or will not be any more.
    pub(super) fn start(
        config: &Config,
        store: &Store,
        fetcher: &Fetcher,
        learner: &Arc<Learner>,
        (inherited, choice): (Option<Inherited>, Choice),
    ) -> Result<Self, Error> {
        let files = incomplete(store);
        let (found, group, record, keeper, pending, strays) = match inherited {
            None => {
                let found = choice.made(config)?;
                let group = gate::new_group(found.mode)?;
                let record = Record::create().map_err(keeper::Error::Record)?;
                let guards = guards(&found, &group, &record)?;
                let keeper = Keeper::start(settings(config), guards, &files, Vec::new())?;
                (found, group, record, keeper, Vec::new(), Vec::new())
            }
            Some(inherited) => {
                let Inherited { socket, group, record, stops, files: held, pending } = inherited;
                let stopper = (!stops.is_empty()).then(|| Stopper::adopt(stops)).transpose();
                let mut stopper = stopper.map_err(inherited_programs)?;
                if let Some(stopper) = &mut stopper {
                    stopper.spare_own().map_err(inherited_programs)?;
                }
                let found = gate::probe_again(&config.store.model_dir, stopper, &group)?;
                let strays = strays(store, held);
                let inodes = strays.iter().map(|(inode, _)| *inode).collect();
                tracing::info!(held = pending.len(), "readers taken over from an earlier agent");
                let guards = guards(&found, &group, &record)?;
                let keeper = match socket {
                    Some(socket) => Keeper::adopt(settings(config), socket, guards, &files, strays)?,
                    None => Keeper::start(settings(config), guards, &files, strays)?,
                };
                (found, group, record, keeper, pending, inodes)
            }
        };
        let (mode, holds_growth) = (found.mode, found.stopper.is_some());
        tracing::info!(%mode, holds_growth, "gate chosen");
        let stops = found.stopper.as_ref().map_or_else(Vec::new, Stopper::descriptors);
        let fds = (group.as_fd(), record.as_fd());
        let in_store = service::keep(&config.store.model_dir, fds, &stops, store);
        let learner = Arc::clone(learner);
        let observer = move |access| learner.gate_saw(access);
        let gate = Gate::start(found, Capacity::of_process()?, (group, record), fetcher.clone(), observer)?;
        let (complete, missing): (Vec<_>, Vec<_>) = store.files().iter().partition(|file| file.is_complete());
        // All of these first: the stop gate's programs leave the kernel with the last file that is gated.
        for file in missing {
            gate.protect(Arc::clone(file) as Arc<dyn Guarded>)?;
        }
        // An agent that died may have left the mark of a file it had completed.
        complete.into_iter().for_each(|file| gate.release(&**file));
        strays.into_iter().for_each(|inode| gate.refuse(inode));
        gate.begin(pending);
        let ended = watch(&keeper)?;
        let sigio = signal(SignalKind::io()).map_err(sys::Error::when("receive SIGIO"))?;
        Ok(Self { gate, keeper, in_store, ended, _sigio: sigio })
    }

    /// Whether the programs that stop processes have left the kernel, since every file was complete. Only another guard
    /// brings them back.
    pub(super) fn has_done_stopping(&self) -> bool {
        self.gate.has_done_stopping()
    }

    /// Makes way for another guard, which can hold all that this one can: every file is complete. Not while files of an
    /// earlier version are in use, whose readers only this one holds: it is given back then.
    pub(super) fn retire(mut self, store: &Store) -> Option<Self> {
        if self.keeper.has_strays() || store.files().iter().any(|file| !file.is_complete()) {
            return Some(self);
        }
        self.in_store.release_stops();
        self.in_store.release_group();
        self.stop(store);
        None
    }

    /// The gate.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// A complete file is about to be emptied: its readers are held from now on, also should this process die.
    pub(super) fn hold(&mut self, file: &Arc<File>) -> Result<(), Error> {
        self.in_store.hold(file);
        let guarded = Arc::clone(file) as Arc<dyn Guarded>;
        let held = self.keeper.hold(file.fd()).map_err(Error::from);
        let held = held.and_then(|()| Ok(self.gate.protect(guarded)?));
        // It is complete still.
        held.inspect_err(|_| self.release(file))
    }

    /// A file is complete.
    pub(super) fn release(&self, file: &File) {
        self.gate.release(file);
        self.keeper.release(file.inode());
        self.in_store.release(file.inode());
    }

    /// Returns when the keeper has ended. Cancel safe.
    pub(super) async fn keeper_ended(&self) {
        self.ended.notified().await;
    }

    /// Starts another keeper.
    pub(super) fn replace_keeper(&mut self, store: &Store) -> Result<(), Error> {
        self.keeper.replace(&incomplete(store))?;
        self.ended = watch(&self.keeper)?;
        Ok(())
    }

    /// Looks after what changes slowly; to be called every few seconds. `is_complete` is said of the whole model.
    pub(super) fn tidy(&mut self, is_complete: bool) {
        self.keeper.release_unused_strays();
        if self.gate.has_done_stopping() {
            self.keeper.release_stops();
            self.in_store.release_stops();
        }
        if is_complete && !self.keeper.has_strays() {
            self.in_store.release_group();
        }
    }

    /// Has `keeper_ended` return again, after a replacement that failed.
    pub(super) fn retry_keeper(&self) {
        self.ended.notify_one();
    }

    /// Answers nobody from now on: the readers held, and those that come, are the next agent's, and the keeper's for
    /// so long. What the fetcher completed at its end needs neither.
    pub(super) fn hand_over(self, store: &Store, deadline: Duration) {
        store.files().iter().filter(|file| file.is_complete()).for_each(|file| self.release(file));
        self.gate.leave();
        self.keeper.leave(deadline);
    }

    /// Fails who waits, and leaves the rest to the keeper. The files that are not complete are hidden.
    pub(super) fn stop(self, store: &Store) {
        let complete = store.files().iter().all(|file| file.is_complete());
        drop(self.gate);
        self.keeper.say_goodbye(complete);
    }
}

fn inherited_programs(error: stop::Error) -> gate::Error {
    gate::Error::Inherited(Box::new(error))
}

fn guards(found: &gate::Found, group: &Group, record: &Record) -> Result<keeper::Guards, Error> {
    let stops = found.stopper.as_ref().map_or_else(Vec::new, Stopper::descriptors);
    Ok(keeper::Guards::new(group, record, &stops)?)
}

fn incomplete(store: &Store) -> Vec<BorrowedFd<'_>> {
    store.files().iter().filter(|file| !file.is_complete()).map(|file| file.fd()).collect()
}

/// Those of the inherited files that are none of the store's: another version of the model.
fn strays(store: &Store, inherited: Vec<(Inode, OwnedFd)>) -> Vec<(Inode, OwnedFd)> {
    inherited
        .into_iter()
        .filter(|(inode, _)| store.files().iter().all(|file| file.inode() != *inode))
        .collect()
}

fn settings(config: &Config) -> keeper::Settings {
    let mut arguments: Vec<OsString> = vec!["--model-dir".into(), absolute(&config.store.model_dir).into()];
    let level = match config.log.level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    let format = match config.log.format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    arguments.extend(["--log-level", level, "--log-format", format].map(OsString::from));
    if let Some(path) = &config.log.path {
        arguments.extend(["--log-path".into(), absolute(path).into()]);
    }
    let (model_dir, deadline) = (config.store.model_dir.clone(), config.takeover_deadline);
    keeper::Settings { model_dir, deadline, arguments }
}

/// The keeper works in another directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Told when the keeper has ended. A thread waits for that: tokio has no safe way to poll such a socket.
fn watch(keeper: &Keeper) -> Result<Arc<Notify>, Error> {
    let watch = || -> io::Result<Arc<Notify>> {
        let socket = keeper.socket().try_clone_to_owned()?;
        let ended = Arc::new(Notify::new());
        let told = Arc::clone(&ended);
        thread::Builder::new().name("ossc-keeper".into()).spawn(move || {
            privileges::keep_only(privileges::NONE);
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            while let Err(Errno::EINTR | Errno::EAGAIN) = poll(&mut fds, PollTimeout::NONE) {}
            told.notify_one();
        })?;
        Ok(ended)
    };
    Ok(watch().map_err(sys::Error::when("watch the keeper"))?)
}

/// Whether readers are let at the holes, for the tests that must see the difference.
#[cfg(debug_assertions)]
fn is_switched_off(config: &Config) -> bool {
    config.gate_off
}

/// Never in a release build.
#[cfg(not(debug_assertions))]
fn is_switched_off(_config: &Config) -> bool {
    false
}
