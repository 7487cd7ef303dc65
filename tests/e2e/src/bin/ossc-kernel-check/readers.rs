//! A small load while readers of every kind come, and what the agent said of its gate and probes meanwhile.
//!
//! Kinds that the kernel refuses on a plain file of the file system, such as O_DIRECT on a tmpfs of old kernels, are
//! found by trying, named, and left out.
//!
//! Where the agent stops processes a second load shows that readers see right bytes without that, too: where the
//! agent does not find the kernel's types (/sys/kernel/btf) it can load no programs that stop anybody, and holds at
//! open(2).

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use e2e::agent::{PATIENCE, READER_HELD};
use e2e::content::{Content, Target};
use e2e::crowd::{Crowd, Ended};
use e2e::events::Event;
use e2e::reader::{KINDS, Outcome, PROCESS_KINDS, Reading, SAFETENSORS};
use e2e::scratch::{FileSystem, Scratch};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::millis;
use crate::report::Readers;

/// Bytes of each of two shards.
const SHARD: u64 = (10 << 20) + 1234;
/// Tensors of 1 MiB in the third file.
const TENSORS: usize = 8;
/// Bytes a second: emulated machines need some seconds to start this many readers.
const RATE: u64 = 6_000_000;
/// Reads of each thread of a quick reader.
const READS: u64 = 12;
/// Bytes of the plain file on which kinds are tried.
const TRIAL: u64 = 1 << 20;

/// Where the kernel's types are.
const TYPES: &str = "/sys/kernel/btf";
/// The gate beside which open(2) is tried, as the agent names it.
const STOP: &str = "stop";

/// What the agent said of its probes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How many it attached.
    pub(crate) attached: u64,
    /// Names of those it missed.
    pub(crate) missing: Vec<String>,
}

/// Loads, once for each gate there is, and says how it went.
pub(crate) fn check(reader: &Path, file_system: FileSystem) -> anyhow::Result<(Vec<Readers>, Seen)> {
    let (mut kinds, refused) = sort_kinds(reader, file_system)?;
    kinds.push(SAFETENSORS);
    let (first, seen) = load(reader, file_system, &kinds, &refused)?;
    let mut lines = vec![first];
    if lines[0].gate == STOP {
        // In the mount namespace of this thread, which the first load has made.
        mount(Some("none"), TYPES, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .context("hide the types")?;
        let second = load(reader, file_system, &kinds, &refused);
        umount2(TYPES, MntFlags::MNT_DETACH).context("show the types")?;
        lines.push(second?.0);
    }
    Ok((lines, seen))
}

fn load(
    reader: &Path,
    file_system: FileSystem,
    kinds: &[&'static str],
    refused: &[&'static str],
) -> anyhow::Result<(Readers, Seen)> {
    let started = Instant::now();
    let crowd = Crowd {
        reader: reader.to_owned(),
        file_system,
        shard: SHARD,
        tensors: TENSORS,
        rate: RATE,
        kinds: kinds.to_vec(),
        readers_of_a_kind: 1,
        reads: READS,
        seed: 1,
    };
    let ended = crowd.run(|start| start)?;
    let not_right =
        ended.not_right().into_iter().map(|(name, outcome)| format!("{name}: {outcome:?}")).collect();
    let named = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let line = Readers {
        file_system: file_system.name().to_owned(),
        gate: text(&ended, "gate chosen", "mode")?,
        kinds: named(kinds),
        refused: named(refused),
        readers: ended.outcomes.len(),
        held: events(&ended, READER_HELD).count(),
        not_right,
        ms: millis(started.elapsed()),
    };
    Ok((line, seen(&ended)))
}

/// The kinds of readers that this kernel lets read a plain file, and those that it refuses there.
fn sort_kinds(
    reader: &Path,
    file_system: FileSystem,
) -> anyhow::Result<(Vec<&'static str>, Vec<&'static str>)> {
    let disk = Scratch::mounted(file_system, TRIAL * 64)?;
    let path = disk.path().join("plain");
    let content = Content::Synthetic(1);
    let mut bytes = vec![0; usize::try_from(TRIAL)?];
    content.fill(0, &mut bytes)?;
    std::fs::write(&path, bytes).context("write the plain file")?;
    let target = Target::new(path, content);
    let (mut right, mut refused) = (Vec::new(), Vec::new());
    for kind in KINDS.into_iter().chain(PROCESS_KINDS) {
        let reading = Reading::new(reader, kind).scratch(disk.path()).at(0, 4096).ops(1);
        match reading.run([&target], PATIENCE)? {
            Outcome::Right => right.push(kind),
            Outcome::Errno(told) if told.ends_with("EINVAL") || told.ends_with("EOPNOTSUPP") => {
                refused.push(kind)
            }
            other => bail!("{kind} of a plain file on {}: {other:?}", file_system.name()),
        }
    }
    Ok((right, refused))
}

fn events<'a>(ended: &'a Ended, message: &'a str) -> impl Iterator<Item = &'a Event> {
    ended.log.iter().filter(move |event| event.message() == message)
}

/// A field of the only event of its kind.
fn text(ended: &Ended, message: &str, field: &str) -> anyhow::Result<String> {
    let value = events(ended, message).find_map(|event| event.field(field)?.as_str().map(str::to_owned));
    value.with_context(|| format!("the agent's log has no \"{message}\" with {field}"))
}

fn seen(ended: &Ended) -> Seen {
    let attached = events(ended, "eBPF probes attached").find_map(|event| event.field("probes")?.as_u64());
    let missing =
        events(ended, "eBPF probe missing").filter_map(|event| event.field("what").and_then(Value::as_str));
    let missing = missing.map(str::to_owned).collect();
    Seen { attached: attached.unwrap_or(0), missing }
}
