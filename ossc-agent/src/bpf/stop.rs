//! The stop gate's programs: they stop a process that maps missing bytes, before it can look at them, and know the
//! range of each read call in flight.
//!
//! `gate` starts a [`Stopper`] or takes over the one of an agent that died, names the files that are gated, and
//! decides of each process that is held. Programs and maps live as long as any process has their descriptors
//! ([`Stopper::descriptors`]), so the keeper has duplicates; it ends who is held when no agent comes ([`end_held`]).
//! Unlike the probes this is no advice: a program that cannot be attached is an error.
//!
//! Process ids are those of the first pid namespace, which programs see: the agent must run in it.

mod attach;
mod error;
mod orphans;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Array, HashMap, IterableMap, Map, MapData, MapError, RingBuf};
use nix::sys::signal::Signal;
use ossc_common::{
    AT_POSITION, CONTROL_AT_MMAP, CONTROL_OWN, CONTROL_VERSION, END_CONTINUED, END_NO_ROOM, Held, Inode,
    ReadCall, Released, STOP_VERSION,
};

pub use error::Error;
pub use orphans::end_held;

use super::inode;
use crate::sys::fanotify::{self, Span};
use crate::sys::privileges;
use crate::sys::reader::{self, Doing, Handle};

/// What names a file to the programs, and in /proc/PID/maps.
pub type KernelInode = Inode;

/// When mmap(2) stops its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// When it maps a gated file, or a mapping of its grows; ranges of reads are known.
    Mmap,
    /// Only when a mapping grows.
    Growth,
}

/// A process that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Its id.
    pub pid: u32,
    /// The moment it is held for; another one when something happened to it since.
    pub at_ns: u64,
    /// A job-control signal that our SIGCONT would discard; 0 for none.
    pub again: i32,
    /// It may have private copies of bytes that were missing when it asked for a mapping, and are there now.
    pub copied: bool,
}

/// What became of a process that was to be let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetGo {
    /// It goes on.
    GoesOn,
    /// It stays stopped, because somebody else wants it so.
    StaysStopped,
    /// Something has happened to it since it was looked at: it is held, and has to be looked at again.
    HeldAnew,
}

/// The attached programs and their maps. Dropping it leaves the programs to whoever has duplicates.
pub struct Stopper {
    control: Array<MapData, u32>,
    gated: HashMap<MapData, Inode, u32>,
    mappers: HashMap<MapData, u32, u32>,
    calls: HashMap<MapData, u64, u32>,
    copiers: HashMap<MapData, u64, Inode>,
    reads: HashMap<MapData, u32, ReadCall>,
    held: HashMap<MapData, u32, Held>,
    released: HashMap<MapData, u32, Released>,
    user_stops: HashMap<MapData, u32, u32>,
    doorbell: RingBuf<MapData>,
    /// Keep the programs attached.
    links: Vec<OwnedFd>,
}

/// The maps in the order in which their descriptors are passed on.
const MAPS: [&str; 10] = [
    "CONTROL",
    "GATED",
    "MAPPERS",
    "CALLS",
    "COPIERS",
    "READS",
    "HELD",
    "RELEASED",
    "USER_STOPS",
    "DOORBELL",
];

impl Stopper {
    /// Loads and attaches the programs. Nothing is gated yet.
    pub fn start(at: At) -> Result<Self, Error> {
        if !super::load::is_first_pid_namespace() {
            return Err(Error::PidNamespace);
        }
        if !privileges::has(privileges::STOPS) {
            return Err(Error::Privileges);
        }
        let mut programs = attach::load(at)?;
        let mut maps = Vec::new();
        for name in MAPS {
            // Kept open below while the programs are verified; a map that closes before is gone for them.
            maps.push(programs.take_map(name).ok_or(Error::Missing { name })?);
        }
        let mut stopper = Self::over(maps, Vec::new())?;
        stopper.set(CONTROL_VERSION, STOP_VERSION)?;
        stopper.set(CONTROL_AT_MMAP, u32::from(at == At::Mmap))?;
        stopper.links = attach::all(&mut programs, at)?;
        Ok(stopper)
    }

