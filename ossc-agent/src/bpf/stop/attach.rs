//! Where the stop gate's programs run, and bringing them there.
//!
//! The exit of a call is attached before its entry, so that whatever an entry notes is cleared again.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{Program, ProgramError, RawTracePoint, TracePoint};
use aya::{Ebpf, EbpfLoader};
use ossc_common::StopSettings;

use super::{At, Error};
use crate::bpf::{layout, load};
use crate::sys::tracepoint;

/// What build.rs made of `ossc-ebpf/src/stop`; aligned, because aya reads ELF structures in place.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OSSC_STOP_OBJECT"));

/// Where tracefs is mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Kinds of places.
#[derive(Clone, Copy)]
enum Place {
    /// A system call's entry or exit, by the tracepoint's name.
    Call(&'static str),
    /// A raw tracepoint.
    Raw(&'static str),
}

use Place::{Call, Raw};

/// Needed in any case.
const CORE: [(Place, &str); 8] = [
    (Raw("sched_process_exit"), "stop_exit"),
    (Raw("sched_process_fork"), "stop_fork"),
    (Raw("sched_process_exec"), "stop_exec"),
    (Raw("signal_generate"), "stop_signal"),
    (Call("sys_exit_mremap"), "stop_map_exit"),
    (Call("sys_exit_mmap"), "stop_map_exit"),
    (Call("sys_enter_mremap"), "stop_mremap_enter"),
    (Call("sys_enter_mmap"), "stop_mmap_enter"),
];

/// Where a kernel lacks the place there is nothing to see: the call does not exist.
const IF_THERE: [(Place, &str); 2] = [
    (Call("sys_exit_remap_file_pages"), "stop_map_exit"),
    (Call("sys_enter_remap_file_pages"), "stop_remap_enter"),
];

/// On x86-64 and RISC-V. Without it a process that somebody else continues runs until the agent stops it again.
const FAULTS: (Place, &str) = (Raw("page_fault_user"), "stop_fault");

/// Ranges of reads.
const READS: [(Place, &str); 10] = [
    (Call("sys_exit_read"), "stop_read_exit"),
    (Call("sys_exit_pread64"), "stop_read_exit"),
    (Call("sys_exit_readv"), "stop_read_exit"),
    (Call("sys_exit_preadv"), "stop_read_exit"),
    (Call("sys_exit_preadv2"), "stop_read_exit"),
    (Call("sys_enter_read"), "stop_read_enter"),
    (Call("sys_enter_pread64"), "stop_pread_enter"),
    (Call("sys_enter_readv"), "stop_readv_enter"),
    (Call("sys_enter_preadv"), "stop_preadv_enter"),
    (Call("sys_enter_preadv2"), "stop_preadv_enter"),
];

/// The object with its maps, for the running kernel.
pub(super) fn load() -> Result<Ebpf, Error> {
    let offsets = layout::read().map_err(Error::Layout)?;
    load::raise_locked_memory();
    EbpfLoader::new()
        .override_global("SETTINGS", &StopSettings { offsets }, true)
        .load(OBJECT)
        .map_err(Error::Load)
}

/// Attaches what is needed; the programs run until the last duplicate of these descriptors is closed.
pub(super) fn all(programs: &mut Ebpf, at: At) -> Result<Vec<OwnedFd>, Error> {
    let mut links = Vec::new();
    let reads = if at == At::Mmap { &READS[..] } else { &[] };
    for (place, program) in CORE.iter().chain(reads) {
        links.push(one(programs, *place, program)?);
    }
    for (place, program) in IF_THERE {
        match one(programs, place, program) {
            Ok(link) => links.push(link),
            Err(Error::Attach { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
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

fn one(programs: &mut Ebpf, place: Place, name: &'static str) -> Result<OwnedFd, Error> {
    let refused = |source| Error::Program { name, source };
    let program = programs.program_mut(name).ok_or(Error::Missing { name })?;
    load_once(program).map_err(refused)?;
    let fd = program.fd().map_err(refused)?.as_fd();
    match place {
        Call(call) => identify(call).and_then(|id| tracepoint::attach(fd, id)),
        Raw(raw) => {
            CString::new(raw).map_err(io::Error::other).and_then(|raw| tracepoint::attach_raw(fd, &raw))
        }
    }
    .map_err(|source| Error::Attach { at: place.name().to_owned(), source })
}

/// One program may serve several places.
fn load_once(program: &mut Program) -> Result<(), ProgramError> {
    let loaded = match program {
        Program::TracePoint(program) => TracePoint::load(program),
        Program::RawTracePoint(program) => RawTracePoint::load(program),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

/// The id of a system call's tracepoint; `NotFound` when there is none.
fn identify(call: &str) -> io::Result<u64> {
    let read = |root: &str| fs::read_to_string(format!("{root}/events/syscalls/{call}/id"));
    let text = read(TRACEFS[0]).or_else(|_| read(TRACEFS[1]))?;
    text.trim().parse().map_err(io::Error::other)
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Call(name) | Raw(name) => name,
        }
    }
}
