//! Brings the compiled programs' maps into the kernel and fills in what the programs take for constants.
//! The programs themselves are verified one by one in `attach`, so that one refusal costs one probe.

use std::fs::{self, File};
use std::process;

use aya::maps::{CgroupArray, Map, MapError};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::unistd::{SysconfVar, sysconf};
use ossc_common::{CGROUPS_MAX, Offsets, Settings};
use tracing::level_filters::LevelFilter;

use super::consumer::Logger;
use super::summary::chain;
use super::{Config, Error, Summary, Targets};

/// What build.rs made of `ossc-ebpf`; aligned, because aya reads ELF structures in place.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OSSC_EBPF_OBJECT"));

/// What /proc/self/ns/pid is in the first pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Loads the object for this configuration.
pub(super) fn load(config: &Config, offsets: Option<&Offsets>, summary: &mut Summary) -> Result<Ebpf, Error> {
    let (everybody, cgroups) = match &config.targets {
        Targets::Everybody => (1, &[][..]),
        Targets::Chosen { cgroups, .. } => (0, &cgroups[..]),
    };
    let too_many = || Error::TooManyCgroups { given: cgroups.len(), max: CGROUPS_MAX };
    let filled = u32::try_from(cgroups.len()).ok().filter(|&n| n <= CGROUPS_MAX).ok_or_else(too_many)?;
    check_pid_namespace(summary);
    raise_locked_memory();
    let settings = Settings {
        own_tgid: process::id(),
        everybody,
        cgroups: filled,
        page_shift: page_shift(),
        stalls: config.stalls.into(),
        // Zeros when they are not known: `attach` leaves out the programs that would use them.
        offsets: offsets.copied().unwrap_or_default(),
    };
    let level = log_level();
    let mut programs = EbpfLoader::new()
        // The kernel's types are read by `layout`; the programs need none, and aya would read them all again.
        .btf(None)
        .override_global("SETTINGS", &settings, true)
        .override_global(aya_log::LEVEL, &level, false)
        .load(OBJECT)
        .map_err(Error::Load)?;
    // Stays in `programs`: a map that closes before the programs are verified is gone for them.
    let map = programs.map_mut("CGROUPS").ok_or(Error::Map { name: "CGROUPS", source: None })?;
    let mut slots =
        CgroupArray::try_from(map).map_err(|error| Error::Map { name: "CGROUPS", source: Some(error) })?;
    for (slot, path) in (0..).zip(cgroups) {
        let folder = File::open(path).map_err(|source| Error::NoCgroup { path: path.clone(), source })?;
        let refused = |source| Error::Cgroup { path: path.clone(), source };
        slots.set(slot, folder, 0).map_err(refused)?;
    }
    Ok(programs)
}

/// Takes a map out of the loaded object.
pub(super) fn map<M>(programs: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = programs.take_map(name).ok_or(Error::Map { name, source: None })?;
    M::try_from(map).map_err(|error| Error::Map { name, source: Some(error) })
}

/// The reader of what the programs log.
pub(super) fn logger(programs: &mut Ebpf, summary: &mut Summary) -> Option<Logger> {
    EbpfLogger::init(programs)
        .map_err(|error| summary.missing("log of the programs", chain(&error), "debug lines of the programs"))
        .ok()
}

/// Before Linux 5.11 maps count as locked memory. Where the limit cannot be raised it need not be, or loading
/// fails and says so.
pub(super) fn raise_locked_memory() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "the limit of locked memory stays as it is");
    }
}

/// Whether the ids that programs see are those that this process sees.
pub(super) fn is_first_pid_namespace() -> bool {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    namespace.as_os_str() == FIRST_PID_NAMESPACE
}

/// The programs see the ids of the first pid namespace; in another one ours differ from them.
fn check_pid_namespace(summary: &mut Summary) {
    if !is_first_pid_namespace() {
        summary.missing(
            "process ids",
            "the agent runs in a pid namespace of its own; run it in the host's (hostPID, --pid=host)".into(),
            "which processes are targets, unless all are or a cgroup says so",
        );
    }
}

/// log2 of the page size; 12, the smallest any Linux has, if the C library will not say.
pub(super) fn page_shift() -> u32 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
    size.and_then(u64::checked_ilog2).unwrap_or(12)
}

/// Programs skip what nobody listens to: the level at which tracing is enabled, as aya-log numbers it.
fn log_level() -> u8 {
    match LevelFilter::current().into_level() {
        None => 0,
        Some(tracing::Level::ERROR) => aya_log::Level::Error as u8,
        Some(tracing::Level::WARN) => aya_log::Level::Warn as u8,
        Some(tracing::Level::INFO) => aya_log::Level::Info as u8,
        Some(tracing::Level::DEBUG) => aya_log::Level::Debug as u8,
        Some(tracing::Level::TRACE) => aya_log::Level::Trace as u8,
    }
}
