//! The kernel's sets of processes: the targets, and those of them that have mapped watched files. The programs add the
//! children of targets, and who maps a file, and remove what exits; here whole families are added, and what was
//! mapped before.

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData};

use ossc_common::Span;

use super::{Error, load, processes};
use crate::base::ByteRange;

/// The map `TARGETS` of the programs.
#[derive(Debug)]
pub(super) struct TargetMap {
    map: HashMap<MapData, u32, u32>,
}

impl TargetMap {
    pub(super) fn new(map: HashMap<MapData, u32, u32>) -> Self {
        Self { map }
    }

    /// Adds a process and its descendants, and says which these are; `pid` may also be a thread of it.
    ///
    /// A process is added before its children are listed, so a child is either born later and added by the
    /// fork program, or already in /proc. Only a grandchild born during a listing can be in neither; hence
    /// the listing is repeated until it brings nothing new.
    pub(super) fn add(&mut self, pid: u32) -> Result<BTreeSet<u32>, Error> {
        if !load::is_first_pid_namespace() {
            return Err(Error::PidNamespace { pid });
        }
        let failed = |source| Error::Process { pid, source };
        let process = processes::process_of(pid).map_err(failed)?;
        let mut family = BTreeSet::new();
        let mut found = BTreeSet::from([process]);
        while !found.is_empty() {
            for &pid in &found {
                self.map.insert(pid, 0, 0).map_err(|source| Error::TargetsFull { pid, source })?;
            }
            family.append(&mut found);
            found = processes::descendants(&processes::parents().map_err(failed)?, &family);
        }
        tracing::debug!(pid, processes = family.len(), "watching a process and its descendants");
        Ok(family)
    }

    /// Who is a target now.
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        self.map.keys().filter_map(Result::ok).collect()
    }
}

/// The map `MAPPED` of the programs.
#[derive(Debug)]
pub(super) struct MappedMap {
    map: HashMap<MapData, u32, Span>,
}

impl MappedMap {
    pub(super) fn new(map: HashMap<MapData, u32, Span>) -> Self {
        Self { map }
    }

    /// The process has mapped a watched file there. Without room, faults there are not seen.
    pub(super) fn widen(&mut self, process: u32, memory: ByteRange) {
        let (mut begin, mut end) = (memory.start(), memory.end());
        if let Ok(span) = self.map.get(&process, 0) {
            (begin, end) = (begin.min(span.begin), end.max(span.end));
        }
        if let Err(error) = self.map.insert(process, Span { begin, end }, 0) {
            tracing::warn!(process, %error, "what this process touches through mappings is not seen");
        }
    }
}
