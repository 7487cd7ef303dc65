//! Where the stop gate's programs run, and bringing them there: raw tracepoints only, see `ossc-ebpf/src/stop/calls.rs`
//! for why.
//!
//! The exit of a call is attached before its entry, so that whatever an entry notes is cleared again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{Program, ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use ossc_common::{Calls, StopSettings};

use super::Error;
use crate::bpf::{layout, load};
use crate::sys::tracepoint;

/// What build.rs made of `ossc-ebpf/src/stop`; aligned, because aya reads ELF structures in place.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OSSC_STOP_OBJECT"));

/// Tracepoints and their programs.
const PLACES: [(&str, &str); 6] = [
    ("sched_process_exit", "stop_exit"),
    ("sched_process_fork", "stop_fork"),
    ("sched_process_exec", "stop_exec"),
    ("signal_generate", "stop_signal"),
    ("sys_exit", "stop_leave"),
    ("sys_enter", "stop_enter"),
];

/// On x86-64 and RISC-V. Without it a process that somebody else continues runs until the agent stops it again.
const FAULTS: (&str, &str) = ("page_fault_user", "stop_fault");

/// The object with its maps, for the running kernel.
pub(super) fn load() -> Result<Ebpf, Error> {
    let (offsets, registers) =
        layout::read().and_then(|offsets| Ok((offsets, layout::registers()?))).map_err(Error::Layout)?;
    load::raise_locked_memory();
    EbpfLoader::new()
        .override_global("SETTINGS", &StopSettings { offsets, calls: calls(), registers }, true)
        .load(OBJECT)
        .map_err(Error::Load)
}

fn calls() -> Calls {
    let number = |number: libc::c_long| u32::try_from(number).unwrap_or(u32::MAX);
    Calls {
        mmap: number(libc::SYS_mmap),
        mremap: number(libc::SYS_mremap),
        remap_file_pages: number(libc::SYS_remap_file_pages),
        read: number(libc::SYS_read),
        pread: number(libc::SYS_pread64),
        readv: number(libc::SYS_readv),
        preadv: number(libc::SYS_preadv),
        preadv2: number(libc::SYS_preadv2),
        ioctl: number(libc::SYS_ioctl),
    }
}

/// Attaches what is needed; the programs run until the last duplicate of these descriptors is closed.
pub(super) fn all(programs: &mut Ebpf) -> Result<Vec<OwnedFd>, Error> {
    let mut links = Vec::new();
    for (place, program) in PLACES {
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