    /// Goes on with what an agent that died left.
    pub fn adopt(descriptors: Vec<OwnedFd>) -> Result<Self, Error> {
        let mut descriptors = descriptors.into_iter();
        let maps = descriptors.by_ref().take(MAPS.len());
        let maps = maps.map(|fd| Map::from_map_data(MapData::from_fd(fd)?));
        let stopper = Self::over(maps.collect::<Result<_, _>>()?, Vec::new())?;
        let version = stopper.control.get(&CONTROL_VERSION, 0)?;
        if version != STOP_VERSION {
            return Err(Error::Version { version });
        }
        Ok(Self { links: descriptors.collect(), ..stopper })
    }

    fn over(maps: Vec<Map>, links: Vec<OwnedFd>) -> Result<Self, Error> {
        let maps: [Map; MAPS.len()] = maps.try_into().map_err(|_| Error::Missing { name: "all maps" })?;
        let [control, gated, mappers, calls, copiers, reads, held, released, user_stops, doorbell] = maps;
        Ok(Self {
            control: Array::try_from(control)?,
            gated: HashMap::try_from(gated)?,
            mappers: HashMap::try_from(mappers)?,
            calls: HashMap::try_from(calls)?,
            copiers: HashMap::try_from(copiers)?,
            reads: HashMap::try_from(reads)?,
            held: HashMap::try_from(held)?,
            released: HashMap::try_from(released)?,
            user_stops: HashMap::try_from(user_stops)?,
            doorbell: RingBuf::try_from(doorbell)?,
            links,
        })
    }

