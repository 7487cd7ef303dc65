//! The kernel's set of target processes. The programs add the children of targets and remove what exits;
//! here whole families are added.

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData};

use super::{Error, processes};

/// The map `TARGETS` of the programs.
#[derive(Debug)]
pub(super) struct TargetMap {
    map: HashMap<MapData, u32, u32>,
}

impl TargetMap {
    pub(super) fn new(map: HashMap<MapData, u32, u32>) -> Self {
        Self { map }
    }

    /// Adds a process and its descendants; `pid` may also be a thread of it.
    ///
    /// A process is added before its children are listed, so a child is either born later and added by the
    /// fork program, or already in /proc. Only a grandchild born during a listing can be in neither; hence
    /// the listing is repeated until it brings nothing new.
    pub(super) fn add(&mut self, pid: u32) -> Result<(), Error> {
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
        Ok(())
    }

    /// Who is a target now.
    #[cfg(test)]
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        self.map.keys().filter_map(Result::ok).collect()
    }
}
