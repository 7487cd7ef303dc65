//! Where the stop gate's programs run, and bringing them there: raw tracepoints only, see `ossc-ebpf/src/stop/calls.rs`
//! for why.
//!
//! The exit of a call is attached before its entry, so that whatever an entry notes is cleared again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{Program, ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use ossc_common::{
    CALL_IOCTL, CALL_MMAP, CALL_MREMAP, CALL_NUMBERS, CALL_OTHER, CALL_PREAD, CALL_PREADV, CALL_READ,
    CALL_READV, CALL_REMAP, StopSettings,
};

use super::{At, Error};
use crate::bpf::{layout, load};
use crate::sys::tracepoint;

/// What build.rs made of `ossc-ebpf/src/stop`; aligned, because aya reads ELF structures in place.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OSSC_STOP_OBJECT"));

/// Not needed where only growing mappings are held (`ossc-ebpf/src/stop/mapping.rs`).
const EXITS: &str = "sys_exit";

/// Tracepoints and their programs.
const PLACES: [(&str, &str); 6] = [
    ("sched_process_exit", "stop_exit"),
    ("sched_process_fork", "stop_fork"),
    ("sched_process_exec", "stop_exec"),
    ("signal_generate", "stop_signal"),
    (EXITS, "stop_leave"),
    ("sys_enter", "stop_enter"),
];

/// On x86-64 and RISC-V. Without it a process that somebody else continues runs until the agent stops it again.
const FAULTS: (&str, &str) = ("page_fault_user", "stop_fault");

/// The object with its maps, for the running kernel.
pub(super) fn load(at: At) -> Result<Ebpf, Error> {
    let (offsets, registers) = layout::with_registers().map_err(Error::Layout)?;
    load::raise_locked_memory();
    let settings = StopSettings { offsets, registers, at_mmap: u32::from(at == At::Mmap), calls: calls(at) };
    EbpfLoader::new()
        // The kernel's types are read by `layout`; the programs need none, and aya would read them all again.
        .btf(None)
        .override_global("SETTINGS", &settings, true)
        .load(OBJECT)
        .map_err(Error::Load)
}

/// What each system call is to the programs. Those that matter at mmap(2) alone are left out where it stops nobody.
fn calls(at: At) -> [u8; CALL_NUMBERS] {
    let growth = [
        (libc::SYS_mmap, CALL_MMAP),
        (libc::SYS_mremap, CALL_MREMAP),
        (libc::SYS_remap_file_pages, CALL_REMAP),
    ];
    let more = [
        (libc::SYS_ioctl, CALL_IOCTL),
        (libc::SYS_read, CALL_READ),
        (libc::SYS_pread64, CALL_PREAD),
        (libc::SYS_readv, CALL_READV),
        (libc::SYS_preadv, CALL_PREADV),
        (libc::SYS_preadv2, CALL_PREADV),
    ];
    let mut calls = [CALL_OTHER; CALL_NUMBERS];
    for (number, call) in growth.into_iter().chain(more.into_iter().filter(|_| at == At::Mmap)) {
        if let Some(place) = usize::try_from(number).ok().and_then(|number| calls.get_mut(number)) {
            *place = call;
        }
    }
    calls
}

/// Attaches what is needed; the programs run until the last duplicate of these descriptors is closed.
pub(super) fn all(programs: &mut Ebpf, at: At) -> Result<Vec<OwnedFd>, Error> {
    let mut links = Vec::new();
    let is_needed = |place: &str| at == At::Mmap || place != EXITS;
    for (place, program) in PLACES.into_iter().filter(|(place, _)| is_needed(place)) {
        links.push(one(programs, place, program)?);
    }
    match one(programs, FAULTS.0, FAULTS.1) {
        Ok(link) => links.push(link),
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a held process that somebody else continues can run until the agent stops it again"
        ),
    }
    Ok(links)
}

/// Where the program at the ends of calls is among what [`all`] returns, where it is needed.
#[cfg(test)]
pub(super) fn exits() -> usize {
    PLACES.iter().take_while(|(place, _)| *place != EXITS).count()
}

fn one(programs: &mut Ebpf, place: &'static str, name: &'static str) -> Result<OwnedFd, Error> {
    let refused = |source| Error::Program { name, source };
    let program = programs.program_mut(name).ok_or(Error::Missing { name })?;
    match program {
        Program::RawTracePoint(program) => RawTracePoint::load(program),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .map_err(refused)?;
    let fd = program.fd().map_err(refused)?.as_fd();
    CString::new(place)
        .map_err(io::Error::other)
        .and_then(|place| tracepoint::attach(fd, &place))
        .map_err(|source| Error::Attach { at: place, source })
}
