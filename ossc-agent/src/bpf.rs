//! Engine: the eBPF probes. Loads the programs that build.rs compiled, tells them whom and which files to
//! watch, and hands what they see to a sink as [`Access`]es.
//!
//! `agent` starts it and connects the sink to whoever records accesses. The probes are advice: they change
//! speed, never bytes. So whatever this kernel does not offer is named in [`Probes::summary`] and left out,
//! and only a mistake in the configuration or a kernel that refuses BPF altogether is an [`Error`].
//!
//! One thread reads the ring buffer and calls the sink; it ends with [`Probes`]. What the programs log
//! (aya-log) goes to the `log` facade, which tracing-subscriber's `init` forwards to tracing.

mod attach;
mod consumer;
mod error;
mod inode;
mod layout;
mod load;
mod processes;
mod record;
pub mod stop;
mod summary;
mod targets;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, PerCpuArray};
use ossc_common::{Inode, LOSSES};

pub use error::Error;
pub use summary::{Missing, Summary};

use crate::base::{Access, FileId};
use attach::Attached;
use consumer::Consumer;
use targets::TargetMap;

/// Whose accesses are reported. The agent's own never are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every process's.
    Everybody,
    /// Those of the processes `pids` with all their descendants, of all processes in `cgroups` and below, and
    /// of what [`Probes::add_pid`] names later.
    Chosen {
        /// Process ids, as this machine's first pid namespace numbers them.
        pids: Vec<u32>,
        /// Folders of the cgroup v2 tree; at most [`ossc_common::CGROUPS_MAX`].
        cgroups: Vec<PathBuf>,
    },
}

/// What to start the probes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whose accesses are reported.
    pub targets: Targets,
}

/// The attached programs; dropping it detaches them, and the sink has then seen every record.
pub struct Probes {
    /// Dropped before the consumer, so that its last drain comes to an end.
    attached: Mutex<Attached>,
    _consumer: Consumer,
    targets: Mutex<TargetMap>,
    watched: Mutex<Watched>,
    losses: PerCpuArray<MapData, u64>,
}

/// The kernel's map of watched files, and the way back from our numbers to its keys.
#[derive(Debug)]
struct Watched {
    map: HashMap<MapData, Inode, u32>,
    inodes: BTreeMap<FileId, Inode>,
}

impl Probes {
    /// Loads and attaches the programs. `sink` is called on the probes' own thread for each access, in the
    /// order they happened; while it runs, records wait in the ring buffer, so it must not block.
    ///
    /// # Errors
    /// The kernel refuses BPF altogether ([`Error::is_unsupported`]), or a target does not exist.
    pub fn start(config: &Config, sink: impl FnMut(Access) + Send + 'static) -> Result<Self, Error> {
        let mut summary = Summary::default();
        let offsets = layout::read();
        let mut programs = load::load(config, offsets.as_ref().ok(), &mut summary)?;
        let logger = load::logger(&mut programs, &mut summary);
        let records = load::map(&mut programs, "RECORDS")?;
        let losses = load::map(&mut programs, "LOST")?;
        let mut targets = TargetMap::new(load::map(&mut programs, "TARGETS")?);
        let watched = Watched { map: load::map(&mut programs, "WATCHED")?, inodes: BTreeMap::new() };
        // The family tree is followed from here on; who was born before is found in /proc below.
        let attached = Attached::new(programs, &config.targets, offsets.map(drop), summary);
        if let Targets::Chosen { pids, .. } = &config.targets {
            for &pid in pids {
                targets.add(pid)?;
            }
        }
        let consumer = Consumer::start(records, logger, sink)?;
        let probes = attached.summary().attached.len();
        tracing::info!(probes, missing = attached.summary().missing.len(), "eBPF probes attached");
        Ok(Self {
            attached: Mutex::new(attached),
            _consumer: consumer,
            targets: Mutex::new(targets),
            watched: Mutex::new(watched),
            losses,
        })
    }

    /// Reports accesses of the file behind `file` from now on, under the number `id`. Any descriptor will do,
    /// also one opened with `O_PATH`; it may be closed afterwards.
    ///
    /// # Errors
    /// The descriptor cannot be examined, or [`ossc_common::WATCHED_MAX`] files are watched already.
    pub fn watch(&self, file: impl AsFd, id: FileId) -> Result<(), Error> {
        let unknown = |source| Error::Identify { file: id, source };
        let inode = inode::of(file.as_fd()).map_err(unknown)?;
        if !inode::is_read_through_page_cache(file.as_fd()).map_err(unknown)? {
            lock(&self.attached).see_calls();
        }
        let mut watched = lock(&self.watched);
        let full = |source| Error::Watch { file: id, source };
        watched.map.insert(inode, id.0, 0).map_err(full)?;
        watched.inodes.insert(id, inode);
        Ok(())
    }

    /// Reports no more accesses of the file watched as `id`; nothing happens when none is.
    pub fn unwatch(&self, id: FileId) {
        let mut watched = lock(&self.watched);
        if let Some(inode) = watched.inodes.remove(&id)
            && let Err(error) = watched.map.remove(&inode)
        {
            tracing::debug!(file = id.0, %error, "a file was not in the kernel's map of watched files");
        }
    }

    /// Makes the process `pid`, its descendants and all their later children targets.
    ///
    /// # Errors
    /// There is no such process, or [`ossc_common::TARGETS_MAX`] processes are targets already.
    pub fn add_pid(&self, pid: u32) -> Result<(), Error> {
        lock(&self.targets).add(pid)
    }

    /// How many records, or children of targets, the programs had no room for since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        (0..LOSSES)
            .filter_map(|slot| self.losses.get(&slot, 0).ok())
            .flat_map(|counts| counts.iter().copied().collect::<Vec<_>>())
            .fold(0, u64::saturating_add)
    }

    /// What is attached and what this kernel does not offer.
    #[must_use]
    pub fn summary(&self) -> Summary {
        lock(&self.attached).summary().clone()
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("summary", &self.summary()).finish_non_exhaustive()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        let dropped = self.dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "the probes saw more accesses than could be recorded");
        }
    }
}

/// A panic while the lock was held leaves a map that is at worst short of an entry.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
