//! The table of probes, and attaching each. A probe that this kernel does not have or does not allow is noted
//! in the summary with what is lost; the others work without it.
//!
//! Some are attached only when they are needed. The read calls: where the kernel reports reads at its page cache, a
//! program at the calls would add a quarter of a microsecond to each read of every process, to learn the same in
//! bytes instead of pages. Page faults by address, which all processes have all the time: where the kernel reports
//! them at its page cache, that is enough.

use std::path::Path;

use aya::Ebpf;
use aya::programs::{Program, ProgramError, RawTracePoint, TracePoint};

use super::summary::chain;
use super::{Config, Faults, Reads, Summary, Targets};

/// The programs in the kernel. Detached when dropped.
pub(super) struct Attached {
    programs: Ebpf,
    /// Why the programs do not know the kernel's structures, as an error: they all need them.
    layout: Result<(), String>,
    /// What came of it.
    summary: Summary,
    tried: Tried,
    sees_faults: bool,
}

/// Which groups of probes have been tried; each is tried once.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each group, and they are independent")]
struct Tried {
    family: bool,
    calls: bool,
    memory: bool,
    addresses: bool,
}

/// One place in the kernel and the program that runs there.
struct Probe {
    /// Name of the function in `ossc-ebpf`.
    program: &'static str,
    at: At,
    /// What the agent does not know when it is missing.
    consequence: &'static str,
}

/// Kinds of places.
#[derive(Clone, Copy)]
enum At {
    /// A formatted tracepoint, `category:name`; found through tracefs.
    Tracepoint(&'static str, &'static str),
    /// A raw tracepoint of this name.
    Raw(&'static str),
}

const OPENS: &str = "when the model files are opened";
const MAPS: &str = "when the model files are mapped";
const READS: &str = "what is read of the model files by this call";
const CACHE_READS: &str = "what is read of the model files other than by read calls";
const DIRECT_READS: &str = "what is read of the model files with O_DIRECT";
const FAULTS: &str = "what is touched of the model files through mappings";
const AROUND: &str = "how much is mapped with a page of the model files that is touched";
const MEMORY: &str = "what becomes of mappings of the model files";
const FAMILY: &str = "which children of the target are started and ended";

/// The target's family; not needed when everybody is a target. First, because a child born before them would be
/// seen by no one.
const FAMILY_PROBES: [Probe; 2] =
    [raw("sched_process_fork", "process_fork", FAMILY), raw("sched_process_exit", "process_exit", FAMILY)];

const ACCESS_PROBES: [Probe; 4] = [
    call("sys_exit_openat", "open_exit", OPENS),
    call("sys_exit_openat2", "open_exit", OPENS),
    call("sys_enter_mmap", "mmap_enter", MAPS),
    call("sys_exit_mmap", "mmap_exit", MAPS),
];

/// Every read that goes through the page cache; in Linux 6.12 and newer.
const CACHE_READ_PROBES: [Probe; 1] = [raw("mm_filemap_get_pages", "get_pages", CACHE_READS)];
/// Reads past it; in Linux 6.6 and newer.
const DIRECT_PROBES: [Probe; 1] = [raw("iomap_dio_rw_begin", "direct", DIRECT_READS)];
/// Faults with what they map; in Linux 6.12 and newer.
const CACHE_FAULT_PROBES: [Probe; 2] =
    [raw("mm_filemap_fault", "fault", AROUND), raw("mm_filemap_map_pages", "map_pages", AROUND)];

/// What becomes of the memory that files are mapped into.
const MEMORY_PROBES: [Probe; 4] = [
    call("sys_enter_munmap", "munmap_enter", MEMORY),
    call("sys_enter_mremap", "mremap_enter", MEMORY),
    call("sys_exit_mremap", "mremap_exit", MEMORY),
    raw("sched_process_exec", "process_exec", MEMORY),
];

/// Faults by address.
const ADDRESS_PROBES: [Probe; 2] =
    [raw("page_fault_user", "page_fault", FAULTS), raw("page_fault_kernel", "page_fault", FAULTS)];

const CALL_PROBES: [Probe; 5] = [
    call("sys_enter_read", "read_enter", READS),
    call("sys_enter_pread64", "pread_enter", READS),
    call("sys_enter_readv", "readv_enter", READS),
    call("sys_enter_preadv", "preadv_enter", READS),
    call("sys_enter_preadv2", "preadv_enter", READS),
];

/// arm64 never had open(2).
#[cfg(target_arch = "x86_64")]
const OLD_PROBES: [Probe; 1] = [call("sys_exit_open", "open_exit", OPENS)];
#[cfg(not(target_arch = "x86_64"))]
const OLD_PROBES: [Probe; 0] = [];

const fn raw(name: &'static str, program: &'static str, consequence: &'static str) -> Probe {
    Probe { program, at: At::Raw(name), consequence }
}

const fn call(name: &'static str, program: &'static str, consequence: &'static str) -> Probe {
    Probe { program, at: At::Tracepoint("syscalls", name), consequence }
}

impl Attached {
    /// Attaches what every trace needs of what this machine has.
    pub(super) fn new(programs: Ebpf, config: &Config, layout: Result<(), String>, summary: Summary) -> Self {
        let tried = Tried::default();
        let mut attached = Self { programs, layout, summary, tried, sees_faults: false };
        if matches!(config.targets, Targets::Chosen { .. }) {
            attached.see_family();
        }
        attached.attach(&ACCESS_PROBES);
        attached.attach(&OLD_PROBES);
        if !attached.attach(&CACHE_READ_PROBES) || config.reads == Reads::Always || config.stalls {
            attached.see_calls();
        }
        // Older kernels have neither, and the calls show these reads, too.
        if !attached.tried.calls {
            attached.attach(&DIRECT_PROBES);
        }
        attached.sees_faults = config.faults == Faults::Auto && attached.attach(&CACHE_FAULT_PROBES);
        if config.mappings {
            attached.see_memory();
        }
        attached
    }

