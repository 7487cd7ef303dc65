//! Data files that a keeper held for an agent which died. Their inodes are watched already, so a descriptor
//! opened now would trip the gate; these were opened before.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::error::Error;
use super::model_dir::ModelDir;
use crate::sys::file::Facts;

/// The descriptors on the file system of the model directory, until they are taken.
#[derive(Debug)]
pub(super) struct Inherited(Vec<(u64, File)>);

impl Inherited {
    /// Sorts them out.
    pub(super) fn new(descriptors: Vec<OwnedFd>, model: &ModelDir) -> Result<Self, Error> {
        let failed = || Error::io("examine", model.path());
        let root = Facts::of(model.root()).map_err(failed())?;
        let mut files = Vec::with_capacity(descriptors.len());
        for file in descriptors.into_iter().map(File::from) {
            let facts = Facts::of(&file).map_err(failed())?;
            if facts.dev == root.dev && facts.is_file {
                files.push((facts.ino, file));
            }
        }
        Ok(Self(files))
    }

    /// Whether the file with this inode number is among them.
    pub(super) fn has(&self, ino: u64) -> bool {
        self.0.iter().any(|(known, _)| *known == ino)
    }

    /// The file with this inode number.
    pub(super) fn take(&mut self, ino: u64) -> Option<File> {
        let at = self.0.iter().position(|(known, _)| *known == ino)?;
        Some(self.0.swap_remove(at).1)
    }
}
