//! A killed agent never shows a reader a hole: its keeper holds the readers until another agent takes over, or
//! fails them with an error.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, READER_HELD, exit};
use e2e::content::Content;
use e2e::origin::{ModelFile, shards};
use e2e::reader::{Outcome, Reader};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oss_server::{Config, Object};

use crate::{MIB, reading};

/// Bytes a second: a reader of a whole file has to wait for seconds.
const RATE: u64 = 20_000_000;
pub(crate) const FILE: u64 = 48 * MIB + 77;
/// Said by the keeper.
const AGENT_DIED: &str = "the agent died: its readers are held until another one takes over";
const GAVE_UP: &str = "no agent took over in time: readers of incomplete files get an error";
const TAKEN_OVER: &str = "another agent has taken over";
/// Said by the agent.
const ANOTHER_KEEPER: &str = "another keeper runs";

pub(crate) fn site() -> anyhow::Result<Site> {
    Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(2, FILE))
}

/// A reader that is held: it maps a whole file.
pub(crate) fn held_reader(site: &Site, agent: &Agent) -> anyhow::Result<Reader> {
    let reader = reading("mmap-private", &site.copies()).at(0, FILE).start(&site.targets()[1..])?;
    agent.wait_for(READER_HELD)?;
    Ok(reader)
}

/// Kills the agent and nothing else.
pub(crate) fn kill_agent(agent: &mut Agent) -> anyhow::Result<()> {
    agent.process().signal(Signal::SIGKILL)?;
    agent.process().wait(PATIENCE)?;
    Ok(())
}

/// The keepers of a model directory, by their command line.
pub(crate) fn keepers(model_dir: &Path) -> anyhow::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the listing and the look.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        let ours = model_dir.to_str().context("a path in UTF-8")?.as_bytes();
        if words.get(1) == Some(&b"keeper".as_slice()) && words.contains(&ours) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Waits until the model directory has no keeper.
pub(crate) fn no_keeper_left(site: &Site) -> anyhow::Result<()> {
    no_keeper_of(&site.model_dir())
}

/// The same for any directory.
pub(crate) fn no_keeper_of(model_dir: &Path) -> anyhow::Result<()> {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !keepers(model_dir)?.is_empty() {
        ensure!(std::time::Instant::now() < deadline, "a keeper stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn holds_readers_until_the_next_agent_serves_them() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut first = site.start().start()?;
    first.wait_for(FILES_VISIBLE)?;
    let mut reader = held_reader(&site, &first)?;
    kill_agent(&mut first)?;
    first.wait_for(AGENT_DIED)?;
    // A reader that comes while no agent is there waits as well.
    let late = reading("pread", &site.copies()).last(4096).start(&site.targets()[..1])?;
    ensure!(reader.process().is_running()?, "the held reader went on without an agent");

    let second = site.start().start()?;
    second.wait_for(FILES_VISIBLE)?;
    first.wait_for(TAKEN_OVER)?;
    for reader in [reader, late] {
        let name = reader.name().to_owned();
        match reader.finish(PATIENCE)? {
            Outcome::Right => {}
            other => bail!("{name}: {other:?}"),
        }
    }
    second.wait_for(ALL_COMPLETE)?;
    second.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

#[test]
fn fails_readers_when_no_agent_comes() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut agent = site.start().option("--takeover-deadline", "1").start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &agent)?;
    // Opens the file now and reads it when the files are hidden.
    let open = std::fs::File::open(site.targets()[0].path())?;
    kill_agent(&mut agent)?;
    gives_up(&site, &agent, reader)?;
    fails_with_eio(&open)?;
    ensure!(keepers(&site.model_dir())?.len() == 1, "the keeper left a reader alone");
    drop(open);
    no_keeper_left(&site)?;
    // What was fetched counts.
    let agent = site.start().start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()
}

/// Nobody took over: the reader that was held gets an error, and the files are hidden.
pub(crate) fn gives_up(site: &Site, agent: &Agent, reader: Reader) -> anyhow::Result<()> {
    agent.wait_for(GAVE_UP)?;
    match reader.finish(PATIENCE)? {
        Outcome::Errno(_) => {}
        other => bail!("{other:?}"),
    }
    for target in site.targets() {
        ensure!(!target.path().exists(), "{} is still there", target.path().display());
    }
    Ok(())
}

/// The last bytes, which are not there yet: an error, and not zeros.
pub(crate) fn fails_with_eio(open: &std::fs::File) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    match open.read_at(&mut [0; 64], FILE - 64) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => Ok(()),
        other => bail!("a read without an agent gave {other:?}"),
    }
}

