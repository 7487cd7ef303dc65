//! Model files under `MODEL_DIR` and the map of what is in them, in memory and on disk.
//!
//! `Store::open` lays the objects out as hidden files of full size, or takes up what an earlier run left;
//! the agent lets the gate mark them and then publishes them. Workers write and commit blocks; the gate
//! asks the ready map; a full file is sealed by its checksum. `persist` from time to time, and `retire`
//! at the end, keep on disk what the next run needs; between them a journal has each committed block, so
//! that a killed agent loses only blocks in flight. State is in `MODEL_DIR/.ossc`: `incoming/` has the
//! hidden files, `ready/` the ready files and journals.
//!
//! Invariants: a ready bit is set only after the bytes are in the file. A file that is visible is
//! complete, or was published behind a gate that has held its readers since. Nothing outside the model
//! directory is touched, and nothing in it that the agent did not make.
//!
//! What is left to others: holding readers (`gate`), choosing what to fetch (`fetch`), when to persist
//! and what to do about a lost file (`agent`).

mod config;
mod data_file;
mod door;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod inherited;
mod inspect;
mod journal;
mod model_dir;
mod names;
mod open;
mod place;
mod ready_file;
mod ready_map;
mod recover;
mod report;
mod seal;
mod space;
mod state_dir;
#[cfg(test)]
mod tests;
mod undo;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, atomic};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

pub use config::Config;
pub use data_file::{File, Freed, Inode, Sealed};
pub use door::{Door, Reached, stranger};
pub use error::Error;
pub use inspect::{Damage, Doubt, Found, Inspection, State, inspect};
pub use names::{BadName, STATE_DIR};
pub use open::{hide_incomplete, recorded};
pub use ready_map::ReadyMap;
pub use report::{Report, Tally};

use place::Directories;

use crate::base::{FileId, Object};
use crate::sys;

/// How long an agent that starts waits for the lock that one which has ended left behind, for [`hide_incomplete`].
pub const LOCK_PATIENCE: Duration = state_dir::LOCK_PATIENCE;
/// Up to here complete files are synced one by one, which costs the disk two cache flushes each; 10 000
/// small files took 100 s that way. More are synced together with all else on their file system.
const SYNC_ONE_BY_ONE: usize = 64;

/// Opens the state directory of a model directory, for those who have a socket there.
///
/// # Errors
/// Those of open(2); `NotFound` where no agent ever loaded anything there.
pub fn state_dir(model_dir: &Path) -> io::Result<fs::File> {
    let root = fs::File::options().read(true).custom_flags(libc::O_DIRECTORY).open(model_dir)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    sys::file::open_beneath(root.as_fd(), Path::new(STATE_DIR), flags, Mode::empty())
}

/// All files of one load. The model directory is locked while it lives.
#[derive(Debug)]
pub struct Store {
    files: Vec<Arc<File>>,
    report: Report,
    /// Holds the lock, also while there are no files.
    directories: Arc<Directories>,
}

impl Store {
    /// Checks everything, then lays out (hidden) or resumes the files. Complete files of an earlier run
    /// are there at once, under their names. Blocking; nothing half-made is left when it fails.
    pub fn open(config: &Config, objects: Vec<Object>) -> Result<Self, Error> {
        Self::take_over(config, objects, Vec::new())
    }

    /// The same with descriptors of data files whose readers a keeper held since an agent died. Those that can
    /// be resumed stay under their names and are used through these descriptors, which were opened before
    /// any watch; `files` shows which were.
    pub fn take_over(config: &Config, objects: Vec<Object>, inherited: Vec<OwnedFd>) -> Result<Self, Error> {
        let boot_id = sys::file::boot_id().map_err(Error::io("read", Path::new(sys::file::BOOT_ID)))?;
        open::open(config, objects, inherited, &boot_id)
    }

    /// As `open` for a given boot id, so that tests can reboot.
    #[cfg(test)]
    fn open_in_boot(config: &Config, objects: Vec<Object>, boot_id: &str) -> Result<Self, Error> {
        open::open(config, objects, Vec::new(), boot_id)
    }

    /// What was found and done by `open`.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The files, indexed by `FileId`, in name order.
    #[must_use]
    pub fn files(&self) -> &[Arc<File>] {
        &self.files
    }

    /// One file.
    #[must_use]
    pub fn file(&self, id: FileId) -> Option<&Arc<File>> {
        self.files.get(id.index())
    }

    /// Makes a file visible under its name. The caller has marked it for the gate, or it is complete.
    /// Does nothing when it is visible already; an unknown id has nothing to publish.
    pub fn publish(&self, id: FileId) -> Result<(), Error> {
        self.file(id).map_or(Ok(()), |file| file.publish())
    }

    /// Writes the ready files that changed, then makes complete files safe against a power loss. Blocks
    /// for as long as the disk needs; call it off the data path. Goes on after a failure and returns the
    /// first one.
    pub fn persist(&self) -> Result<(), Error> {
        let recorded = each(&self.files, File::persist);
        recorded.and(self.make_durable())
    }

    fn make_durable(&self) -> Result<(), Error> {
        let pending: Vec<_> = self.files.iter().filter(|file| file.awaits_sync()).cloned().collect();
        let sync_all = || self.directories.model.sync();
        // A failed sync of everything does not say what was lost; asking each file does.
        if pending.len() > SYNC_ONE_BY_ONE && sync_all().is_ok() {
            each(&pending, |file| file.make_durable(true)).and(sync_all())
        } else {
            each(&pending, |file| file.make_durable(false))
        }
    }

    /// Hides every file that is not complete, then persists. The last call of a run.
    pub fn retire(&self) -> Result<(), Error> {
        each(&self.files, File::hide_incomplete).and(self.persist())
    }
}

/// Does it for every file, whatever happens to the others, and returns the first failure.
fn each(files: &[Arc<File>], step: impl Fn(&File) -> Result<(), Error>) -> Result<(), Error> {
    files.iter().map(|file| step(file)).fold(Ok(()), Result::and)
}