    /// All descriptors that keep the programs at work; [`Stopper::adopt`] takes duplicates in this order.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let maps = [
            self.control.map(),
            self.gated.map(),
            self.mappers.map(),
            self.calls.map(),
            self.copiers.map(),
            self.reads.map(),
            self.held.map(),
            self.released.map(),
            self.user_stops.map(),
        ];
        let maps = maps.into_iter().map(|map| map.fd().as_fd()).chain([self.doorbell.as_fd()]);
        maps.chain(self.links.iter().map(AsFd::as_fd)).collect()
    }

    /// When processes are stopped.
    pub fn at(&self) -> Result<At, Error> {
        Ok(if self.control.get(&CONTROL_AT_MMAP, 0)? == 0 { At::Growth } else { At::Mmap })
    }

    /// From now on this process is never stopped, and nobody else is spared.
    pub fn spare_own(&mut self) -> Result<(), Error> {
        self.set(CONTROL_OWN, std::process::id())
    }

    fn set(&mut self, slot: u32, value: u32) -> Result<(), Error> {
        Ok(self.control.set(slot, value, 0)?)
    }

    /// Gates the file behind a descriptor, before it has a name that readers know.
    pub fn gate(&mut self, file: BorrowedFd<'_>) -> Result<KernelInode, Error> {
        if !self.is_attached() {
            return Err(Error::Detached);
        }
        let inode = inode::of(file).map_err(Error::Identify)?;
        self.gated.insert(inode, 0, 0)?;
        Ok(inode)
    }

    /// Whether any file is gated.
    #[must_use]
    pub fn gates_any(&self) -> bool {
        self.gated.keys().next().is_some()
    }

    /// Whether a file is gated.
    #[must_use]
    pub fn is_gated(&self, inode: KernelInode) -> bool {
        self.gated.get(&inode, 0).is_ok()
    }

    /// What a file is called to the programs.
    pub fn inode_of(file: BorrowedFd<'_>) -> Result<KernelInode, Error> {
        inode::of(file).map_err(Error::Identify)
    }

    /// The file is complete.
    pub fn ungate(&mut self, inode: KernelInode) {
        absent_is_fine(self.gated.remove(&inode));
    }

    /// Takes the programs out of the kernel, as far as this process can: no file is gated any more.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// Whether this process keeps the programs attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }

    /// Readable when there is something to look at.
    #[must_use]
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// Makes the doorbell quiet; to be called before looking. Returns whom the programs have killed since, and why.
    pub fn quiet(&mut self) -> Vec<(u32, &'static str)> {
        let mut killed = Vec::new();
        while let Some(entry) = self.doorbell.next() {
            let word = entry.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
            let why = match (word >> 32) as u32 {
                END_CONTINUED => "somebody else has continued it (SIGCONT) before they were there",
                END_NO_ROOM => "there is no room on the maps of the stop gate to hold it",
                _ => continue,
            };
            killed.push((u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0), why));
        }
        killed
    }

    /// Everybody who is held.
    pub fn stopped(&self) -> Result<Vec<Stopped>, Error> {
        let mut stopped = Vec::new();
        for entry in self.held.iter() {
            // An entry may go while the map is walked, and the walk begins anew then: some are seen twice.
            let Ok((pid, held)) = entry else { continue };
            if self.is_held(pid, held) && stopped.iter().all(|stopped: &Stopped| stopped.pid != pid) {
                stopped.push(stopped_by(pid, held));
            }
        }
        Ok(stopped)
    }

    fn is_held(&self, pid: u32, held: Held) -> bool {
        self.released.get(&pid, 0).map_or(true, |released| released.at_ns != held.at_ns)
    }

    /// A process as it is held now, `None` when it is not; to be read before what it has mapped, so that
    /// [`Stopper::let_go`] notices whatever it does after.
    #[must_use]
    pub fn held_now(&self, pid: u32) -> Option<Stopped> {
        let held = self.held.get(&pid, 0).ok()?;
        self.is_held(pid, held).then(|| stopped_by(pid, held))
    }

    /// Those whom an agent had released when it died, perhaps without their SIGCONT.
    pub fn half_released(&self) -> Vec<Stopped> {
        let released = self.released.iter().filter_map(Result::ok).filter(|(_, released)| released.done == 0);
        let stopped = |(pid, released): (u32, Released)| {
            let held = self.held.get(&pid, 0).ok().filter(|held| held.at_ns == released.at_ns)?;
            Some(stopped_by(pid, held))
        };
        released.filter_map(stopped).collect()
    }

    /// Whether a thread is inside a call that changes what is mapped.
    #[must_use]
    pub fn is_mapping(&self, pid: u32, tid: u32) -> bool {
        self.calls.get(&thread_key(pid, tid), 0).is_ok()
    }

    /// The files of which a process is about to look for holes.
    #[must_use]
    pub fn copied_by(&self, pid: u32) -> Vec<KernelInode> {
        self.copiers_of(pid).filter_map(|thread| self.copiers.get(&thread, 0).ok()).collect()
    }

    fn copiers_of(&self, pid: u32) -> impl Iterator<Item = u64> {
        self.copiers.keys().filter_map(Result::ok).filter(move |thread| thread >> 32 == u64::from(pid))
    }

    /// Whether nothing can change what a process has mapped before its next SIGCONT: a thread has stopped, so all are to,
    /// none is in user mode or on its way, and none sleeps inside a call that maps. To be asked before looking at
    /// what it has mapped.
    ///
    /// Two looks: what a thread did that was looked at before another one stopped says nothing of what it does now.
    /// From the moment on at which one has stopped, no other gets back to user mode, none begins a call and none
    /// makes another thread (`do_signal_stop` in kernel/signal.c, `copy_process` in kernel/fork.c).
    #[must_use]
    pub fn has_settled(&self, pid: u32) -> bool {
        let stopped = |threads: &[(u32, Doing)]| threads.iter().any(|(_, doing)| *doing == Doing::Stopped);
        if !reader::threads(pid).is_ok_and(|threads| stopped(&threads)) {
            return false;
        }
        let Ok(threads) = reader::threads(pid) else { return false };
        let is_still = |(tid, doing): &(u32, Doing)| match doing {
            Doing::Stopped | Doing::Ended => true,
            Doing::Sleeping => !self.is_mapping(pid, *tid),
            Doing::Running => false,
        };
        stopped(&threads) && threads.iter().all(is_still)
    }

    /// Lets a process go on: all it had mapped when it was held like this is there.
    pub fn let_go(&mut self, stopped: Stopped, process: &Handle) -> io::Result<LetGo> {
        // A SIGCONT takes back every SIGSTOP of the process, also one of a mapping that nobody has looked at.
        if self.held_now(stopped.pid).is_some_and(|now| now.at_ns != stopped.at_ns) {
            return Ok(LetGo::HeldAnew);
        }
        // Before its SIGCONT, which the programs would take for a stranger's; and on record, should we die here.
        let released = Released { at_ns: stopped.at_ns, done: 0 };
        self.released.insert(stopped.pid, released, 0).map_err(io::Error::other)?;
        for thread in self.copiers_of(stopped.pid).collect::<Vec<_>>() {
            absent_is_fine(self.copiers.remove(&thread));
        }
        self.go_on(stopped, process)
    }

    /// The second half of `let_go`.
    pub fn go_on(&mut self, stopped: Stopped, process: &Handle) -> io::Result<LetGo> {
        // Where no program sees the ends of calls. Every thread has stopped or sleeps outside of them.
        if matches!(self.at(), Ok(At::Growth)) {
            for (tid, _) in reader::threads(stopped.pid).unwrap_or_default() {
                if self.is_mapping(stopped.pid, tid) {
                    absent_is_fine(self.calls.remove(&thread_key(stopped.pid, tid)));
                }
            }
        }
        let goes_on = !self.is_stopped_by_user(stopped.pid);
        if goes_on {
            process.signal(Signal::SIGCONT)?;
            // Sent between the look and our SIGCONT, which has undone it.
            if self.is_stopped_by_user(stopped.pid) {
                process.signal(Signal::SIGSTOP)?;
            }
            if let Ok(again) = Signal::try_from(stopped.again) {
                process.signal(again)?;
            }
        }
        // A process that has ended leaves nothing that the next of its id could find.
        if self.held.get(&stopped.pid, 0).is_ok() {
            let released = Released { at_ns: stopped.at_ns, done: 1 };
            absent_is_fine(self.released.insert(stopped.pid, released, 0));
        } else {
            absent_is_fine(self.released.remove(&stopped.pid));
        }
        Ok(if goes_on { LetGo::GoesOn } else { LetGo::StaysStopped })
    }

    /// Whether somebody else has stopped the process, and it must stay so.
    #[must_use]
    pub fn is_stopped_by_user(&self, pid: u32) -> bool {
        self.user_stops.get(&pid, 0).is_ok()
    }

    /// Whether the programs see mappings of files like this one: tried with a mapping of our own.
    pub fn sees_mappings(&mut self, file: BorrowedFd<'_>, offset: u64, length: usize) -> Result<bool, Error> {
        let own = std::process::id();
        self.spare_own()?;
        let inode = self.gate(file)?;
        let mapped = fanotify::map_briefly(file, offset, length).map_err(Error::Trial);
        let seen = self.has_mapped(own);
        self.ungate(inode);
        absent_is_fine(self.mappers.remove(&own));
        mapped.map(|()| seen)
    }

    /// Whether a process has mapped a gated file.
    fn has_mapped(&self, pid: u32) -> bool {
        self.mappers.get(&pid, 0).is_ok()
    }

    /// The range of the read call of this file that a thread waits in, with the thread's process; `None` when it
    /// is in another call, or the range cannot be known.
    #[must_use]
    pub fn read_in_flight(&self, tid: u32, inode: KernelInode) -> Option<(u32, Span)> {
        let call = self.reads.get(&tid, 0).ok().filter(|call| call.inode == inode)?;
        let offset = match call.offset {
            // The thread holds the lock of the position while it waits (`__fdget_pos`).
            AT_POSITION => reader::position(tid, call.descriptor).ok()?,
            offset => offset,
        };
        // A count of 0 would be the rest of the file.
        (call.length > 0).then_some((call.tgid, Span { offset, count: call.length }))
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper").field("links", &self.links.len()).finish_non_exhaustive()
    }
}

fn stopped_by(pid: u32, held: Held) -> Stopped {
    let again = i32::try_from(held.again).unwrap_or(0);
    Stopped { pid, at_ns: held.at_ns, again, copied: held.copied != 0 }
}

/// A thread on the maps (`bpf_get_current_pid_tgid`).
fn thread_key(pid: u32, tid: u32) -> u64 {
    u64::from(pid) << 32 | u64::from(tid)
}

/// Removing what the programs have removed already.
fn absent_is_fine(outcome: Result<(), MapError>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "an entry of the stop gate's maps was gone");
    }
}