#[test]
fn fails_readers_that_outlive_an_interrupted_agent() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let open = std::fs::File::open(site.targets()[1].path())?;
    let mut agent = agent;
    agent.process().signal(Signal::SIGINT)?;
    agent.process().wait(PATIENCE)?;
    fails_with_eio(&open)?;
    // The next agent gives the same descriptor its bytes.
    let next = site.start().start()?;
    next.wait_for(ALL_COMPLETE)?;
    let target = &site.targets()[1];
    target.check_whole(FILE)?;
    let mut bytes = [0; 64];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut bytes, FILE - 64)?;
    ensure!(bytes != [0; 64], "zeros");
    next.stop()?.expect(exit::OK)?;
    drop(open);
    no_keeper_left(&site)
}

#[test]
fn is_replaced_when_it_is_killed() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut first = site.start().start()?;
    first.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &first)?;
    let [keeper] = keepers(&site.model_dir())?[..] else { bail!("not one keeper") };
    kill(keeper, Signal::SIGKILL)?;
    first.wait_for(ANOTHER_KEEPER)?;
    kill_agent(&mut first)?;
    first.wait_for(AGENT_DIED)?;
    let second = site.start().start()?;
    match reader.finish(PATIENCE)? {
        Outcome::Right => {}
        other => bail!("{other:?}"),
    }
    second.wait_for(ALL_COMPLETE)?;
    second.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

#[test]
fn fails_readers_of_a_version_that_is_gone() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut first = site.start().start()?;
    first.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &first)?;
    let open = std::fs::File::open(site.targets()[1].path())?;
    kill_agent(&mut first)?;
    let old = &site.origin().files()[1];
    let new = ModelFile { content: Content::Synthetic(77), ..old.clone() };
    site.origin().server().put(&new.key(), Object::synthetic(77, FILE));

    let second = site.start().start()?;
    match reader.finish(PATIENCE)? {
        Outcome::Errno(_) => {}
        other => bail!("{other:?}"),
    }
    second.wait_for(ALL_COMPLETE)?;
    fails_with_eio(&open)?;
    new.target(&site.model_dir()).check_whole(FILE)?;
    site.targets()[0].check_whole(FILE)?;
    second.stop()?.expect(exit::OK)?;
    // No version of it will ever be complete, so the keeper stays for this one.
    fails_with_eio(&open)?;
    drop(open);
    no_keeper_left(&site)
}

#[test]
fn gives_nothing_to_a_second_agent() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let first = site.start().start()?;
    first.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &first)?;
    site.start().run()?.expect(exit::LOCAL)?;
    match reader.finish(PATIENCE)? {
        Outcome::Right => {}
        other => bail!("{other:?}"),
    }
    first.wait_for(ALL_COMPLETE)?;
    first.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

/// The documented limit, and the proof that the tests above would notice a reader let through.
#[test]
fn and_agent_killed_together_let_readers_through() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &agent)?;
    let [keeper] = keepers(&site.model_dir())?[..] else { bail!("not one keeper") };
    // So that it cannot start another one.
    agent.process().signal(Signal::SIGSTOP)?;
    kill(keeper, Signal::SIGKILL)?;
    kill_agent(&mut agent)?;
    match reader.finish(PATIENCE)? {
        Outcome::WrongByte(_) => {}
        other => bail!("{other:?}"),
    }
    // The next start hides what is not complete, even one that gets nothing from OSS; a later one goes on with it.
    site.start().variable("OSS_ACCESS_KEY_SECRET", "wrong").run()?.expect(exit::REFUSED)?;
    for target in site.targets() {
        ensure!(!target.path().exists(), "{} is visible, and nobody guards it", target.path().display());
    }
    let next = site.start().start()?;
    next.wait_for(ALL_COMPLETE)?;
    next.stop()?.expect(exit::OK)?;
    site.check_files()
}
