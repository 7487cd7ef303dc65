//! Where a keeper is found: a door in the state directory of the model that it keeps.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

pub(super) use crate::store::stranger;
use crate::store::{Door, Reached};

const DOOR: Door = Door::of_messages("keeper");

/// Listens there; called while holding the lock of the model directory, so that whoever had the name before
/// is gone.
pub(super) fn listen(model_dir: &Path) -> io::Result<OwnedFd> {
    DOOR.listen(model_dir)
}

/// Connects to the keeper, if there is one.
pub(super) fn connect(model_dir: &Path) -> io::Result<Option<OwnedFd>> {
    Ok(match DOOR.connect(model_dir)? {
        Reached::Somebody(socket) => Some(socket),
        Reached::Nobody | Reached::Dead => None,
    })
}

/// Takes the name away; fine if it is not there.
pub(super) fn forget(model_dir: &Path) -> io::Result<()> {
    DOOR.forget(model_dir)
}
