//! Looks at the kernel's own structures, by offsets read from the running kernel's BTF.
//!
//! Every look is `bpf_probe_read_kernel`, which fails instead of faulting: a structure freed under us gives
//! `None` or a stale value, never a crash. A stale value names a file that is not watched, or one record
//! too many; both are harmless.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task};
use ossc_common::Inode;

use crate::maps::setting;

/// `FS_ACCESS_PERM` and `FS_PRE_ACCESS` (include/linux/fsnotify_backend.h).
const PERMISSION_MARKS: u32 = 0x2_0000 | 0x10_0000;

/// Something in kernel memory.
pub(crate) type Address = *const u8;

/// The `struct file` behind a file descriptor of the running thread.
pub(crate) fn file_of_descriptor(descriptor: u64) -> Option<Address> {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() } as Address;
    let files: Address = member(task, setting!(offsets.task_files))?;
    let table: Address = member(files, setting!(offsets.files_fdt))?;
    let size: u32 = member(table, setting!(offsets.fdtable_max_fds))?;
    if descriptor >= u64::from(size) {
        return None;
    }
    let slots: Address = member(table, setting!(offsets.fdtable_fd))?;
    let slot = usize::try_from(descriptor).ok()? * size_of::<Address>();
    let file: Address = read(slots.wrapping_add(slot))?;
    if file.is_null() { None } else { Some(file) }
}

/// The `struct inode` of a `struct file`.
pub(crate) fn inode_of_file(file: Address) -> Option<Address> {
    member(file, setting!(offsets.file_inode))
}

/// The `struct inode` of a `struct address_space`.
pub(crate) fn inode_of_mapping(mapping: Address) -> Option<Address> {
    member(mapping, setting!(offsets.mapping_host))
}

/// What names a `struct inode` in the map of watched files.
pub(crate) fn identity(inode: Address) -> Option<Inode> {
    let number: u64 = member(inode, setting!(offsets.inode_ino))?;
    let super_block: Address = member(inode, setting!(offsets.inode_sb))?;
    let device: u32 = member(super_block, setting!(offsets.super_block_dev))?;
    Some(Inode::new(device, number))
}

/// Where the next read of a `struct file` begins.
pub(crate) fn position_of_file(file: Address) -> Option<u64> {
    member(file, setting!(offsets.file_position))
}

/// Whether reads of a `struct inode` ask somebody first: a fanotify mark on it wants permission events.
pub(crate) fn is_gated(inode: Address) -> bool {
    let offset = setting!(offsets.inode_marks);
    // Where the kernel does not say, every watched file may be.
    offset == 0 || member::<u32>(inode, offset).is_some_and(|mask| mask & PERMISSION_MARKS != 0)
}

/// The `struct file` that a `struct kiocb` reads, its first member (include/linux/fs.h).
pub(crate) fn file_of_request(request: Address) -> Option<Address> {
    member(request, 0)
}

/// Where the read of a `struct kiocb` begins.
pub(crate) fn position_of_request(request: Address) -> Option<u64> {
    member(request, setting!(offsets.request_position))
}

/// The bytes that a `struct iov_iter` takes from the file; None if it gives them.
pub(crate) fn wanted_by_buffers(buffers: Address) -> Option<u64> {
    let is_source: u8 = member(buffers, setting!(offsets.buffers_are_source))?;
    if is_source == 0 { member(buffers, setting!(offsets.buffers_count)) } else { None }
}

/// Process id of a `task_struct`.
pub(crate) fn process_of_task(task: Address) -> Option<u32> {
    member(task, setting!(offsets.task_tgid))
}

/// Thread id of a `task_struct`.
pub(crate) fn thread_of_task(task: Address) -> Option<u32> {
    member(task, setting!(offsets.task_pid))
}

/// How many threads of the task's process have not exited.
pub(crate) fn live_threads(task: Address) -> Option<u32> {
    let signal: Address = member(task, setting!(offsets.task_signal))?;
    member(signal, setting!(offsets.signal_live))
}

/// Copies the member at `offset` of the structure at `base`.
pub(crate) fn member<T>(base: Address, offset: u32) -> Option<T> {
    read(base.wrapping_add(offset as usize))
}

/// Copies what is at an address.
pub(crate) fn read<T>(address: Address) -> Option<T> {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(address.cast()) }.ok()
}