    /// Whether the kernel tells which bytes of a file faults are about.
    pub(super) fn sees_faults(&self) -> bool {
        self.sees_faults
    }

    /// Attaches the read calls, unless that has been tried.
    pub(super) fn see_calls(&mut self) {
        if !std::mem::replace(&mut self.tried.calls, true) {
            self.attach(&CALL_PROBES);
        }
    }

    /// Attaches page faults by address, and what is needed to resolve them, unless that has been tried.
    pub(super) fn see_addresses(&mut self) {
        if !std::mem::replace(&mut self.tried.addresses, true) {
            self.see_memory();
            self.attach(&ADDRESS_PROBES);
        }
    }

    /// Whether mappings are followed.
    pub(super) fn sees_memory(&self) -> bool {
        self.tried.memory
    }

    fn see_memory(&mut self) {
        if !std::mem::replace(&mut self.tried.memory, true) {
            self.see_family();
            self.attach(&MEMORY_PROBES);
        }
    }

    fn see_family(&mut self) {
        if !std::mem::replace(&mut self.tried.family, true) {
            self.attach(&FAMILY_PROBES);
        }
    }

    /// What is attached and what is not to be had.
    pub(super) fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether all of them could be attached.
    fn attach(&mut self, probes: &[Probe]) -> bool {
        let missing = self.summary.missing.len();
        for Probe { program, at, consequence } in probes {
            let attached = self.layout.clone().and_then(|()| attach_one(&mut self.programs, program, *at));
            match attached {
                Ok(()) => self.summary.attached(at.name()),
                Err(why) => self.summary.missing(at.name(), why, consequence),
            }
        }
        self.summary.missing.len() == missing
    }
}

fn attach_one(programs: &mut Ebpf, name: &str, at: At) -> Result<(), String> {
    let program = programs.program_mut(name).ok_or("the eBPF object has no such program")?;
    match at {
        At::Tracepoint(category, name) => attach_tracepoint(program, category, name),
        At::Raw(name) => attach_raw(program, name),
    }
    .map_err(|error| match at {
        At::Tracepoint(..) if !has_tracefs() => {
            "tracefs is not mounted; `mount -t tracefs tracefs /sys/kernel/tracing`".to_owned()
        }
        _ => refusal(&error),
    })
}

/// Why a program does not run, in one line: of the verifier's log only what it ends with, before its statistics.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    tracing::debug!(%verifier_log, "the kernel refuses an eBPF program");
    format!("the kernel refuses the program ({io_error}): {}", last_words(&verifier_log.to_string()))
}

/// What the verifier says last of the program, before its statistics (`bpf_check` in kernel/bpf/verifier.c).
fn last_words(log: &str) -> &str {
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed"];
    let says = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start));
    log.lines().rev().map(str::trim).find(says).unwrap_or("it does not say why")
}

fn attach_tracepoint(program: &mut Program, category: &str, name: &str) -> Result<(), ProgramError> {
    let program: &mut TracePoint = program.try_into()?;
    once(program.load())?;
    program.attach(category, name).map(drop)
}

fn attach_raw(program: &mut Program, name: &str) -> Result<(), ProgramError> {
    let program: &mut RawTracePoint = program.try_into()?;
    once(program.load())?;
    program.attach(name).map(drop)
}

/// One program may serve several places.
fn once(loaded: Result<(), ProgramError>) -> Result<(), ProgramError> {
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

/// Whether tracefs is at one of the places where aya looks for it.
fn has_tracefs() -> bool {
    ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"]
        .iter()
        .any(|path| Path::new(path).is_dir())
}

impl At {
    fn name(self) -> String {
        match self {
            Self::Tracepoint(category, name) => format!("{category}:{name}"),
            Self::Raw(name) => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_verifier_is_quoted_with_its_reason_alone() {
        let log = "0: R1=ctx(off=0,imm=0) R10=fp0\n49: (85) call bpf_probe_read#4\nunknown func bpf_probe_read#4\n\
            verification time 1359 usec\nstack depth 80+0\nprocessed 20 insns (limit 1000000)\n";
        assert_eq!(super::last_words(log), "unknown func bpf_probe_read#4");
        assert_eq!(super::last_words(""), "it does not say why");
    }
}
