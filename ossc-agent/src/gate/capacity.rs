//! How many readers may be held at once. Each costs a descriptor, and the kernel denies a reader whose
//! descriptor it cannot open, so the gate stops listening before that: further readers then wait in the
//! kernel's queue, which costs the agent nothing.

use super::Error;
use crate::sys::fanotify::BATCH;
use crate::sys::process;

/// Descriptors left to the rest of the agent: connections of all workers, logs, status sockets, state files,
/// and one batch of events beyond the count (`Group::read`).
const RESERVE: usize = 1024 + BATCH;
/// Fewer than this and a few dozen reader threads would take turns.
const LEAST: usize = 64;

/// The number of readers held at once, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity(usize);

impl Capacity {
    /// `readers`, or 1.
    #[must_use]
    pub fn new(readers: usize) -> Self {
        Self(readers.max(1))
    }

    /// Raises the limit of open files and takes what the files opened so far and the reserve leave. To be
    /// called when the model's files are open.
    pub fn of_process() -> Result<Self, Error> {
        let limit = process::raise_open_files().map_err(Error::Start)?;
        let open = process::open_files().map_err(Error::Start)?;
        within(limit, open).ok_or(Error::Descriptors { limit, open })
    }

    /// How many more may be held when `held` are.
    pub(super) fn left(self, held: usize) -> usize {
        self.0.saturating_sub(held)
    }
}

fn within(limit: u64, open: usize) -> Option<Capacity> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let readers = limit.checked_sub(open)?.checked_sub(RESERVE)?;
    (readers >= LEAST).then_some(Capacity(readers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_never_given_to_readers() {
        let least = u64::try_from(RESERVE + LEAST).unwrap();
        for (limit, open, readers) in [
            (20_000, 100, Some(20_000 - 100 - RESERVE)),
            (least, 0, Some(LEAST)),
            (least, 1, None),
            (1024, 10, None),
            (10, 20, None),
        ] {
            assert_eq!(within(limit, open), readers.map(Capacity), "{limit} {open}");
        }
        assert_eq!(Capacity::new(0).left(0), 1);
        assert_eq!(Capacity::new(2).left(3), 0);
    }
}
