//! What readers get when bytes can never be had, and when the agent is killed: an errno for exactly those who need the
//! bytes, and the right bytes from the next agent.
//!
//! Kernels differ here: the errno is the kernel's choice on old ones, and holding readers without an agent is the
//! kernel's doing.

use std::path::Path;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, READER_HELD, exit};
use e2e::origin::shards;
use e2e::reader::{Outcome, Reading};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use nix::sys::signal::Signal;
use oss_server::{Config, Fault, Operation, Rule};

use crate::report::{Denied, TakenOver};

/// Bytes of each file.
const SHARD: u64 = 4 << 20;
/// Bytes a second when the agent is killed: it has not loaded the second file by then.
const RATE: u64 = 2_000_000;
/// Said by the keeper.
const AGENT_DIED: &str = "the agent died: its readers are held until another one takes over";

/// OSS refuses one of two objects for good.
pub(crate) fn denied(reader: &Path, file_system: FileSystem) -> anyhow::Result<Denied> {
    let site = Site::new(file_system, Config::default(), shards(2, SHARD))?;
    let fault = Fault::Error { status: 403, code: "AccessDenied".to_owned() };
    site.origin().server().faults().add(Rule::new(fault).operation(Operation::Get).key("*-00002-of-*"));
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let targets = site.targets();
    let [whole, refused] = &targets[..] else { anyhow::bail!("two files") };
    let reading = Reading::new(reader, "pread").ops(1).scratch(&site.copies());
    let (refused, whole) = (reading.run([refused], PATIENCE)?, reading.run([whole], PATIENCE)?);
    ensure!(whole == Outcome::Right, "a reader of the other object: {whole:?}");
    let Outcome::Errno(told) = &refused else { anyhow::bail!("a reader of the refused object: {refused:?}") };
    let errno = told.rsplit(' ').next().context("the reader told no errno")?.to_owned();
    agent.stop()?.expect(exit::OK)?;
    Ok(Denied { file_system: file_system.name().to_owned(), errno })
}

/// The agent is killed while a reader waits, and another one is started.
pub(crate) fn taken_over(reader: &Path, file_system: FileSystem) -> anyhow::Result<TakenOver> {
    let site = Site::new(file_system, Config { rate: RATE, ..Config::default() }, shards(2, SHARD))?;
    let mut first = site.start().start()?;
    first.wait_for(FILES_VISIBLE)?;
    let targets = site.targets();
    let waits = Reading::new(reader, "read").ops(1).at(0, SHARD).scratch(&site.copies());
    let mut waits = waits.start(&targets[1..])?;
    first.wait_for(READER_HELD)?;
    first.process().signal(Signal::SIGKILL)?;
    first.process().wait(PATIENCE)?;
    first.wait_for(AGENT_DIED)?;
    ensure!(waits.process().is_running()?, "the reader went on without an agent");
    let second = site.start().start()?;
    let outcome = waits.finish(PATIENCE)?;
    ensure!(outcome == Outcome::Right, "the reader that waited: {outcome:?}");
    second.wait_for(ALL_COMPLETE)?;
    site.check_files()?;
    second.stop()?.expect(exit::OK)?;
    Ok(TakenOver { file_system: file_system.name().to_owned() })
}
