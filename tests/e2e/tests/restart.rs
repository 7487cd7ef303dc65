//! A restart, or an upgrade, in the middle of a load: no reader fails, and nothing that was committed is fetched again.

use std::ops::Range;

use anyhow::{bail, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::{Origin, shards};
use e2e::reader::{Outcome, Reader};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::{Config, End, Operation};

use crate::keeper::{fails_with_eio, gives_up, held_reader, keepers, no_keeper_left, site};
use crate::{MIB, reading};

/// Bytes a second: what is in flight at a stop arrives within the time a stop gives it.
const RATE: u64 = 40_000_000;
const RESTARTS: u64 = 3;
/// Kinds that reach the file in different ways.
const KINDS: [&str; 5] = ["pread", "mmap-shared", "o-direct", "io-uring", "splice"];
/// Reads of each.
const READS: u64 = 12;
/// Said by the keeper.
const HELD_FOR_NEXT: &str = "the agent was stopped: its readers are held for the next one";

#[test]
fn fails_no_reader_and_fetches_nothing_twice() -> anyhow::Result<()> {
    let _turn = turn::take();
    let config = Config { rate: RATE, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(3, 64 * MIB + 77))?;
    let start = || site.start().option("--threads", "1").option("--connections", "4").start();
    let mut readers: Vec<Reader> = Vec::new();
    let mut answered: Vec<Vec<Range<u64>>> = vec![Vec::new(); site.origin().files().len()];
    let mut agent = start()?;
    for restart in 1..=RESTARTS {
        agent.wait_for(FILES_VISIBLE)?;
        for (kind, seed) in KINDS.into_iter().zip(restart * 100..) {
            let reading = reading(kind, &site.copies()).seed(seed).ops(READS);
            readers.push(reading.start(&site.targets())?);
        }
        // Of this agent's: the log was cleared.
        site.origin().wait_sent(site.origin().size() / 5, PATIENCE)?;
        let asked = keepers(&site.model_dir())?.len();
        ensure!(asked == 1, "{asked} keepers");
        agent.process().signal(nix::sys::signal::Signal::SIGTERM)?;
        let status = agent.process().wait(PATIENCE)?;
        ensure!(status.code() == Some(exit::OK), "{status}");
        if restart == 1 {
            // Later ones are said to the first agent's log: the keeper stays the same.
            agent.wait_for(HELD_FOR_NEXT)?;
        }
        for target in site.targets() {
            ensure!(target.path().exists(), "{} lost its name", target.path().display());
        }
        fetched_once(site.origin(), &mut answered)?;
        // One that comes while no agent is there.
        readers.push(reading("pread", &site.copies()).last(4096).start(&site.targets())?);
        agent = start()?;
    }
    agent.wait_for(ALL_COMPLETE)?;
    fetched_once(site.origin(), &mut answered)?;
    for reader in readers {
        let name = reader.name().to_owned();
        match reader.finish(PATIENCE)? {
            Outcome::Right => {}
            other => bail!("{name}: {other:?}"),
        }
    }
    agent.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

/// Adds what was fully sent since the last call, of which nothing may be among what was fully sent before.
fn fetched_once(origin: &Origin, answered: &mut [Vec<Range<u64>>]) -> anyhow::Result<()> {
    for (file, before) in origin.files().iter().zip(answered) {
        let key = file.key();
        let whole = |entry: &oss_server::Entry| {
            entry.operation == Operation::Get && entry.key == key && entry.end == End::Complete
        };
        for range in origin.server().log().select(whole).into_iter().filter_map(|entry| entry.range) {
            let twice = before.iter().find(|known| known.start < range.end && range.start < known.end);
            if let Some(known) = twice {
                bail!("{key}: {range:?} was fetched though {known:?} was there");
            }
            before.push(range);
        }
    }
    origin.server().log().clear();
    Ok(())
}

#[test]
fn that_does_not_come_fails_readers_at_its_deadline() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut agent = site.start().option("--restart-deadline", "1").start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &agent)?;
    agent.process().signal(nix::sys::signal::Signal::SIGTERM)?;
    agent.process().wait(PATIENCE)?;
    gives_up(&site, &agent, reader)?;
    no_keeper_left(&site)
}

#[test]
fn with_a_deadline_of_zero_is_not_waited_for() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut agent = site.start().option("--restart-deadline", "0").start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let open = std::fs::File::open(site.targets()[1].path())?;
    agent.process().signal(nix::sys::signal::Signal::SIGTERM)?;
    agent.process().wait(PATIENCE)?;
    fails_with_eio(&open)?;
    ensure!(!site.targets()[1].path().exists(), "an incomplete file kept its name");
    drop(open);
    no_keeper_left(&site)
}
