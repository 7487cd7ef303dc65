//! Attaching a loaded eBPF program to a raw tracepoint by a descriptor of our own: it stays attached for as long as any
//! process holds a duplicate of that descriptor. (aya's links cannot be taken apart into one on every kernel.)
//!
//! Driven by `bpf::stop`. Nothing here keeps state; a kernel that refuses says so with its errno.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `BPF_RAW_TRACEPOINT_OPEN` of `enum bpf_cmd` (include/uapi/linux/bpf.h).
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;

/// Attaches to the raw tracepoint of this name.
pub fn attach(program: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
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
