//! A look at a model directory that changes nothing and needs no lock: what the ready files say, whether it can be
//! believed of the inodes that are there, and the bytes read again. For `ossc-agent verify`, beside an agent or
//! without one.
//!
//! While an agent is at work the answer is that of one moment for each file. What the answer is worth is judged
//! by whoever asked; `recover` judges by the same rules when an agent starts.

mod read_back;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::error::Error;
use super::model_dir::ModelDir;
use super::names::{self, Name};
use super::open::era;
use super::ready_file::Record;
use super::recover::{Claim, claim, identity};
use super::{seal, state_dir};
use crate::base::{ByteRange, Object};
use crate::sys::file::{self, Facts};

/// What a model directory holds of a listing.
#[derive(Debug)]
pub struct Inspection {
    /// For each file of the listing, in name order: the object as listed, and what is there of it.
    pub files: Vec<(Object, Result<Found, Doubt>)>,
    /// Files of objects that the listing does not have.
    pub unlisted: Vec<Found>,
}

/// A file that an agent made, as its ready file describes it.
#[derive(Debug)]
pub struct Found {
    /// The version it is filled from; with OSS's checksum, where it was told one.
    pub object: Object,
    /// Its visible path, whether it is there or hidden.
    pub path: PathBuf,
    /// How much of it there is.
    pub state: State,
    record: Record,
    /// Below the model directory.
    place: PathBuf,
}

/// How much of a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All of it.
    Complete {
        /// Compared with OSS's checksum when it was completed.
        verified: bool,
        /// Outlasts a power loss.
        durable: bool,
    },
    /// So many bytes, which an agent can go on from.
    Partial {
        /// Bytes of blocks that are there.
        ready: u64,
    },
}

/// Why nothing is there of an object, or why what is there does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// No ready file, no file.
    #[error("it was never loaded into this directory")]
    Unknown,
    /// A ready file that says nothing.
    #[error("its ready file {path:?} cannot be used: {reason}")]
    Damaged {
        /// The ready file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name is taken.
    #[error("{path:?} is {what} that ossc-agent did not make")]
    Stranger {
        /// What is there.
        path: PathBuf,
        /// What kind of thing.
        what: &'static str,
    },
    /// The ready file is there and the file is not.
    #[error("its file is gone")]
    Gone,
    /// Another inode than the one recorded.
    #[error("its file is not the one that was loaded")]
    Exchanged,
    /// Cut off or grown.
    #[error("its file has {found} bytes, not {expected}")]
    Size {
        /// As stat(2) says.
        found: u64,
        /// Of the object.
        expected: u64,
    },
    /// The modification time is not the object's.
    #[error("somebody has written to its file since it was complete")]
    Written,
    /// Recorded in another boot or mount, and not synced.
    #[error("it was not safe on disk when the machine went down or its file system was unmounted")]
    Unsynced,
}

/// Bytes of a file that are not what its ready file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The block.
    pub range: ByteRange,
    /// Why the block could not be read; `None` if it could, and its checksum is wrong.
    pub unreadable: Option<String>,
}

/// Compares the model directory with a listing; of what the listing lacks, only objects with keys below
/// `prefix` are told.
pub fn inspect(model_dir: &Path, prefix: &str, objects: Vec<Object>) -> Result<Inspection, Error> {
    let model = ModelDir::open_existing(model_dir)?;
    let boot_id = file::boot_id().map_err(Error::io("read", Path::new(file::BOOT_ID)))?;
    let era = era(&model, &boot_id)?;
    let mut records = state_dir::peek(&model)?;
    let tree = names::check(objects, model.path_len())?;
    let mut files = Vec::with_capacity(tree.files.len());
    for (name, object) in tree.files {
        let hash = name.hash();
        let damaged = records.damaged.iter().find(|(path, _)| path.ends_with(&hash));
        let found = match (records.by_hash.remove(&hash), damaged) {
            (Some(record), _) => look(&model, record, &era)?,
            (None, Some((path, reason))) => {
                Err(Doubt::Damaged { path: path.clone(), reason: reason.clone() })
            }
            (None, None) => Err(stranger(&model, &name)?.unwrap_or(Doubt::Unknown)),
        };
        files.push((object, found));
    }
    let mut unlisted = Vec::new();
    for record in records.by_hash.into_values().filter(|record| record.object.key.starts_with(prefix)) {
        unlisted.extend(look(&model, record, &era)?.ok());
    }
    unlisted.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Inspection { files, unlisted })
}

