//! Attaching a loaded eBPF program to a tracepoint by a descriptor of our own: it stays attached for as long as any
//! process holds a duplicate of that descriptor. (aya's links cannot be taken apart into one on every kernel.)
//!
//! Driven by `bpf::stop`. Nothing here keeps state; a kernel that refuses says so with its errno.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `PERF_TYPE_TRACEPOINT` (include/uapi/linux/perf_event.h).
const TYPE_TRACEPOINT: u32 = 2;
/// `PERF_ATTR_SIZE_VER0`: the first published size of `struct perf_event_attr`, which every kernel takes.
const ATTRIBUTE_BYTES: u32 = 64;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
/// `PERF_EVENT_IOC_SET_BPF`: _IOW('$', 8, __u32).
const SET_BPF: libc::c_ulong = 0x4004_2408;
/// `BPF_RAW_TRACEPOINT_OPEN` of `enum bpf_cmd` (include/uapi/linux/bpf.h).
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;

/// Attaches to the formatted tracepoint of this id (tracefs, `events/CATEGORY/NAME/id`). The program runs for every
/// process, whatever the processor named here (`perf_event_attach_bpf_prog`).
pub fn attach(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    // type, size, config; all else 0 is a counter that runs from the start.
    let mut attribute = [0_u64; ATTRIBUTE_BYTES as usize / size_of::<u64>()];
    attribute[0] = u64::from(TYPE_TRACEPOINT) | u64::from(ATTRIBUTE_BYTES) << 32;
    attribute[1] = id;
    let (any_process, first_processor, no_group) = (-1, 0, -1);
    // SAFETY: the attribute is as long as its size says and outlives the call, which only reads it.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attribute.as_ptr(),
            any_process,
            first_processor,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    let event = owned(event)?;
    // SAFETY: takes two descriptors that are open for the length of the call.
    Errno::result(unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) })?;
    Ok(event)
}

/// Attaches to the raw tracepoint of this name.
pub fn attach_raw(program: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    // The member `raw_tracepoint` of `union bpf_attr`: address of the name, program.
    let attribute = [name.as_ptr().addr() as u64, u64::from(program.as_raw_fd().cast_unsigned())];
    // SAFETY: the attribute and the name it points to outlive the call, which only reads them.
    let link = unsafe {
        libc::syscall(libc::SYS_bpf, RAW_TRACEPOINT_OPEN, attribute.as_ptr(), size_of_val(&attribute))
    };
    owned(link)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
