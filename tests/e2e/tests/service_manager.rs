//! Under a service manager: it hears when the files can be used and how far the load is, and its copies of what holds
//! readers outlive agent and keeper killed together.

use std::time::Duration;

use anyhow::{bail, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, READER_HELD, exit};
use e2e::manager::Manager;
use e2e::origin::shards;
use e2e::reader::Outcome;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use nix::sys::signal::{Signal, kill};
use oss_server::Config;

use crate::keeper::{FILE, held_reader, keepers, kill_agent, no_keeper_left, site};
use crate::reading;
use crate::stop::{RATE, right, stops};

/// WATCHDOG_USEC: an agent that is silent for so long is taken for dead.
const WATCHDOG: &str = "1500000";
/// Group, record, two files, and the ten maps and six places of the programs that hold growing mappings.
const KEPT: usize = 4 + 10 + 6;

fn said(messages: &[String], line: &str) -> bool {
    messages.iter().any(|message| message.lines().any(|known| known == line))
}

#[test]
fn is_told_of_the_load() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let manager = Manager::start()?;
    let agent = site.start().under(&manager).variable("WATCHDOG_USEC", WATCHDOG).start()?;
    manager.wait_for("READY=1", PATIENCE, |messages, _| said(messages, "READY=1"))?;
    for target in site.targets() {
        ensure!(target.path().exists(), "ready before {} is there", target.path().display());
    }
    // It had its copies before any reader could come.
    ensure!(manager.kept().len() == KEPT, "{:?}", manager.kept());
    let signs = |messages: &[String]| messages.iter().filter(|text| text.contains("WATCHDOG=1")).count();
    manager.wait_for("signs of life", PATIENCE, |messages, _| signs(messages) >= 3)?;
    manager.wait_for("progress", PATIENCE, |messages, _| {
        messages.iter().any(|text| text.starts_with("STATUS=loading: "))
    })?;
    agent.wait_for(ALL_COMPLETE)?;
    manager.wait_for("nothing kept", PATIENCE, |_, kept| kept == 0)?;
    manager.wait_for("the end", PATIENCE, |messages, _| {
        messages.iter().any(|text| text.starts_with("STATUS=complete: 2 files"))
    })?;
    agent.stop()?.expect(exit::OK)?;
    manager.wait_for("STOPPING=1", PATIENCE, |messages, _| said(messages, "STOPPING=1"))?;
    Ok(())
}

#[test]
fn holds_readers_when_agent_and_keeper_are_killed_together() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let manager = Manager::start()?;
    let mut first = site.start().under(&manager).start()?;
    first.wait_for(FILES_VISIBLE)?;
    let mut held = held_reader(&site, &first)?;
    let sent = site.origin().sent();
    let [keeper] = keepers(&site.model_dir())?[..] else { bail!("not one keeper") };
    // So that it cannot start another one.
    first.process().signal(Signal::SIGSTOP)?;
    kill(keeper, Signal::SIGKILL)?;
    kill_agent(&mut first)?;
    no_keeper_left(&site)?;
    let late = reading("pread", &site.copies()).last(4096).start(&site.targets()[..1])?;
    ensure!(held.process().is_running()?, "the reader went on without agent and keeper");

    let second = site.start().under(&manager).start()?;
    second.wait_for(FILES_VISIBLE)?;
    for reader in [held, late] {
        let name = reader.name().to_owned();
        match reader.finish(PATIENCE)? {
            Outcome::Right => {}
            other => bail!("{name}: {other:?}"),
        }
    }
    second.wait_for(ALL_COMPLETE)?;
    manager.wait_for("nothing kept", PATIENCE, |_, kept| kept == 0)?;
    let again = site.origin().sent().saturating_sub(site.origin().size());
    ensure!(again < sent.max(site.origin().size() / 2), "{again} bytes were fetched twice");
    second.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

/// The programs that stop processes live on in the manager's copies: who is stopped stays so, who comes is stopped, too,
/// and the next agent continues both.
#[test]
fn holds_stopped_processes_when_agent_and_keeper_are_killed_together() -> anyhow::Result<()> {
    let _turn = turn::take();
    let config = Config { rate: RATE, ..Config::default() };
    let site = Site::new(FileSystem::Tmpfs, config, shards(2, FILE))?;
    let manager = Manager::start()?;
    let mut first = site.start().under(&manager).start()?;
    first.wait_for(FILES_VISIBLE)?;
    let maps = reading("mmap-shared", &site.copies()).at(0, FILE).ops(1);
    let mut held = maps.start(&site.targets()[1..])?;
    first.wait_for(READER_HELD)?;
    stops(&mut held)?;
    let [keeper] = keepers(&site.model_dir())?[..] else { bail!("not one keeper") };
    // So that it cannot start another one.
    first.process().signal(Signal::SIGSTOP)?;
    kill(keeper, Signal::SIGKILL)?;
    kill_agent(&mut first)?;
    no_keeper_left(&site)?;
    let mut late = maps.start(&site.targets()[..1])?;
    for reader in [&mut late, &mut held] {
        stops(reader)?;
        reader.process().signal(Signal::SIGCONT)?;
        stops(reader)?;
    }
    let second = site.start().under(&manager).start()?;
    second.wait_for(FILES_VISIBLE)?;
    site.origin().server().set_rate(0);
    [held, late].into_iter().try_for_each(right)?;
    second.wait_for(ALL_COMPLETE)?;
    manager.wait_for("nothing kept", PATIENCE, |_, kept| kept == 0)?;
    second.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

#[test]
fn and_keeper_both_have_copies_after_a_restart() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let manager = Manager::start()?;
    let mut first = site.start().under(&manager).start()?;
    first.wait_for(FILES_VISIBLE)?;
    let held = held_reader(&site, &first)?;
    first.process().signal(Signal::SIGTERM)?;
    first.process().wait(PATIENCE)?;
    let second = site.start().under(&manager).start()?;
    second.wait_for(FILES_VISIBLE)?;
    match held.finish(PATIENCE)? {
        Outcome::Right => {}
        other => bail!("{other:?}"),
    }
    ensure!(manager.kept().len() <= KEPT, "copies pile up: {:?}", manager.kept());
    second.wait_for(ALL_COMPLETE)?;
    manager.wait_for("nothing kept", Duration::from_secs(60), |_, kept| kept == 0)?;
    second.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}
