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
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gates;
mod inode;
mod layout;
mod load;
mod lockdown;
mod mapped;
mod mappings;
mod processes;
mod record;
mod resolve;
pub mod stop;
mod summary;
mod targets;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, PerCpuArray};
use ossc_common::{Inode, LOSSES};

pub use error::Error;
pub use gates::Gates;
pub use lockdown::Lockdown;
pub use summary::{Missing, Summary};

use crate::base::{Access, FileId};
use attach::Attached;
use consumer::Consumer;
use resolve::Resolver;
use targets::{MappedMap, TargetMap};

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

/// How reads are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Reads {
    /// At the page cache where that shows them (whole pages, every way to read), else by read calls
    #[default]
    Auto,
    /// By read calls, to the byte, as well; costs each read of every process on the machine
    Always,
}

/// How page faults are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Faults {
    /// At the page cache where that shows them, else by address
    #[default]
    Auto,
    /// By address, as on kernels whose page cache does not show them
    Address,
}

/// What to start the probes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whose accesses are reported.
    pub targets: Targets,
    /// How reads are seen.
    pub reads: Reads,
    /// How page faults are seen.
    pub faults: Faults,
    /// Whether it is reported what becomes of mappings (munmap, mremap).
    pub mappings: bool,
    /// Whether calls that wait for a fanotify permission are timed.
    pub stalls: bool,
}

impl Config {
    /// What is needed to know which bytes are touched, and in which order.
    #[must_use]
    pub fn new(targets: Targets) -> Self {
        let (reads, faults) = (Reads::default(), Faults::default());
        Self { targets, reads, faults, mappings: false, stalls: false }
    }
}

/// What the probes report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A file was touched.
    Access(Access),
    /// A call was held.
    Stall(Stall),
}

/// A read call or mmap(2) on a file under a fanotify permission mark, and how long it was held: the time from its
/// entry until it reached the file's pages, or its end. One that is let go at once takes some microseconds, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// The file.
    pub file: FileId,
    /// Process id of the reader.
    pub pid: u32,
    /// Thread id of the reader.
    pub tid: u32,
    /// When the call began, `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
    /// Nanoseconds.
    pub duration_ns: u64,
}

/// The attached programs; dropping it detaches them, and the sink has then seen every record.
pub struct Probes {
    /// Dropped before the consumer, so that its last drain comes to an end.
    attached: Mutex<Attached>,
    _consumer: Consumer,
    targets: Mutex<TargetMap>,
    chosen: Targets,
    resolver: Arc<Mutex<Resolver>>,
    mapped: Mutex<MappedMap>,
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
    /// Loads and attaches the programs. `sink` is called on the probes' own thread for all that is seen, in the
    /// order they happened; while it runs, records wait in the ring buffer, so it must not block.
    ///
    /// # Errors
    /// The kernel refuses BPF altogether ([`Error::is_unsupported`]), or a target does not exist.
    pub fn start(config: &Config, sink: impl FnMut(Seen) + Send + 'static) -> Result<Self, Error> {
        if Lockdown::read() == Lockdown::Confidentiality {
            return Err(Error::LockedDown);
        }
        let mut summary = Summary::default();
        let offsets = layout::read();
        let mut programs = load::load(config, offsets.as_ref().ok(), &mut summary)?;
        let logger = load::logger(&mut programs, &mut summary);
        let records = load::map(&mut programs, "RECORDS")?;
        let losses = load::map(&mut programs, "LOST")?;
        let mut targets = TargetMap::new(load::map(&mut programs, "TARGETS")?);
        let mapped = MappedMap::new(load::map(&mut programs, "MAPPED")?);
        let watched = Watched { map: load::map(&mut programs, "WATCHED")?, inodes: BTreeMap::new() };
        // The family tree is followed from here on; who was born before is found in /proc below.
        let attached = Attached::new(programs, config, offsets.map(drop), summary);
        if let Targets::Chosen { pids, .. } = &config.targets {
            for &pid in pids {
                targets.add(pid)?;
            }
        }
        let resolver = Arc::new(Mutex::new(Resolver::new(1 << load::page_shift())));
        let consumer = Consumer::start(records, logger, Arc::clone(&resolver), sink)?;
        let probes = attached.summary().attached.len();
        tracing::info!(probes, missing = attached.summary().missing.len(), "eBPF probes attached");
        Ok(Self {
            attached: Mutex::new(attached),
            _consumer: consumer,
            targets: Mutex::new(targets),
            chosen: config.targets.clone(),
            resolver,
            mapped: Mutex::new(mapped),
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
        let is_shown = inode::faults_through_page_cache(file.as_fd()).map_err(unknown)?;
        let mut attached = lock(&self.attached);
        // Also where mappings are to be followed: the page cache does not tell of huge pages.
        if !is_shown || !attached.sees_faults() || attached.sees_memory() {
            attached.see_addresses();
            lock(&self.resolver).resolve(id);
        }
        drop(attached);
        let mut watched = lock(&self.watched);
        let full = |source| Error::Watch { file: id, source };
        watched.map.insert(inode, id.0, 0).map_err(full)?;
        watched.inodes.insert(id, inode);
        Ok(())
    }

    /// Finds what targets mapped before the files were watched, where mappings are followed. To be called when all files
    /// are watched; a process made a target by [`Self::add_pid`] later is looked at then. What cannot be found out
    /// about a process is passed over.
    pub fn find_mappings(&self) {
        let processes = match &self.chosen {
            Targets::Everybody => mapped::everybody().unwrap_or_default(),
            Targets::Chosen { cgroups, .. } => {
                let mut processes = mapped::members(cgroups);
                processes.extend(lock(&self.targets).pids());
                processes
            }
        };
        self.find_mappings_of(processes);
    }

    fn find_mappings_of(&self, processes: impl IntoIterator<Item = u32>) {
        if !lock(&self.attached).sees_memory() {
            return;
        }
        let inodes = lock(&self.watched).inodes.iter().map(|(id, inode)| (*inode, *id)).collect();
        for process in processes.into_iter().filter(|process| *process != std::process::id()) {
            for mapping in mapped::mappings(process, &inodes) {
                // The programs first: what they then tell is for the mapping.
                lock(&self.mapped).widen(process, mapping.memory);
                lock(&self.resolver).found(process, mapping);
            }
        }
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
        let family = lock(&self.targets).add(pid)?;
        self.find_mappings_of(family);
        Ok(())
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
