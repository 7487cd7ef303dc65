//! A reader never sees a hole: every kind of read, started at random moments of a load, on every file system,
//! returns the object's bytes.
//!
//! The same run with the gate switched off, which only builds with debug assertions can do, must report wrong
//! bytes; otherwise these tests would prove nothing.

use std::path::Path;

use anyhow::ensure;
use e2e::agent::Build;
use e2e::crowd::{Crowd, Ended};
use e2e::reader::{KINDS, Outcome, PROCESS_KINDS, SAFETENSORS};
use e2e::scratch::FileSystem;
use e2e::turn;

use crate::{MIB, READER};

/// Bytes a second: the model takes about two seconds, in which all readers start.
const RATE: u64 = 70_000_000;
/// Readers of each kind in one load.
const READERS_OF_A_KIND: u64 = 2;
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
    let Ended { outcomes, .. } = load_under_readers(FileSystem::Ext4, Gate::Off)?;
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
    let ended = load_under_readers(file_system, Gate::On)?;
    let wrong = ended.not_right();
    ensure!(wrong.is_empty(), "on {}: {wrong:#?}", file_system.name());
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    On,
    Off,
}

/// Loads a model while readers of all kinds come, and says how each of them ended.
fn load_under_readers(file_system: FileSystem, gate: Gate) -> anyhow::Result<Ended> {
    let _turn = turn::take();
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse()?,
        Err(_) => 1,
    };
    let crowd = Crowd {
        reader: READER.into(),
        file_system,
        shard: 56 * MIB + 1234,
        tensors: 32,
        rate: RATE,
        kinds: KINDS.into_iter().chain(PROCESS_KINDS).chain([SAFETENSORS]).collect(),
        readers_of_a_kind: READERS_OF_A_KIND,
        reads: 60,
        seed,
    };
    crowd.run(|start| match gate {
        Gate::On => start,
        Gate::Off => start.build(Build::Debug).variable(GATE_SWITCH, "off"),
    })
}
