//! Fixed-layout records that both sides of the kernel line read: the eBPF programs of `ossc-ebpf`
//! write them, `ossc-agent`'s `bpf` part decodes them. No logic lives here.
//!
//! Only `u32` and `u64` members and no hidden padding: both sides are compiled by different compilers
//! for different machines, and the verifier refuses to copy uninitialised bytes to user space.
#![no_std]

mod access;
mod limits;
mod settings;
mod stop;

pub use access::{
    CHANGE_END, CHANGE_FORK, CHANGE_REMAP, CHANGE_UNMAP, Change, Inode, KIND_FAULT, KIND_MAP, KIND_OPEN,
    KIND_PAGE_FAULT, KIND_READ, KIND_STALL, Record, Span,
};
pub use limits::{
    CGROUPS_MAX, LOSSES, LOST_CHILDREN, LOST_RECORDS, MAPS_IN_FLIGHT_MAX, READERS_MAX, RING_BYTES,
    TARGETS_MAX, WAKE_INTERVAL_MS, WATCHED_MAX,
};
pub use settings::{Offsets, Settings};
pub use stop::{
    AT_POSITION, CALL_IOCTL, CALL_MMAP, CALL_MREMAP, CALL_NUMBERS, CALL_OTHER, CALL_PREAD, CALL_PREADV,
    CALL_READ, CALL_READV, CALL_REMAP, CONTROL_AT_MMAP, CONTROL_OWN, CONTROL_VERSION, CONTROLS,
    DOORBELL_BYTES, END_CONTINUED, END_NO_ROOM, Held, ReadCall, Registers, Released, STOP_CALLS_MAX,
    STOP_PROCESSES_MAX, STOP_VERSION, StopSettings, USER_STOPS_MAX,
};
