//! Where readers were last seen. Written for each access on the gate's and the probes' threads, which takes a short lock
//! and allocates nothing; read for the page.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::base::{Access, ByteRange, FileId};

/// Readers that are remembered, each by process and file: more would only be dots on one another.
const MOST: usize = 32;

/// The last access of a process to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pid: u32,
    pub(super) file: FileId,
    pub(super) range: ByteRange,
    pub(super) at: Instant,
}

/// The last accesses.
#[derive(Debug)]
pub struct Positions(Mutex<Vec<Seen>>);

impl Default for Positions {
    fn default() -> Self {
        Self(Mutex::new(Vec::with_capacity(MOST)))
    }
}

impl Positions {
    /// Notes an access. Called by the agent.
    pub fn note(&self, access: &Access) {
        let Access { pid, file, range, .. } = *access;
        let seen = Seen { pid, file, range, at: Instant::now() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = all.len() < MOST;
        if let Some(known) = all.iter_mut().find(|known| known.pid == pid && known.file == file) {
            *known = seen;
        } else if has_room {
            all.push(seen);
        } else if let Some(oldest) = all.iter_mut().min_by_key(|known| known.at) {
            *oldest = seen;
        }
    }

    pub(super) fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::AccessKind;

    #[test]
    fn the_last_access_of_each_process_to_each_file_is_known() {
        let positions = Positions::default();
        let note = |pid, file, start| {
            let range = ByteRange::new(start, start + 1);
            let kind = AccessKind::Read;
            positions.note(&Access { file: FileId(file), range, kind, pid, tid: pid, at_ns: 0 });
        };
        note(1, 0, 10);
        note(1, 1, 20);
        note(1, 0, 30);
        let starts: Vec<_> = positions.all().iter().map(|seen| seen.range.start()).collect();
        assert_eq!(starts, [30, 20]);
        (2..100).for_each(|pid| note(pid, 0, 0));
        assert_eq!(positions.all().len(), MOST);
        assert!(positions.all().iter().any(|seen| seen.pid == 99));
    }
}
