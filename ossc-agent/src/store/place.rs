//! Moving a data file between its hidden and its visible name, without ever losing a stranger's file.
//!
//! A check before a rename can be outrun by whoever may write in the model directory, so what was moved
//! is looked at again afterwards, and moved back if it was not ours.

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};

use super::error::Error;
use super::model_dir::{Entry, ModelDir};
use super::names::Name;
use super::state_dir::StateDir;

/// Both sides of a move.
#[derive(Debug)]
pub(super) struct Directories {
    /// Where files are visible.
    pub(super) model: ModelDir,
    /// Where they are hidden.
    pub(super) state: StateDir,
}

impl Directories {
    /// Gives a hidden file its visible name; with `replaces`, an older version of ours may have it.
    pub(super) fn publish(&self, name: &Name, replaces: bool) -> Result<(), Error> {
        let parent = self.model.parent_of(name)?;
        let (hidden, path) = (name.hash(), self.model.path_of(name));
        let rename = |flags| renameat2(self.state.incoming(), hidden.as_str(), &*parent, name.leaf(), flags);
        match rename(RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EEXIST) if replaces => {}
            Err(Errno::EEXIST) => return Err(Error::InTheWay { path, what: "new there" }),
            Err(error) => return Err(Error::io("publish", &path)(error)),
        }
        // The exchange leaves what was there under the hidden name, to be looked at in peace.
        rename(RenameFlags::RENAME_EXCHANGE).map_err(Error::io("publish", &path))?;
        if self.state.find_data(name)?.is_some_and(|entry| entry.is_ours) {
            return self.state.remove_data(&hidden);
        }
        rename(RenameFlags::RENAME_EXCHANGE).map_err(Error::io("put back", &path))?;
        Err(Error::InTheWay { path, what: "new there" })
    }

    /// Takes the visible name from a file with inode `ino`, which the caller has open or has just seen to
    /// be ours, and keeps it hidden. Nothing happens if the name is no longer that file's.
    pub(super) fn hide(&self, name: &Name, ino: u64) -> Result<(), Error> {
        let is_it = |entry: Option<Entry>| entry.is_some_and(|entry| entry.is_ours && entry.facts.ino == ino);
        if !is_it(self.model.find(name)?) {
            return Ok(());
        }
        let parent = self.model.parent_of(name)?;
        let (incoming, hidden, path) = (self.state.incoming(), name.hash(), self.model.path_of(name));
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(&*parent, name.leaf(), incoming, hidden.as_str(), flags)
            .map_err(Error::io("hide", &path))?;
        if is_it(self.state.find_data(name)?) {
            return Ok(());
        }
        renameat2(incoming, hidden.as_str(), &*parent, name.leaf(), flags)
            .map_err(Error::io("put back", &path))
    }
}
