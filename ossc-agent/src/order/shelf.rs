//! The learned orders on disk: `STATE_DIR/orders/<model id>.json`, one file a model. Read at the start of a load,
//! written at its end, and by `ossc-agent plan`.
//!
//! A file is replaced whole, so that a reader sees the old or the new one. One that another user could have
//! written is refused, as is one that does not parse; the load then goes on without a plan, and the next recording
//! takes its place. Two agents that end at the same moment may lose one of two recordings.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::model::ModelId;
use super::plan_file::{BadOrders, Orders};

/// Directory below the state directory.
const DIRECTORY: &str = "orders";
const SUFFIX: &str = ".json";
/// Longest file read: what the bounds of `plan_file` allow at most.
const MAX_BYTES: u64 = 64 << 20;

/// Why an order could not be read or kept. Advice is lost, never bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Not a file that only this user could have written.
    #[error("{} is not used: {problem}; remove it, or give it back to this user with mode 0600", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// Not an order.
    #[error("{} is not used; `ossc-agent plan forget` removes it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BadOrders,
    },
}

/// The directory of orders of one state directory.
#[derive(Debug, Clone)]
pub struct Shelf {
    directory: PathBuf,
}

impl Shelf {
    /// The shelf of a state directory. Touches nothing.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { directory: state_dir.join(DIRECTORY) }
    }

    /// What is known of a model; `None` if nothing was kept.
    pub fn load(&self, id: &ModelId) -> Result<Option<Orders>, Error> {
        let path = self.path(id);
        let Some(text) = read(&path)? else { return Ok(None) };
        match Orders::parse(&text) {
            Ok(orders) if orders.id() == *id => Ok(Some(orders)),
            Ok(_) => Err(Error::Foreign { path, problem: "it is about another model" }),
            Err(source) => Err(Error::Damaged { path, source }),
        }
    }

    /// Keeps the orders of a model, in place of what was there.
    pub fn save(&self, orders: &Orders) -> Result<(), Error> {
        let path = self.path(&orders.id());
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = self.make().and_then(|()| write(&unfinished, &orders.encode()));
        let replaced = written.and_then(|()| fs::rename(&unfinished, &path));
        replaced.map_err(|source| {
            // Nothing to do about one that cannot be removed; the next try does it again.
            fs::remove_file(&unfinished).ok();
            Error::Io { what: "write", path, source }
        })
    }

    /// Forgets a model; fine if nothing was kept.
    pub fn remove(&self, id: &ModelId) -> Result<(), Error> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { what: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The models something is kept of, in the order of their ids.
    pub fn list(&self) -> Result<Vec<ModelId>, Error> {
        let names = || -> io::Result<Vec<ModelId>> {
            let mut ids = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let name = entry?.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
                ids.extend(id.and_then(ModelId::parse));
            }
            ids.sort();
            Ok(ids)
        };
        match names() {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            result => {
                result.map_err(|source| Error::Io { what: "list", path: self.directory.clone(), source })
            }
        }
    }

    fn path(&self, id: &ModelId) -> PathBuf {
        self.directory.join(format!("{id}{SUFFIX}"))
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }
}

/// The bytes of a file that only this user could have written; `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Io { what: "read", path: path.to_owned(), source };
    // Not through a symlink, and without waiting for the other end of a pipe.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let facts = file.metadata().map_err(failed)?;
    let others = (Mode::S_IWGRP | Mode::S_IWOTH).bits();
    let problem = if !facts.is_file() {
        Some("it is no regular file")
    } else if facts.uid() != geteuid().as_raw() {
        Some("another user owns it")
    } else if facts.mode() & others != 0 {
        Some("other users may write to it")
    } else if facts.len() > MAX_BYTES {
        Some("it is longer than any order")
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(Error::Foreign { path: path.to_owned(), problem });
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Writes a file that must not be there, and waits for the disk, so that a rename never leaves an empty one.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    // One of a process with our number that did not end in order.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::model::Model;
    use super::*;

    fn orders(source: &str) -> Orders {
        let files = vec![("m/a".to_owned(), 5)];
        Orders::new(&Model { source: source.to_owned(), files, version: String::new() })
    }

    #[test]
    fn what_is_kept_is_found_replaced_and_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(&state.path().join("not/made/yet"));
        let id = orders("").id();
        assert_eq!((shelf.load(&id).unwrap(), shelf.list().unwrap()), (None, vec![]));
        for source in ["first", "second"] {
            shelf.save(&orders(source)).unwrap();
            assert_eq!(shelf.load(&id).unwrap(), Some(orders(source)));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&shelf.directory), mode(&shelf.path(&id))), (0o700, 0o600));
        fs::write(shelf.directory.join("other.json"), "").unwrap();
        assert_eq!(shelf.list().unwrap(), std::slice::from_ref(&id));
        assert_eq!(fs::read_dir(&shelf.directory).unwrap().count(), 2, "nothing unfinished is left");
        shelf.remove(&id).unwrap();
        shelf.remove(&id).unwrap();
        assert_eq!(shelf.load(&id).unwrap(), None);
    }

    #[test]
    fn what_others_could_have_written_is_refused_and_replaced() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(state.path());
        let id = orders("").id();
        let path = shelf.path(&id);
        let spoil: [(&str, &dyn Fn()); 6] = [
            ("other users", &|| fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).unwrap()),
            ("another user", &|| std::os::unix::fs::chown(&path, Some(12_345), None).unwrap()),
            ("another model", &|| {
                let mut other = orders("");
                other.files.push(("m/b".to_owned(), 6));
                fs::write(&path, other.encode()).unwrap();
            }),
            ("longer", &|| fs::File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap()),
            ("cannot read", &|| {
                fs::rename(&path, state.path().join("moved")).unwrap();
                symlink(state.path().join("moved"), &path).unwrap();
            }),
            ("plan forget", &|| fs::write(&path, "{}").unwrap()),
        ];
        for (problem, spoil) in spoil {
            shelf.save(&orders("")).unwrap();
            spoil();
            let error = shelf.load(&id).unwrap_err().to_string();
            assert!(error.contains(problem), "{problem}: {error}");
        }
        shelf.save(&orders("")).unwrap();
        assert!(shelf.load(&id).unwrap().is_some());
    }
}
