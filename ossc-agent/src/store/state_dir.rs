//! `MODEL_DIR/.ossc`: what the store keeps between runs, and the lock that makes it the store's alone (`lock`).
//!
//! `ready/` has one ready file an object, and a journal while it is incomplete; `incoming/` has the data files that no reader may see. The
//! directory must be ours and closed to others, or nothing in it is believed. Ready files are replaced
//! by rename, so that a reader of them, and the next agent, sees an old one or a new one.

mod lock;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::error::Error;
use super::model_dir::{Entry, ModelDir, look};
use super::names::{Name, STATE_DIR};
use super::ready_file::Record;
use super::undo::Undo;
use crate::sys::file::{self, Facts};

use lock::Lock;
pub(super) use lock::PATIENCE as LOCK_PATIENCE;

/// Only root looks in; hidden data files must stay hidden.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o700);
const FILE_MODE: Mode = Mode::from_bits_truncate(0o600);
/// Model files are for everyone to read and for nobody to write.
const DATA_MODE: Mode = Mode::from_bits_truncate(0o444);
const INCOMING: &str = "incoming";
const READY: &str = "ready";
/// Of a ready file that is being written.
const UNFINISHED: &str = ".tmp";
/// Of the journal beside a ready file.
const JOURNAL: &str = ".journal";
/// Longest ready file that is read: 25 million blocks, an object of OSS's 48.8 TiB limit at 2 MiB.
const READY_FILE_MAX: u64 = 256 << 20;

/// The open and locked state directory.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    incoming: Arc<File>,
    ready: Arc<File>,
    /// The lock is gone when the last of these is dropped.
    _lock: Arc<Lock>,
}

/// What the ready files say.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// By hash of the name.
    pub(super) by_hash: HashMap<String, Record>,
    /// Ready files that say nothing, with the reason.
    pub(super) damaged: Vec<(PathBuf, String)>,
}

impl StateDir {
    /// Opens and locks the state directory of a model directory, making it if need be. The lock of an agent that has ended
    /// is waited for, up to `patience`.
    pub(super) fn open(model: &ModelDir, patience: Duration, undo: &mut Undo) -> Result<Self, Error> {
        let path = model.path().join(STATE_DIR);
        let dir = open_directory(model.root(), STATE_DIR, &path, undo)?;
        let facts = Facts::of(&dir).map_err(Error::io("examine", &path))?;
        let distrust = |problem| Error::State { path: path.clone(), problem };
        if facts.uid != geteuid().as_raw() {
            return Err(distrust("it belongs to another user"));
        }
        if facts.mode & 0o077 != 0 {
            return Err(distrust("other users may enter it"));
        }
        let lock = Lock::take(&dir, &path, patience, undo)?;
        let incoming = open_directory(&dir, INCOMING, &path.join(INCOMING), undo)?;
        let ready = open_directory(&dir, READY, &path.join(READY), undo)?;
        Ok(Self { path, incoming, ready, _lock: lock })
    }

    /// Reads every ready file.
    pub(super) fn records(&self, base: usize) -> Result<Records, Error> {
        read_records(&self.ready, &self.path.join(READY), base)
    }

    /// Replaces the ready file of one object. With `sync`, it outlasts a power loss from then on.
    pub(super) fn write_record(&self, record: &Record, sync: bool) -> Result<(), Error> {
        let hash = record.name.hash();
        let path = self.path.join(READY).join(&hash);
        let attempt = || -> io::Result<()> {
            let unfinished = format!("{hash}{UNFINISHED}");
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
            let mut out = file::open_beneath(self.ready.as_fd(), Path::new(&unfinished), flags, FILE_MODE)?;
            out.write_all(&record.encode()?)?;
            if sync {
                out.sync_data()?;
            }
            renameat2(&*self.ready, unfinished.as_str(), &*self.ready, hash.as_str(), RenameFlags::empty())?;
            if sync { self.ready.sync_all() } else { Ok(()) }
        };
        attempt().map_err(Error::io("write ready file", &path))
    }

