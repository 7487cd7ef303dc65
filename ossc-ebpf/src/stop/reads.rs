//! Which range a read call in flight asks for: the kernel's permission events of older kernels, and of tmpfs, say
//! only which thread reads which file.
//!
//! An entry exists from the entry of the call to its exit and no longer, so it is never of an earlier call. What
//! the kernel does for a thread after the exit, such as an io_uring request it had queued, finds no entry.

use aya_ebpf::helpers::bpf_probe_read_user;
use ossc_common::{AT_POSITION, ReadCall};

use crate::calls::Arguments;
use crate::hold::{current_process, current_thread};
use crate::kernel::{file_of_descriptor, inode_of_file, is_gated};
use crate::maps::{CALLED, READS, gated, is_own};

/// Buffers of a vectored read whose lengths are summed; a longer list counts as the rest of the file.
const BUFFERS_MAX: u64 = 32;

/// `struct iovec` of include/uapi/linux/uio.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    _base: u64,
    length: u64,
}

/// read(descriptor, buffer, count).
pub(crate) fn read(arguments: Arguments) {
    let _ = remember(arguments, AT_POSITION, || arguments.get::<2>());
}

/// pread64(descriptor, buffer, count, offset).
pub(crate) fn pread(arguments: Arguments) {
    let _ = remember(arguments, arguments.get::<3>(), || arguments.get::<2>());
}

/// readv(descriptor, list, count).
pub(crate) fn readv(arguments: Arguments) {
    let _ = remember(arguments, AT_POSITION, || total(arguments.get::<1>(), arguments.get::<2>()));
}

/// preadv(descriptor, list, count, offset, ...) and preadv2. The second half of the offset, argument 4, matters on
/// 32-bit machines only (`pos_from_hilo`, fs/read_write.c). An offset of -1 of preadv2 means the position, which is
/// what `AT_POSITION` is.
pub(crate) fn preadv(arguments: Arguments) {
    let length = || total(arguments.get::<1>(), arguments.get::<2>());
    let _ = remember(arguments, arguments.get::<3>(), length);
}

/// The exit of all of them.
#[inline(always)]
pub(crate) fn end() {
    let tid = current_thread();
    // Looked up first, because that takes no lock.
    if READS.get_ptr(tid).is_some() {
        drop(READS.remove(tid));
    }
}

#[inline(always)]
fn remember(arguments: Arguments, offset: u64, length: impl FnOnce() -> u64) -> Option<()> {
    let descriptor = arguments.get::<0>() & u64::from(u32::MAX);
    let inode = inode_of_file(file_of_descriptor(descriptor)?)?;
    // Its mark came before its name; and most files have none.
    if !is_gated(inode) {
        return None;
    }
    let inode = gated(inode)?;
    let tgid = current_process();
    if is_own(tgid) {
        return None;
    }
    let call = ReadCall { inode, offset, length: length(), descriptor: descriptor as u32, tgid };
    let tid = current_thread();
    CALLED.add(tid);
    // Without room the whole file is waited for.
    READS.insert(tid, call, 0).ok()
}

/// The bytes of a list of buffers in the reader's memory; `u64::MAX` where they cannot all be seen.
fn total(list: u64, count: u64) -> u64 {
    if count > BUFFERS_MAX {
        return u64::MAX;
    }
    let mut sum = 0_u64;
    for index in 0..BUFFERS_MAX {
        if index >= count {
            break;
        }
        let address = (list as *const Buffer).wrapping_add(index as usize);
        // SAFETY: the helper checks the address itself.
        match unsafe { bpf_probe_read_user(address) } {
            Ok(buffer) => sum = sum.saturating_add(buffer.length),
            Err(_) => return u64::MAX,
        }
    }
    sum
}
