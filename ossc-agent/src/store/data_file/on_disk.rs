//! The part of a file that meets the disk rarely: taking over an earlier run, its visible name, its ready
//! file, and the sync that makes it outlast a power loss.
//!
//! Driven by `Store`, one call at a time for each file: the lock on `Disk` is held across the operation.
//! A disk that reports lost bytes is believed over any bit: nothing of that file is ready any more.

use std::sync::atomic::Ordering;

use super::{Disk, File};
use crate::base::{BlockIndex, Object};
use crate::store::error::Error;
use crate::store::journal::Binding;
use crate::store::ready_file::{Record, Seal};
use crate::sys::file;

impl File {
    /// Takes over what an earlier run recorded about this inode, unless the disk has lost bytes since.
    pub(in crate::store) fn restore(&self, record: &Record) -> Result<(), Error> {
        if let Err(error) = self.check_writeback() {
            tracing::warn!(file = ?self.path, %error, "the disk lost bytes of it; nothing is taken over");
            return self.hide_incomplete();
        }
        for (block, crc) in record.ready_blocks() {
            self.admit(block, crc);
        }
        if let Some(crc64) = record.object.crc64 {
            self.note_crc64(crc64);
        }
        let mut disk = self.lock();
        disk.sealed = record.sealed;
        if let Some(seal) = &mut disk.sealed {
            // The same version may have been uploaded again, at another time.
            if record.object.modified != self.object.modified {
                seal.modified = self.set_modified()?.into();
            }
            self.complete.store(true, Ordering::Release);
        }
        let now = self.record(disk.sealed);
        self.unrecorded.store(now.object != record.object || record.gone, Ordering::Release);
        self.record_or_later(&disk);
        Ok(())
    }

    /// Gives the file its visible name, unless it has it.
    pub(in crate::store) fn publish(&self) -> Result<(), Error> {
        let mut disk = self.lock();
        if disk.visible {
            return Ok(());
        }
        if disk.sealed.is_none() {
            self.set_modified()?;
        }
        self.directories.publish(&self.name, disk.replaces)?;
        disk.visible = true;
        disk.replaces = false;
        Ok(())
    }

    /// Takes the visible name away, unless the file is complete.
    pub(in crate::store) fn hide_incomplete(&self) -> Result<(), Error> {
        let mut disk = self.lock();
        self.hide(&mut disk)
    }

    fn hide(&self, disk: &mut Disk) -> Result<(), Error> {
        if disk.visible && disk.sealed.is_none() {
            self.directories.hide(&self.name, self.identity.ino)?;
            disk.visible = false;
        }
        Ok(())
    }

    /// Whether it is complete, and the disk may still lose bytes of it.
    pub(in crate::store) fn awaits_sync(&self) -> bool {
        let sealed = self.lock().sealed;
        self.directories.model.file_system().is_disk() && sealed.is_some_and(|seal| !seal.durable)
    }

    /// Writes the ready file if it is out of date, unless the disk has lost what it would say.
    pub(in crate::store) fn persist(&self) -> Result<(), Error> {
        let mut disk = self.lock();
        if let Err(source) = self.check_writeback() {
            return Err(self.lose(&mut disk, source));
        }
        self.write_record(&disk, false)
    }

    /// Makes sure that the disk has every byte of a complete file, and records that. When the disk lost
    /// some, the file is no longer complete: it is hidden and nothing of it is ready. With `synced`, the
    /// whole file system has been synced since the file was sealed, and will be again for the ready file.
    pub(in crate::store) fn make_durable(&self, synced: bool) -> Result<(), Error> {
        let mut disk = self.lock();
        let Some(seal) = disk.sealed else { return Ok(()) };
        let outcome = if synced { file::check_writeback(&self.handle) } else { self.handle.sync_all() };
        if let Err(source) = outcome {
            return Err(self.lose(&mut disk, source));
        }
        disk.sealed = Some(Seal { durable: true, ..seal });
        self.unrecorded.store(true, Ordering::Release);
        self.write_record(&disk, !synced)
    }

    /// Whether the disk has reported lost bytes of this file, now or to nobody before.
    fn check_writeback(&self) -> std::io::Result<()> {
        if self.directories.model.file_system().is_disk() {
            file::check_writeback(&self.handle)
        } else {
            Ok(())
        }
    }

    /// Takes everything back about a file that the disk could not store. Hiding comes first; if it or the
    /// ready file fails, too, that is logged and the loss is still what is returned.
    fn lose(&self, disk: &mut Disk, source: std::io::Error) -> Error {
        self.forget(disk);
        if let Err(error) = self.hide(disk) {
            tracing::error!(%error, "a file that the disk has lost could not be hidden");
        }
        self.record_or_later(disk);
        Error::Lost { path: self.path.clone(), source }
    }

    /// Writes the ready file; a failure is repeated, and told, by the next `persist`.
    pub(super) fn record_or_later(&self, disk: &Disk) {
        if let Err(error) = self.write_record(disk, false) {
            tracing::warn!(%error, "a ready file could not be written; it will be tried again");
        }
    }

    /// Writes the ready file if it is out of date. The lock orders writers of the same file.
    pub(super) fn write_record(&self, disk: &Disk, sync: bool) -> Result<(), Error> {
        if !self.unrecorded.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let outcome = self.directories.state.write_record(&self.record(disk.sealed), sync);
        if outcome.is_err() {
            self.unrecorded.store(true, Ordering::Release);
        }
        outcome
    }

    /// Tells the next agent of a committed block, in case this one is killed before the ready file says so.
    pub(super) fn note_in_journal(&self, block: BlockIndex, crc64: u64) {
        let binding = self.binding.get_or_init(|| Binding::of(&self.record(None)));
        let entry = binding.entry(block, crc64);
        if let Err(error) = self.directories.state.append_journal(&self.name.hash(), &entry) {
            tracing::debug!(%error, "a block is not in the journal; the ready file will have it");
        }
    }

    /// Its entries are in the ready file, or void.
    pub(super) fn remove_journal(&self) {
        if let Err(error) = self.directories.state.remove_journal(&self.name.hash()) {
            tracing::warn!(%error, "a journal that is not needed any more stays");
        }
    }

    /// What is known now. Bits are read before checksums, which were stored before their bits.
    fn record(&self, sealed: Option<Seal>) -> Record {
        Record {
            object: Object { crc64: self.crc64.get().copied(), ..self.object.clone() },
            name: self.name.clone(),
            layout: self.layout,
            era: self.era.to_string(),
            identity: self.identity,
            sealed,
            gone: false,
            bits: self.ready.snapshot(),
            crcs: self.crcs.iter().map(|crc| crc.load(Ordering::Relaxed)).collect(),
        }
    }
}
