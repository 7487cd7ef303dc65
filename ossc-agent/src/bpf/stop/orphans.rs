//! What happens to held processes when no agent is left to decide: driven by the keeper.

use std::collections::HashSet;
use std::io;

use nix::sys::signal::Signal;

use super::{KernelInode, Stopper};
use crate::sys::reader::{self, Handle, Mapped};

const KILLED: &str = "a process that mapped missing bytes is killed: no agent will bring them, and mmap(2) cannot fail any more";

/// Ends every process that is held and has a gated file mapped: it must never see what is missing, and mmap(2)
/// has succeeded already, so there is no other error it could be given. Whom this does not concern is let go.
///
/// To be called again and again; `told` remembers what the log was told of whom.
pub fn end_held(stopper: &mut Stopper, told: &mut HashSet<(u32, String)>) {
    let stopped = match stopper.stopped() {
        Ok(stopped) => stopped,
        Err(error) => return tracing::error!(%error, "cannot tell which processes are held"),
    };
    for stopped in stopped {
        let pid = stopped.pid;
        let Ok(process) = Handle::open(pid) else { continue };
        let settled = stopper.has_settled(pid);
        // What cannot be looked at is missing.
        let is_gated = |mapped: &Mapped| stopper.is_gated(KernelInode::new(mapped.device, mapped.inode));
        let copies = stopper.copied_by(pid).into_iter().any(|inode| stopper.is_gated(inode));
        let ends = copies || reader::mapped(pid).map_or(true, |mapped| mapped.iter().any(is_gated));
        let outcome = if ends {
            if told.insert((pid, KILLED.to_owned())) {
                tracing::error!(pid, "{KILLED}");
            }
            process.signal(Signal::SIGKILL)
        } else if settled {
            stopper.let_go(stopped, &process).map(drop)
        } else {
            // A thread of it may be about to map more: looked at again soon.
            Ok(())
        };
        tell(pid, outcome, told);
    }
    for stopped in stopper.half_released() {
        if let Ok(process) = Handle::open(stopped.pid) {
            tell(stopped.pid, stopper.go_on(stopped, &process).map(drop), told);
        }
    }
}

fn tell(pid: u32, outcome: io::Result<()>, told: &mut HashSet<(u32, String)>) {
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::NotFound
        && told.insert((pid, error.to_string()))
    {
        tracing::error!(%error, pid, "a held process cannot be sent a signal; trying again");
    }
}
