//! The model directory: every access to what lies in it by a name from outside.
//!
//! All lookups start at one descriptor and use openat2, which never follows a symlink, leaves the
//! directory, or crosses a mount, whoever puts them there and whenever. Looking at a file uses `O_PATH`,
//! which no fanotify watch sees. What is ours is told by the owner mark on the inode, so that a lost or
//! garbled ready file cannot turn our file into a stranger's, nor a stranger's into ours.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};

use super::error::Error;
use super::names::Name;
use super::undo::Undo;
use crate::sys::file::{self, Facts, FileSystem};

/// Directories for nested keys: anyone may look, only root may change.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// The open model directory.
#[derive(Debug)]
pub(super) struct ModelDir {
    root: Arc<File>,
    path: PathBuf,
    file_system: FileSystem,
}

/// Something found on disk.
#[derive(Debug)]
pub(super) struct Entry {
    /// What stat says.
    pub(super) facts: Facts,
    /// Whether it carries our mark for this very name and inode.
    pub(super) is_ours: bool,
}

/// The owner mark of a file: a copy with its attributes has another inode number, and is not ours.
pub(super) fn owner_mark(name: &Name, ino: u64) -> Vec<u8> {
    format!("{} {ino}", name.hash()).into_bytes()
}

impl ModelDir {
    /// Opens the directory, making it if need be; refuses file systems that the store does not know.
    pub(super) fn open(path: &Path, undo: &mut Undo) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(Error::io("find", path))?;
        create_with_parents(&path, undo)?;
        Self::open_existing(&path)
    }

    /// Opens the directory if it exists.
    pub(super) fn open_existing(path: &Path) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(Error::io("find", path))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(&path, flags, Mode::empty()).map_err(Error::io("open", &path))?;
        let file_system = FileSystem::of(&root).map_err(Error::io("examine", &path))?;
        if let FileSystem::Other(found) = file_system {
            return Err(Error::FileSystem { path, found });
        }
        Ok(Self { root: Arc::new(File::from(root)), path, file_system })
    }

    /// Its absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of its path, for the length check of names.
    pub(super) fn path_len(&self) -> usize {
        self.path.as_os_str().len()
    }

    /// What it is on.
    pub(super) fn file_system(&self) -> FileSystem {
        self.file_system
    }

    /// Its descriptor.
    pub(super) fn root(&self) -> &Arc<File> {
        &self.root
    }

    /// Waits until the disk has everything on this file system (syncfs(2)).
    pub(super) fn sync(&self) -> Result<(), Error> {
        syncfs(&*self.root).map_err(Error::io("sync the file system of", &self.path))
    }

    /// The visible path of a name.
    pub(super) fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(name.as_path())
    }

    /// What has a name, if anything.
    pub(super) fn find(&self, name: &Name) -> Result<Option<Entry>, Error> {
        match file::open_beneath(self.root.as_fd(), name.as_path(), look(), Mode::empty()) {
            Ok(found) => Entry::of(&found, name).map(Some).map_err(Error::io("examine", &self.path_of(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refusal(name, "examine", error)),
        }
    }

    /// The error for a lookup that failed: what is in the way, if that is why.
    fn refusal(&self, name: &Name, action: &'static str, error: io::Error) -> Error {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => self.obstacle(name),
            _ => Error::Io { action, path: self.path_of(name), source: error },
        }
    }

    /// Which part of the way to `name` is not a plain directory of this file system.
    fn obstacle(&self, name: &Name) -> Error {
        let mut path = self.path_of(name);
        for directory in name.ancestors() {
            let here = self.path.join(directory);
            if !fs::symlink_metadata(&here).is_ok_and(|meta| meta.is_dir()) {
                path = here;
                break;
            }
        }
        let what = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => "a symbolic link",
            Ok(meta) if meta.is_dir() => "below a mount of another file system",
            _ => "a file where a directory is needed",
        };
        Error::InTheWay { path, what }
    }

    /// The directory that a file is in.
    pub(super) fn parent_of(&self, name: &Name) -> Result<Arc<File>, Error> {
        if name.parent().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let parent = Path::new(name.parent());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        file::open_beneath(self.root.as_fd(), parent, flags, Mode::empty())
            .map(Arc::new)
            .map_err(|error| self.refusal(name, "open the directory of", error))
    }

    /// Opens a visible file for the agent.
    pub(super) fn open_file(&self, name: &Name) -> Result<File, Error> {
        file::open_beneath(
            self.root.as_fd(),
            name.as_path(),
            OFlag::O_RDWR | OFlag::O_NOFOLLOW,
            Mode::empty(),
        )
        .map_err(Error::io("open", &self.path_of(name)))
    }

    /// Makes the directories above `name`, and `name` itself when it is one, as far as they do not exist.
    pub(super) fn make_directories(&self, name: &Name, itself: bool, undo: &mut Undo) -> Result<(), Error> {
        let mut parent = Arc::clone(&self.root);
        for directory in name.ancestors().chain(itself.then_some(name.as_str())) {
            let path = self.path.join(directory);
            let leaf = directory.rsplit('/').next().unwrap_or(directory).to_owned();
            let is_new = match mkdirat(&*parent, leaf.as_str(), DIRECTORY_MODE) {
                Ok(()) => {
                    let (parent, leaf) = (Arc::clone(&parent), leaf.clone());
                    undo.push(move || Ok(unlinkat(&*parent, leaf.as_str(), UnlinkatFlags::RemoveDir)?));
                    true
                }
                Err(Errno::EEXIST) => false,
                Err(error) => return Err(Error::io("create directory", &path)(error)),
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            parent = file::open_beneath(parent.as_fd(), Path::new(&leaf), flags, Mode::empty())
                .map(Arc::new)
                .map_err(|error| self.refusal(name, "open the directory of", error))?;
            if is_new {
                // The umask must not keep readers out.
                fchmod(&*parent, DIRECTORY_MODE).map_err(Error::io("set the mode of", &path))?;
            }
        }
        Ok(())
    }

    /// Removes a visible file of ours.
    pub(super) fn remove(&self, name: &Name) -> Result<(), Error> {
        let parent = self.parent_of(name)?;
        unlinkat(&*parent, name.leaf(), UnlinkatFlags::NoRemoveDir)
            .map_err(Error::io("remove", &self.path_of(name)))
    }
}

impl Entry {
    /// Examines what was opened to look at.
    pub(super) fn of(found: &File, name: &Name) -> io::Result<Self> {
        let facts = Facts::of(found)?;
        let is_ours = facts.is_file && file::owner_mark(found)? == Some(owner_mark(name, facts.ino));
        Ok(Self { facts, is_ours })
    }

    /// For messages.
    pub(super) fn kind(&self) -> &'static str {
        match (self.facts.is_dir, self.facts.is_file) {
            (true, _) => "a directory",
            (_, true) => "a file",
            _ => "neither a file nor a directory",
        }
    }
}

/// Flags for looking at something without opening it.
pub(super) fn look() -> OFlag {
    OFlag::O_PATH | OFlag::O_NOFOLLOW
}

/// Makes a directory and what is missing above it.
fn create_with_parents(path: &Path, undo: &mut Undo) -> Result<(), Error> {
    let missing: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            Ok(()) => {
                let path = directory.to_owned();
                undo.push(move || fs::remove_dir(path));
                let mode = fs::Permissions::from_mode(DIRECTORY_MODE.bits());
                fs::set_permissions(directory, mode).map_err(Error::io("set the mode of", directory))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create directory", directory)(error)),
        }
    }
    Ok(())
}