/// Whether the file that a ready file is about is there, visible or hidden, and worth something.
fn look(model: &ModelDir, record: Record, era: &str) -> Result<Result<Found, Doubt>, Error> {
    let name = &record.name;
    let visible = match model.find(name) {
        Ok(entry) => entry,
        Err(Error::InTheWay { path, what }) => return Ok(Err(Doubt::Stranger { path, what })),
        Err(error) => return Err(error),
    };
    let hidden = state_dir::peek_data(model, name)?;
    let places = [(visible, name.as_path().to_owned()), (hidden, state_dir::hidden_path(name))];
    let mut doubt = stranger(model, name)?.unwrap_or(Doubt::Gone);
    for (entry, place) in places {
        let Some(entry) = entry.filter(|entry| entry.is_ours) else { continue };
        let state = match claim(&record, &entry.facts, era) {
            Claim::Complete => {
                let (verified, durable) = record.sealed.map_or((false, false), |s| (s.verified, s.durable));
                State::Complete { verified, durable }
            }
            Claim::Partial => State::Partial { ready: record.ready_bytes() },
            Claim::Nothing => {
                doubt = why(&record, &entry.facts, era);
                continue;
            }
        };
        let (object, path) = (record.object.clone(), model.path_of(name));
        return Ok(Ok(Found { object, path, state, record, place }));
    }
    Ok(Err(doubt))
}

/// What has the visible name, if an agent did not make it.
fn stranger(model: &ModelDir, name: &Name) -> Result<Option<Doubt>, Error> {
    let taken = |path, what| Ok(Some(Doubt::Stranger { path, what }));
    match model.find(name) {
        Ok(Some(entry)) if !entry.is_ours => taken(model.path_of(name), entry.kind()),
        Ok(_) => Ok(None),
        Err(Error::InTheWay { path, what }) => taken(path, what),
        Err(error) => Err(error),
    }
}

/// Why a ready file is worth nothing for an inode: the rules of `recover::claim`, with names.
fn why(record: &Record, facts: &Facts, era: &str) -> Doubt {
    if record.identity != identity(facts) {
        Doubt::Exchanged
    } else if record.object.size != facts.size {
        Doubt::Size { found: facts.size, expected: record.object.size }
    } else if record.sealed.is_some_and(|seal| seal.modified != facts.modified.into()) {
        Doubt::Written
    } else if record.era == era {
        Doubt::Gone
    } else {
        Doubt::Unsynced
    }
}

impl Found {
    /// The CRC-64/XZ of the whole file that its recorded blocks make; `None` while some are missing.
    #[must_use]
    pub fn recorded_crc64(&self) -> Option<u64> {
        let blocks = self.record.ready_blocks().count();
        let full = usize::try_from(self.record.layout.block_count()).is_ok_and(|all| all == blocks);
        full.then(|| seal::combine(self.record.layout, self.record.crcs.iter().copied()))
    }

    /// Bytes of it that are there.
    #[must_use]
    pub fn ready(&self) -> u64 {
        match self.state {
            State::Complete { .. } => self.object.size,
            State::Partial { ready } => ready,
        }
    }

    /// Reads every block that is recorded as there from the disk, past the page cache where the file system lets
    /// it, and gives those that do not have their recorded checksum. Blocking, for as long as the disk takes. A
    /// file that goes away meanwhile, replaced by a newer version say, is an error.
    pub fn read_back(&self, model_dir: &Path) -> Result<Vec<Damage>, Error> {
        let model = ModelDir::open_existing(model_dir)?;
        let open = |extra| {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | extra;
            file::open_beneath(model.root().as_fd(), &self.place, flags, Mode::empty())
        };
        // EINVAL is a file system without O_DIRECT (open(2)).
        let file = open(OFlag::O_DIRECT).or_else(|error| match error.raw_os_error() {
            Some(raw) if raw == nix::errno::Errno::EINVAL as i32 => open(OFlag::empty()),
            _ => Err(error),
        });
        let file = file.map_err(Error::io("open", &self.path))?;
        let facts = Facts::of(&file).map_err(Error::io("examine", &self.path))?;
        if identity(&facts) != self.record.identity {
            let source = std::io::Error::other("it was replaced while it was looked at");
            return Err(Error::io("read", &self.path)(source));
        }
        Ok(read_back::damaged(&file, self.record.layout, self.record.ready_blocks().collect()))
    }
}
