//! Calls that map bytes: mmap(2) of a gated file, and mremap(2) and remap_file_pages(2) by a process that has
//! mapped one. Beside them ioctl(FICLONE) of a gated file, which is refused where this gate is needed: cp(1) calls it
//! before it looks for holes with lseek(2), which no gate can hold.
//!
//! Held from the entry on, stopped at the exit, when the mapping is there for user space to look at. The file is
//! looked up at the entry, because another thread may close the descriptor before the exit.
//!
//! Where only growing mappings are held there is no program at the exit, which every call of every process would pay
//! for: the stop is sent at the entry and takes effect at the end of the call, which no SIGSTOP cuts short (mremap(2)
//! waits for the lock of the memory killable, not interruptible). Who is on `CALLS` stays there until the agent lets him go.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::calls::Arguments;
use crate::hold::{Reason, current_process, hold, kill, stop};
use crate::kernel::{file_of_descriptor, inode_of_file};
use crate::maps::{CALLED, CALLS, COPIERS, MAPPERS, gated, is_own, stops_at_mmap};

/// `MAP_ANONYMOUS`: no file, whatever the descriptor says (include/uapi/asm-generic/mman-common.h, as those below).
const MAP_ANONYMOUS: u64 = 0x20;
/// `MAP_LOCKED` (asm-generic/mman.h) and `MAP_POPULATE`: the call touches every page, and that copies those of a private,
/// writable mapping before anybody is stopped.
const MAP_TOUCHED: u64 = 0x2000 | 0x8000;
const MAP_PRIVATE: u64 = 0x02;
const PROT_WRITE: u64 = 0x02;

/// include/uapi/linux/fs.h.
const FICLONE: u64 = 0x4004_9409;

/// What a call on the map does.
mod call {
    /// mmap(2).
    pub(super) const MAP: u32 = 0;
    /// mmap(2) that copies missing bytes.
    pub(super) const COPY: u32 = 1;
    /// mremap(2).
    pub(super) const GROW: u32 = 2;
    /// remap_file_pages(2).
    pub(super) const REMAP: u32 = 3;
    /// ioctl(2), which maps nothing.
    pub(super) const CLONE: u32 = 4;
}

/// mmap(address, length, protection, flags, descriptor, offset).
pub(crate) fn mmap(arguments: Arguments) {
    let flags = arguments.get::<3>();
    if flags & MAP_ANONYMOUS == 0 {
        let copies =
            flags & MAP_TOUCHED != 0 && flags & MAP_PRIVATE != 0 && arguments.get::<2>() & PROT_WRITE != 0;
        let _ = map_file(arguments.get::<4>(), if copies { call::COPY } else { call::MAP });
    }
}

fn map_file(descriptor: u64, call: u32) -> Option<()> {
    // The kernel takes the descriptor as a 32-bit number; what is above is noise.
    let descriptor = descriptor & u64::from(u32::MAX);
    gated(inode_of_file(file_of_descriptor(descriptor)?)?)?;
    let tgid = current_process();
    // The agent's own is noted, too: so it sees at start that the programs see mappings.
    if MAPPERS.insert(tgid, 0, 0).is_err() {
        kill();
    } else if stops_at_mmap() && !is_own(tgid) {
        begin(tgid, call);
    }
    Some(())
}

/// mremap(old_address, old_size, new_size, ...): only one that grows maps what was not mapped.
pub(crate) fn mremap(arguments: Arguments) {
    if arguments.get::<2>() > arguments.get::<1>() {
        map_more(call::GROW);
    }
}

/// remap_file_pages(...).
pub(crate) fn remap() {
    map_more(call::REMAP);
}

/// What maps other bytes of a file that was mapped before.
fn map_more(call: u32) {
    let tgid = current_process();
    if !is_own(tgid) && MAPPERS.get_ptr(tgid).is_some() {
        begin(tgid, call);
    }
}

/// ioctl(descriptor, FICLONE, descriptor of the source).
pub(crate) fn clone(arguments: Arguments) {
    // The kernel takes the command as a 32-bit number.
    if arguments.get::<1>() & u64::from(u32::MAX) == FICLONE {
        let _ = clone_file(arguments.get::<2>());
    }
}

fn clone_file(source: u64) -> Option<()> {
    let inode = gated(inode_of_file(file_of_descriptor(source & u64::from(u32::MAX))?)?)?;
    let tgid = current_process();
    if stops_at_mmap() && !is_own(tgid) {
        if COPIERS.insert(bpf_get_current_pid_tgid(), inode, 0).is_err() {
            kill();
        }
        begin(tgid, call::CLONE);
    }
    Some(())
}

fn begin(tgid: u32, call: u32) {
    let thread = bpf_get_current_pid_tgid();
    CALLED.add(thread as u32);
    let has_exit = stops_at_mmap();
    let reason = if has_exit { Reason::ANNOUNCED } else { Reason::UNKNOWN };
    if !hold(tgid, reason) || CALLS.insert(thread, call, 0).is_err() {
        kill();
    } else if !has_exit {
        stop();
    }
}

/// The exit of all of them. Whether the call succeeded does not matter: user space looks at what is mapped.
#[inline(always)]
pub(crate) fn end(arguments: Arguments, result: u64) {
    let id = bpf_get_current_pid_tgid();
    if let Some(call) = CALLS.get_ptr(id) {
        // SAFETY: an entry of this thread, which is here and so does not write it now.
        let call = unsafe { *call };
        let tgid = current_process();
        let reason = match call {
            call::MAP => Reason::mapped(result, arguments.get::<1>(), false),
            call::COPY => Reason::mapped(result, arguments.get::<1>(), true),
            call::GROW => Reason::mapped(result, arguments.get::<2>(), false),
            call::REMAP => Reason::UNKNOWN,
            _ => Reason::ANNOUNCED,
        };
        // Held anew: what the agent released meanwhile was not this mapping.
        if hold(tgid, reason) {
            stop();
        } else {
            kill();
        }
        drop(CALLS.remove(id));
    }
}
