//! How a keeper ends its readers' waits when no agent does: out of sight with the files, then EIO for whoever
//! waits and whoever comes. What fails here is tried again by the loop, and readers wait meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::{Phase, Process};
use crate::bpf::stop::{self, Stopper};
use crate::keeper::record;
use crate::store;
use crate::sys::fanotify::{BATCH, Mark};
use crate::sys::process;

impl Process {
    /// No agent came: the files go out of sight, then their readers are told. Where hiding fails, readers are told
    /// all the same, and the keeper stays until it succeeds: while it does, a visible file is no danger.
    pub(super) fn give_up(&mut self) {
        let hidden = match store::hide_incomplete(&self.config.model_dir, Duration::ZERO) {
            Ok(()) => true,
            // An agent is on its way: it hides them, or takes them over.
            Err(store::Error::Busy { .. }) => return,
            Err(error) => {
                tracing::error!(%error, "incomplete files could not be hidden; trying again");
                false
            }
        };
        tracing::error!(
            incomplete = self.files.len(),
            model_dir = %self.config.model_dir.display(),
            hidden,
            "no agent took over in time: readers of incomplete files get an error"
        );
        // By all numbers there can be: the record need not be believed for this.
        for number in 0..process::MOST_OPEN_FILES {
            let Ok(number) = i32::try_from(number) else { break };
            match self.group.deny_number(number, Errno::EIO) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(%error, "cannot answer a reader"),
            }
        }
        // The numbers mean nothing to an agent that comes later.
        if let Err(error) = record::forget(self.record.as_fd()) {
            tracing::error!(%error, "the record of held readers cannot be emptied");
        }
        self.phase = Phase::Denying { hidden };
    }

    /// Ends when the files are hidden and nobody has one open.
    pub(super) fn end_if_unused(&mut self) {
        let Phase::Denying { hidden } = &mut self.phase else { return };
        *hidden = *hidden || store::hide_incomplete(&self.config.model_dir, Duration::ZERO).is_ok();
        if *hidden {
            self.files.release_unused();
        }
        if self.files.is_empty() {
            tracing::debug!("nobody has an incomplete file open: the keeper ends");
            self.phase = Phase::Done;
        }
    }

    /// Kills who has been stopped because of what he has mapped of an incomplete file.
    pub(super) fn end_stopped(&mut self) {
        if self.stops.is_empty() {
            return;
        }
        let duplicates: io::Result<_> = self.stops.iter().map(OwnedFd::try_clone).collect();
        let stopper = duplicates.map_err(stop::Error::Duplicate).and_then(Stopper::adopt);
        match stopper {
            // What is gated and mapped is not complete: an agent ungates what is.
            Ok(mut stopper) => stop::end_held(&mut stopper, &mut self.told),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "stopped processes stay so: the programs that stopped them cannot be used"
            ),
        }
    }

    /// Fails every reader that waits in the kernel's queue.
    pub(super) fn deny_events(&mut self) {
        loop {
            // Long enough for events of either kind.
            match self.group.read(Mark::PreAccess, BATCH, &mut self.buffer) {
                Ok(batch) => {
                    for event in batch.filter_map(Result::ok) {
                        if let Err(error) = self.group.deny(&event, Errno::EIO) {
                            tracing::error!(%error, pid = event.pid, "cannot answer a reader");
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return tracing::error!(%error, "the keeper cannot read events of the kernel"),
            }
        }
    }
}
