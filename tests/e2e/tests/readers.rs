//! A reader never sees a hole: every kind of read, started at random moments of a load, on every file system,
//! returns the object's bytes.
//!
//! The same run with the gate switched off, which only builds with debug assertions can do, must report wrong
//! bytes; otherwise these tests would prove nothing.

use std::path::Path;

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, Build, FILES_VISIBLE, PATIENCE, exit};
use e2e::checkpoint::write_safetensors;
use e2e::origin::{ModelFile, shards};
use e2e::reader::{KINDS, Outcome, SAFETENSORS, SLOW_KINDS};
use e2e::scratch::{FileSystem, Scratch};
use e2e::site::Site;
use e2e::turn;
use oss_server::Config;

use crate::{MIB, reading};

/// Bytes a second: the model takes about two seconds, in which all readers start.
const RATE: u64 = 70_000_000;
/// Readers of each kind in one load.
const READERS_OF_A_KIND: u64 = 2;
/// Moments are chosen up to here: the rest of the load is for the last readers to run into.
const LATEST_PERCENT: u64 = 90;
/// Names the seed of moments, files and offsets, to repeat a failure or to look for one.
const SEED_VARIABLE: &str = "OSSC_TEST_SEED";
/// Switches the gate off in builds with debug assertions.
const GATE_SWITCH: &str = "OSSC_TEST_GATE";

#[test]
fn of_every_kind_see_right_bytes_on_ext4() -> anyhow::Result<()> {
    all_right(FileSystem::Ext4)
}

#[test]
fn of_every_kind_see_right_bytes_on_xfs() -> anyhow::Result<()> {
    all_right(FileSystem::Xfs)
}

#[test]
fn of_every_kind_see_right_bytes_on_btrfs() -> anyhow::Result<()> {
    all_right(FileSystem::Btrfs)
}

#[test]
fn of_every_kind_see_right_bytes_on_tmpfs() -> anyhow::Result<()> {
    all_right(FileSystem::Tmpfs)
}

#[test]
fn without_the_gate_see_wrong_bytes() -> anyhow::Result<()> {
    let outcomes = load_under_readers(FileSystem::Ext4, Gate::Off)?;
    let wrong = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::WrongByte(_))).count();
    ensure!(wrong > 0, "no reader saw a wrong byte, so these tests cannot fail: {outcomes:#?}");
    Ok(())
}

#[test]
fn cannot_be_let_past_the_gate_of_a_release_build() -> anyhow::Result<()> {
    let has_switch = |binary: &Path| -> anyhow::Result<bool> {
        let bytes = std::fs::read(binary)?;
        Ok(bytes.windows(GATE_SWITCH.len()).any(|window| window == GATE_SWITCH.as_bytes()))
    };
    let (debug, under_test) = (Build::Debug.binary()?, Build::UnderTest.binary()?);
    ensure!(has_switch(&debug)?, "{} knows no {GATE_SWITCH}", debug.display());
    // Where only a debug build is at hand, that one is under test.
    ensure!(debug == under_test || !has_switch(&under_test)?, "{} knows {GATE_SWITCH}", under_test.display());
    Ok(())
}

fn all_right(file_system: FileSystem) -> anyhow::Result<()> {
    let mut outcomes = load_under_readers(file_system, Gate::On)?;
    outcomes.retain(|(_, outcome)| *outcome != Outcome::Right);
    ensure!(outcomes.is_empty(), "on {}: {outcomes:#?}", file_system.name());
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    On,
    Off,
}

/// Loads a model while readers of all kinds come, and says how each of them ended.
fn load_under_readers(file_system: FileSystem, gate: Gate) -> anyhow::Result<Vec<(String, Outcome)>> {
    let _turn = turn::take();
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse()?,
        Err(_) => 1,
    };
    let references = Scratch::directory()?;
    let reference = references.path().join("reference");
    write_safetensors(&reference, seed, 32, 1 << 20)?;
    let mut files = shards(2, 56 * MIB + 1234);
    files.push(ModelFile::like("model.safetensors", reference)?);
    let site = Site::new(file_system, Config { rate: RATE, ..Config::default() }, files)?;
    let (safetensors, copies) = (site.origin().files().len() - 1, site.copies());
    let targets = site.targets();

    let agent = match gate {
        Gate::On => site.start(),
        Gate::Off => site.start().build(Build::Debug).variable(GATE_SWITCH, "off"),
    };
    let agent = agent.start()?;
    agent.wait_for(FILES_VISIBLE)?;

    let mut readers = Vec::new();
    for (moment, kind, seed) in plan(seed) {
        // It asks for holes with lseek(SEEK_DATA), which nobody can hold; docs/semantics.md says so.
        if kind == "cp" && file_system == FileSystem::Tmpfs {
            continue;
        }
        let targets = if kind == SAFETENSORS { &targets[safetensors..] } else { &targets[..] };
        let reading = reading(kind, &copies).seed(seed);
        let reading = match kind {
            "cp" | "sha256sum" => reading.ops(1),
            kind if kind == SAFETENSORS || SLOW_KINDS.contains(&kind) => reading.ops(3),
            _ => reading.ops(60).threads(2),
        };
        site.wait_percent(moment, PATIENCE)?;
        readers.push((format!("{kind} from {moment} % on, seed {seed}"), reading.start(targets)?));
    }
    let outcomes = readers
        .into_iter()
        .map(|(name, reader)| Ok((name, reader.finish(PATIENCE)?)))
        .collect::<anyhow::Result<_>>()?;

    agent.wait_for(ALL_COMPLETE)?;
    site.check_files()?;
    agent.stop()?.expect(exit::OK)?;
    Ok(outcomes)
}

/// When which reader starts, in percent of the load, and its own seed; in order of time.
fn plan(seed: u64) -> Vec<(u64, &'static str, u64)> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut plan: Vec<_> = KINDS
        .into_iter()
        .chain([SAFETENSORS])
        .flat_map(|kind| (0..READERS_OF_A_KIND).map(move |_| kind))
        .map(|kind| (rng.u64(0..=LATEST_PERCENT), kind, rng.u64(..)))
        .collect();
    plan.sort_unstable();
    plan
}