    /// Appends one entry to the journal of one object. One write(2), which the kernel does not tear while it
    /// runs; many threads may call this for the same object.
    pub(super) fn append_journal(&self, hash: &str, entry: &[u8]) -> Result<(), Error> {
        let name = format!("{hash}{JOURNAL}");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW;
        file::open_beneath(self.ready.as_fd(), Path::new(&name), flags, FILE_MODE)
            .and_then(|mut journal| journal.write_all(entry))
            .map_err(Error::io("write", &self.path.join(READY).join(&name)))
    }

    /// Removes the journal of one object, if there is one.
    pub(super) fn remove_journal(&self, hash: &str) -> Result<(), Error> {
        let name = format!("{hash}{JOURNAL}");
        remove(&self.ready, &name).map_err(Error::io("remove", &self.path.join(READY).join(&name)))
    }

    /// Removes the ready file of one object with its journal, if there is one.
    pub(super) fn remove_record(&self, hash: &str) -> Result<(), Error> {
        self.remove_journal(hash)?;
        remove(&self.ready, hash).map_err(Error::io("remove ready file", &self.path.join(READY).join(hash)))
    }

    /// The hidden data file of a name, if there is one.
    pub(super) fn find_data(&self, name: &Name) -> Result<Option<Entry>, Error> {
        let hash = name.hash();
        let entry = match file::open_beneath(self.incoming.as_fd(), Path::new(&hash), look(), Mode::empty()) {
            Ok(found) => Entry::of(&found, name).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        entry.map_err(Error::io("examine", &self.data_path(&hash)))
    }

    /// Opens the hidden data file of a name for the agent.
    pub(super) fn open_data(&self, name: &Name) -> Result<File, Error> {
        let hash = name.hash();
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW;
        file::open_beneath(self.incoming.as_fd(), Path::new(&hash), flags, Mode::empty())
            .map_err(Error::io("open", &self.data_path(&hash)))
    }

    /// Creates the hidden data file of a name, which must not exist; empty and read-only for readers.
    pub(super) fn create_data(&self, name: &Name, undo: &mut Undo) -> Result<File, Error> {
        let hash = name.hash();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = file::open_beneath(self.incoming.as_fd(), Path::new(&hash), flags, DATA_MODE)
            .map_err(Error::io("create", &self.data_path(&hash)))?;
        let incoming = Arc::clone(&self.incoming);
        undo.push(move || remove(&incoming, &hash));
        Ok(file)
    }

    /// Removes a hidden data file, if there is one.
    pub(super) fn remove_data(&self, hash: &str) -> Result<(), Error> {
        remove(&self.incoming, hash).map_err(Error::io("remove", &self.data_path(hash)))
    }

    /// Every hidden data file: its file name and the bytes it occupies.
    pub(super) fn list_data(&self) -> Result<Vec<(String, u64)>, Error> {
        let path = self.path.join(INCOMING);
        let list = || -> io::Result<Vec<(String, u64)>> {
            let names = file_names(&self.incoming)?;
            let size = |name: &String| {
                let found =
                    file::open_beneath(self.incoming.as_fd(), Path::new(name), look(), Mode::empty())?;
                Ok(Facts::of(&found)?.allocated)
            };
            names.into_iter().map(|name| size(&name).map(|bytes| (name, bytes))).collect()
        };
        list().map_err(Error::io("list", &path))
    }

    /// The directory of hidden data files.
    pub(super) fn incoming(&self) -> &File {
        &self.incoming
    }

    /// For messages.
    pub(super) fn data_path(&self, hash: &str) -> PathBuf {
        self.path.join(INCOMING).join(hash)
    }
}

/// Reads the ready files of a model directory that no agent may be using; empty if it has none.
pub(super) fn peek(model: &ModelDir) -> Result<Records, Error> {
    let path = model.path().join(STATE_DIR).join(READY);
    let relative = Path::new(STATE_DIR).join(READY);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    match file::open_beneath(model.root().as_fd(), &relative, flags, Mode::empty()) {
        Ok(ready) => read_records(&ready, &path, model.path_len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Records::default()),
        Err(error) => Err(Error::io("open", &path)(error)),
    }
}

/// The hidden data file of a name, looked at without the lock.
pub(super) fn peek_data(model: &ModelDir, name: &Name) -> Result<Option<Entry>, Error> {
    let relative = hidden_path(name);
    let entry = match file::open_beneath(model.root().as_fd(), &relative, look(), Mode::empty()) {
        Ok(found) => Entry::of(&found, name).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    entry.map_err(Error::io("examine", &model.path().join(relative)))
}

/// Where the hidden data file of a name is, below the model directory.
pub(super) fn hidden_path(name: &Name) -> PathBuf {
    Path::new(STATE_DIR).join(INCOMING).join(name.hash())
}

fn read_records(ready: &File, path: &Path, base: usize) -> Result<Records, Error> {
    let mut records = Records::default();
    for hash in file_names(ready).map_err(Error::io("list", path))? {
        if hash.ends_with(UNFINISHED) || hash.ends_with(JOURNAL) {
            continue;
        }
        match read_record(ready, &hash, base) {
            Ok(record) => {
                records.by_hash.insert(hash, record);
            }
            Err(reason) => records.damaged.push((path.join(hash), reason)),
        }
    }
    Ok(records)
}

/// One ready file with its journal, or why it says nothing.
fn read_record(ready: &File, hash: &str, base: usize) -> Result<Record, String> {
    let bytes = read_whole(ready, hash).map_err(|error| error.to_string())?;
    let mut record = Record::decode(&bytes, base).map_err(|error| error.to_string())?;
    if record.name.hash() != hash {
        return Err("it is about another file".to_owned());
    }
    if record.sealed.is_none() {
        match read_whole(ready, &format!("{hash}{JOURNAL}")) {
            Ok(journal) => record.replay(&journal),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Then its blocks are fetched again.
            Err(error) => tracing::warn!(hash, %error, "a journal could not be read"),
        }
    }
    Ok(record)
}

fn read_whole(ready: &File, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = file::open_beneath(ready.as_fd(), Path::new(name), flags, Mode::empty())?;
    let mut bytes = Vec::new();
    file.take(READY_FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a directory below `parent`, making it if need be.
fn open_directory(parent: &Arc<File>, name: &str, path: &Path, undo: &mut Undo) -> Result<Arc<File>, Error> {
    match mkdirat(&**parent, name, DIRECTORY_MODE) {
        Ok(()) => {
            let (parent, name) = (Arc::clone(parent), name.to_owned());
            undo.push(move || Ok(unlinkat(&*parent, name.as_str(), UnlinkatFlags::RemoveDir)?));
        }
        Err(Errno::EEXIST) => {}
        Err(error) => return Err(Error::io("create directory", path)(error)),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    match file::open_beneath(parent.as_fd(), Path::new(name), flags, Mode::empty()) {
        Ok(dir) => Ok(Arc::new(dir)),
        Err(error)
            if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOTDIR | Errno::ELOOP)) =>
        {
            Err(Error::State { path: path.to_owned(), problem: "it is not a directory" })
        }
        Err(error) => Err(Error::io("open directory", path)(error)),
    }
}

/// Names in a directory, without those of the directory itself and its parent.
fn file_names(dir: &File) -> io::Result<Vec<String>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let again = file::open_beneath(dir.as_fd(), Path::new("."), flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again.into())?.iter() {
        match entry?.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => names.push(name.to_owned()),
            Err(_) => {}
        }
    }
    Ok(names)
}

/// Removes a file; fine if it is not there.
fn remove(dir: &File, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
