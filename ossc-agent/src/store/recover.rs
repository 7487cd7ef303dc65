//! What an earlier run left, and how much of it can be believed.
//!
//! Driven by `open`, before anything else: first every incomplete file that is still visible is hidden,
//! because no gate guards it any more; then each object gets a plan. A file counts only when its ready
//! file is about this very inode, at this size, of this era or synced, and nobody has written since;
//! whatever does not fit means that nothing is ready.

use std::collections::HashMap;

use super::error::Error;
use super::inherited::Inherited;
use super::names::Name;
use super::place::Directories;
use super::ready_file::{Identity, Record};
use crate::base::{BlockSize, Object};
use crate::sys::file::Facts;

/// What a ready file is worth for the inode found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Every byte is there.
    Complete,
    /// The blocks whose bits are set are there.
    Partial,
    /// Nothing.
    Nothing,
}

/// What to do for one object.
#[derive(Debug)]
pub(super) enum Plan {
    /// The complete file is there; no I/O.
    Keep {
        /// Its ready file.
        record: Record,
        /// Whether it has its visible name.
        visible: bool,
    },
    /// An incomplete file is there.
    Resume {
        /// Its ready file.
        record: Record,
        /// Bytes that have no space yet.
        missing: u64,
        /// Whether it has its visible name, behind a gate that never went.
        visible: bool,
    },
    /// Nothing that could be used.
    New {
        /// An older complete version is there, and stays visible until this one is published.
        replaces: bool,
        /// The older version's ready file, to put back should the set-up fail.
        old: Option<Record>,
    },
}

/// Identity of an inode.
pub(super) fn identity(facts: &Facts) -> Identity {
    Identity { ino: facts.ino, born: facts.born.map(Into::into) }
}

/// Judges a ready file by the facts about the inode, in this era. Pure.
pub(super) fn claim(record: &Record, facts: &Facts, era: &str) -> Claim {
    let same_era = record.era == era;
    if record.identity != identity(facts) || record.object.size != facts.size {
        return Claim::Nothing;
    }
    match record.sealed {
        Some(seal) if seal.modified == facts.modified.into() && (same_era || seal.durable) => Claim::Complete,
        None if same_era => Claim::Partial,
        _ => Claim::Nothing,
    }
}

/// Whether a ready file is about this version of the object.
fn is_same_version(record: &Record, object: &Object) -> bool {
    let known = &record.object;
    let crc_agrees = known.crc64.is_none() || object.crc64.is_none() || known.crc64 == object.crc64;
    known.key == object.key && known.size == object.size && known.etag == object.etag && crc_agrees
}

/// Hides, or removes when it is worth nothing, the visible file of ours that is not complete.
pub(super) fn hide_incomplete(
    directories: &Directories,
    name: &Name,
    record: Option<&Record>,
    era: &str,
) -> Result<(), Error> {
    let entry = match directories.model.find(name) {
        Ok(Some(entry)) if entry.is_ours => entry,
        // Whatever is there is not ours; if it is in the way, the plan will say so.
        Ok(_) | Err(Error::InTheWay { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    match record.map_or(Claim::Nothing, |record| claim(record, &entry.facts, era)) {
        Claim::Complete => Ok(()),
        Claim::Partial => {
            // The ready file is about the visible inode, so a hidden one is of no use.
            directories.state.remove_data(&name.hash())?;
            directories.hide(name, entry.facts.ino)
        }
        Claim::Nothing => {
            tracing::warn!(
                file = name.as_str(),
                "removed: made by ossc-agent, but not known to be complete and unchanged"
            );
            directories.model.remove(name)
        }
    }
}

/// One object, and what a file must be like to be resumed for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Its name.
    pub(super) name: &'a Name,
    /// At the version listed.
    pub(super) object: &'a Object,
    /// How it will be divided.
    pub(super) block_size: BlockSize,
    /// Of now.
    pub(super) era: &'a str,
}

impl Wanted<'_> {
    /// Whether what the ready file says of an incomplete file is of use.
    fn resumes(&self, record: &Record, facts: &Facts) -> bool {
        claim(record, facts, self.era) == Claim::Partial
            && is_same_version(record, self.object)
            && record.layout.block_size() == self.block_size
    }
}

/// Decides what to do for one object. What is visible, incomplete and not guarded is hidden first.
pub(super) fn plan(
    directories: &Directories,
    wanted: &Wanted<'_>,
    record: Option<Record>,
    inherited: &Inherited,
) -> Result<Plan, Error> {
    let Wanted { name, object, era, .. } = *wanted;
    let missing = |facts: &Facts| facts.size.saturating_sub(facts.allocated);
    // An obstacle in the way is told of below.
    let guarded = directories.model.find(name).ok().flatten();
    let guarded = guarded.filter(|entry| entry.is_ours && inherited.has(entry.facts.ino));
    let record = match (guarded, record) {
        (Some(entry), Some(record)) if wanted.resumes(&record, &entry.facts) => {
            return Ok(Plan::Resume { record, missing: missing(&entry.facts), visible: true });
        }
        (_, record) => record,
    };
    hide_incomplete(directories, name, record.as_ref(), era)?;
    let visible = directories.model.find(name)?;
    if visible.as_ref().is_some_and(|entry| entry.is_ours) {
        return Ok(match record {
            Some(record) if is_same_version(&record, object) => Plan::Keep { record, visible: true },
            old => Plan::New { replaces: true, old },
        });
    }
    if let Some(stranger) = visible {
        return Err(Error::InTheWay { path: directories.model.path_of(name), what: stranger.kind() });
    }
    let hidden = directories.state.find_data(name)?.filter(|entry| entry.is_ours);
    let (Some(entry), Some(record)) = (hidden, record) else {
        return Ok(Plan::New { replaces: false, old: None });
    };
    let same = is_same_version(&record, object);
    Ok(match claim(&record, &entry.facts, era) {
        Claim::Complete if same => Plan::Keep { record, visible: false },
        Claim::Partial if wanted.resumes(&record, &entry.facts) => {
            Plan::Resume { record, missing: missing(&entry.facts), visible: false }
        }
        _ => Plan::New { replaces: false, old: None },
    })
}

/// Sorts the ready files of objects that are no longer listed into those whose complete file is visible
/// and stays, and those that describe nothing worth keeping.
pub(super) fn gone(
    directories: &Directories,
    records: HashMap<String, Record>,
    era: &str,
) -> (Vec<Record>, Vec<Record>) {
    records.into_values().partition(|record| {
        let found = directories.model.find(&record.name).ok().flatten();
        found.is_some_and(|e| e.is_ours && claim(record, &e.facts, era) == Claim::Complete)
    })
}
