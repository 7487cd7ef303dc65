//! Complete files give memory and space back, never under somebody who has them open, and whoever reads them later gets
//! the right bytes, also when the agent dies at any step of it.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, READER_HELD, Start, exit};
use e2e::asking::{metrics, port, run, status};
use e2e::events::Event;
use e2e::origin::shards;
use e2e::reader::Outcome;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::steps::{Step, counted};
use e2e::sys::Mapping;
use e2e::turn;
use nix::sys::mman::MapFlags;
use nix::sys::signal::{Signal, kill};
use oss_server::{Config, Fault, Operation, Rule};
use serde_json::Value;

use crate::keeper::{kill_agent, no_keeper_left};
use crate::{MIB, reading};

/// Bytes of each file.
const SHARD: u64 = 24 * MIB + 5;
/// What is left of the blocks of an emptied file, at most: the tree of its extents.
const LEFT: u64 = 64 << 10;
const EVICTED: &str = "file evicted";
const REFUSED: i32 = 9;

fn site(file_system: FileSystem, files: usize) -> anyhow::Result<Site> {
    Site::new(file_system, Config::default(), shards(files, SHARD))
}

fn start(site: &Site) -> Start {
    site.start().option("--http", "127.0.0.1:0").option("--block-size", "2M")
}

fn evict(site: &Site, path: &str) -> anyhow::Result<Output> {
    run(&site.model_dir(), &["evict", path])
}

fn name(site: &Site, shard: usize) -> &str {
    &site.origin().files()[shard].name
}

fn on_disk(path: &Path) -> anyhow::Result<u64> {
    Ok(path.metadata()?.blocks() * 512)
}

/// Waits until a file has given something up.
fn wait_evicted(agent: &Agent, name: &str) -> anyhow::Result<Event> {
    agent.log().wait_for(&format!("eviction of {name}"), PATIENCE, |event| {
        event.message() == EVICTED && event.field("file").and_then(Value::as_str) == Some(name)
    })
}

fn evicted(agent: &Agent) -> Vec<String> {
    let events = agent.log().so_far();
    let files = events.iter().filter(|event| event.message() == EVICTED);
    files.filter_map(|event| Some(event.field("file")?.as_str()?.to_owned())).collect()
}

/// Reads a file as a mapping and in pieces, and waits until it is whole again.
fn comes_again(site: &Site, agent: &Agent, shard: usize) -> anyhow::Result<()> {
    let target = &site.targets()[shard..=shard];
    let mapped = reading("mmap-private", &site.copies()).at(0, SHARD).start(target)?;
    let read = reading("pread", &site.copies()).last(4096).start(target)?;
    for reader in [mapped, read] {
        let outcome = reader.finish(PATIENCE)?;
        ensure!(outcome == Outcome::Right, "{outcome:?}");
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    while status(port(agent)?)?["files"][shard]["state"] != "complete" {
        ensure!(std::time::Instant::now() < deadline, "the file is not complete again");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn gives_up_its_space_and_comes_again_with_the_right_bytes() -> anyhow::Result<()> {
    for file_system in [FileSystem::Ext4, FileSystem::Tmpfs, FileSystem::Xfs, FileSystem::Btrfs] {
        let site = site(file_system, 2)?;
        let agent = start(&site).start()?;
        let (port, path) = (port(&agent)?, site.targets()[0].path().to_owned());
        agent.wait_for(ALL_COMPLETE)?;
        let modified = path.metadata()?.modified()?;
        let output = evict(&site, name(&site, 0))?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(
            String::from_utf8_lossy(&output.stdout).contains("1 files were evicted, 24.0 MiB"),
            "{output:?}"
        );
        let left = on_disk(&path)?;
        ensure!(left <= LEFT, "{file_system:?}: {left} bytes are left");
        ensure!(path.metadata()?.len() == SHARD && path.metadata()?.modified()? == modified);
        let shown = status(port)?;
        ensure!(shown["state"] == "complete" && shown["files_evicted"] == 1, "{shown}");
        ensure!(shown["files"][0]["state"] == "evicted" && shown["room"]["evictions"] == 1, "{shown}");
        let metrics = metrics(port)?;
        ensure!(metrics.get("ossc_evictions_total{cause=\"asked\"}") == Some(&1.0), "{metrics:?}");
        ensure!(metrics.get("ossc_files_evicted") == Some(&1.0), "{metrics:?}");
        let text = String::from_utf8(run(&site.model_dir(), &["status"])?.stdout)?;
        ensure!(text.contains("1 of 2 files, 1 evicted"), "{text}");
        // What is empty already stays so, and nothing fetches it but a reader.
        ensure!(evict(&site, name(&site, 0))?.status.success());
        let requests = site.origin().count(Operation::Get);
        ensure!(run(&site.model_dir(), &["verify"])?.status.code() != Some(exit::OK));
        ensure!(site.origin().count(Operation::Get) == requests, "it was fetched unasked");
        comes_again(&site, &agent, 0)?;
        ensure!(on_disk(&path)? >= SHARD);
        ensure!(status(port)?["files_evicted"] == 0);
        agent.stop()?.expect(exit::OK)?;
        site.check_files()?;
        no_keeper_left(&site)?;
    }
    Ok(())
}

#[test]
fn never_takes_what_is_open_or_mapped() -> anyhow::Result<()> {
    for file_system in [FileSystem::Ext4, FileSystem::Tmpfs] {
        let site = site(file_system, 2)?;
        let agent = start(&site).start()?;
        agent.wait_for(ALL_COMPLETE)?;
        let paths: Vec<_> = site.targets().iter().map(|target| target.path().to_owned()).collect();
        let refuses = |shard: usize| -> anyhow::Result<()> {
            let output = evict(&site, name(&site, shard))?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(REFUSED), "{output:?}");
            ensure!(error.contains(name(&site, shard)) && error.contains("open or mapped"), "{error}");
            ensure!(on_disk(&paths[shard])? >= SHARD);
            Ok(())
        };
        let open = File::open(&paths[0])?;
        refuses(0)?;
        let length = NonZeroUsize::new(4096).context("a page")?;
        let mapping = Mapping::new(&open, 0, length, MapFlags::MAP_PRIVATE)?;
        drop(open);
        refuses(0)?;
        // Of a whole model those go that can.
        let output = evict(&site, ".")?;
        ensure!(output.status.code() == Some(REFUSED) && on_disk(&paths[1])? <= LEFT, "{output:?}");
        let mut page = vec![0; 4096];
        mapping.copy(0, &mut page).context("the page")?;
        site.targets()[0].check(0, &page).map_err(|mismatch| anyhow::anyhow!("{mismatch}"))?;
        drop(mapping);
        ensure!(evict(&site, name(&site, 0))?.status.success());
        ensure!(on_disk(&paths[0])? <= LEFT);
        ensure!(evict(&site, "no-such-file")?.status.code() == Some(REFUSED));
        agent.stop()?.expect(exit::OK)?;
    }
    Ok(())
}

#[test]
fn idle_files_expire_where_they_take_memory() -> anyhow::Result<()> {
    let site = site(FileSystem::Tmpfs, 2)?;
    let agent = start(&site).option("--expire-time", "1").start()?;
    agent.wait_for(FILES_VISIBLE)?;
    // From its first moment on; opening waits until it is complete.
    let open = File::open(site.targets()[1].path())?;
    agent.wait_for(ALL_COMPLETE)?;
    let event = wait_evicted(&agent, name(&site, 0))?;
    ensure!(event.field("cause").and_then(Value::as_str) == Some("expired"), "{}", event.line());
    ensure!(on_disk(site.targets()[0].path())? <= LEFT);
    ensure!(evicted(&agent) == [name(&site, 0)] && on_disk(site.targets()[1].path())? >= SHARD);
    drop(open);
    wait_evicted(&agent, name(&site, 1))?;
    comes_again(&site, &agent, 1)?;
    agent.stop()?.expect(exit::OK)?;

    // On a disk the page cache is what takes memory; the file stays as it is.
    let site = self::site(FileSystem::Ext4, 1)?;
    let agent = start(&site).option("--expire-time", "1").start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let event = wait_evicted(&agent, name(&site, 0))?;
    ensure!(event.field("emptied") == Some(&Value::Bool(false)), "{}", event.line());
    let path = site.targets()[0].path().to_owned();
    let cached =
        Command::new("fincore").args(["--bytes", "--noheadings", "-o", "RES"]).arg(&path).output()?;
    let cached = String::from_utf8(cached.stdout)?;
    ensure!(cached.trim() == "0" && on_disk(&path)? >= SHARD, "{cached} bytes are cached");
    site.check_files()?;
    agent.stop()?.expect(exit::OK)
}

#[test]
fn the_budget_takes_the_file_that_was_used_least_recently() -> anyhow::Result<()> {
    let site = site(FileSystem::Tmpfs, 3)?;
    let server = site.origin().server();
    let stall = Fault::Stall { after: None, time: None };
    let last = Rule::new(stall).operation(Operation::Get).key(&format!("*{}", name(&site, 2)));
    let held = server.faults().add(last);
    // Two files fit, and the third does not.
    let budget = (SHARD * 3 - 8 * MIB).to_string();
    let agent = start(&site).option("--memory-budget", budget).start()?;
    let port = port(&agent)?;
    for shard in [0, 1] {
        agent.log().wait_for("a whole file", PATIENCE, |event| {
            event.message() == "file complete"
                && event.field("file").and_then(Value::as_str) == Some(name(&site, shard))
        })?;
    }
    // The second one is complete later than the first, which is used after that.
    site.targets()[0].check_whole(SHARD)?;
    held.release();
    let event = wait_evicted(&agent, name(&site, 1))?;
    ensure!(event.field("cause").and_then(Value::as_str) == Some("budget"), "{}", event.line());
    agent.wait_for(ALL_COMPLETE)?;
    let shown = status(port)?;
    ensure!(shown["files_evicted"] == 1 && shown["files"][1]["state"] == "evicted", "{shown}");
    ensure!(evicted(&agent) == [name(&site, 1)]);
    agent.stop()?.expect(exit::OK)
}

#[test]
fn readers_of_an_emptied_file_outlive_the_agent() -> anyhow::Result<()> {
    let _turn = turn::take();
    for was_complete_at_start in [false, true] {
        let site = site(FileSystem::Ext4, 2)?;
        let mut first = start(&site).start()?;
        first.wait_for(ALL_COMPLETE)?;
        if was_complete_at_start {
            first.stop()?.expect(exit::OK)?;
            first = start(&site).start()?;
            first.wait_for(ALL_COMPLETE)?;
        }
        ensure!(evict(&site, name(&site, 1))?.status.success());
        kill_agent(&mut first)?;
        let mut reader = reading("pread", &site.copies()).at(0, SHARD).start(&site.targets()[1..])?;
        ensure!(reader.process().is_running()?, "a reader went on without an agent");
        let second = start(&site).start()?;
        second.wait_for(READER_HELD)?;
        let outcome = reader.finish(PATIENCE)?;
        ensure!(outcome == Outcome::Right, "{outcome:?}");
        second.wait_for(ALL_COMPLETE)?;
        second.stop()?.expect(exit::OK)?;
        site.check_files()?;
        no_keeper_left(&site)?;
    }
    Ok(())
}

/// System calls that change something in an eviction, in their order: to the keeper, the gate's marks, the journal, the ready
/// file, the bytes, the time.
const CALLS: [&str; 6] = ["sendmsg", "fanotify_mark", "unlinkat", "renameat", "fallocate", "utimensat"];

/// An agent is killed after each of the calls of an eviction; readers come after the call, and after the kill.
#[test]
fn a_kill_in_the_middle_shows_no_reader_a_hole() -> anyhow::Result<()> {
    let _turn = turn::take();
    for file_system in [FileSystem::Ext4, FileSystem::Tmpfs] {
        let site = site(file_system, 1)?;
        // As the agents that are killed: it finds everything complete.
        start_complete(&site)?.stop()?.expect(exit::OK)?;
        let mut agent = start_complete(&site)?;
        let counts = counted(agent.process().pid()?, &CALLS, || {
            let output = run(&site.model_dir(), &["evict", "."])?;
            ensure!(output.status.success(), "{output:?}");
            Ok(())
        })?;
        ensure!(CALLS.iter().all(|call| counts.contains_key(*call)), "{file_system:?}: {counts:?}");
        agent.interrupt()?.expect(exit::OK)?;
        start_complete(&site)?.stop()?.expect(exit::OK)?;
        no_keeper_left(&site)?;
        for (call, count) in &counts {
            for nth in 1..=*count {
                evict_and_kill(&site, call, nth)
                    .with_context(|| format!("{file_system:?}: killed after {call} {nth} of {count}"))?;
            }
        }
        println!("{file_system:?}: killed after each of {counts:?}");
    }
    Ok(())
}

fn start_complete(site: &Site) -> anyhow::Result<Agent> {
    let agent = start(site).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    Ok(agent)
}

/// Kills an agent after the `nth` such call of an eviction, and looks at what readers see.
fn evict_and_kill(site: &Site, call: &str, nth: usize) -> anyhow::Result<()> {
    let mut agent = start_complete(site)?;
    let step = Step::of(agent.process().pid()?, call, nth)?;
    let path = site.model_dir();
    let asked = std::thread::spawn(move || run(&path, &["evict", "."]));
    let stopped = step.reached(|| asked.is_finished())?;
    ensure!(stopped == Some(agent.process().pid()?), "{stopped:?} has stopped there");
    let mut readers = Vec::new();
    let mut readers_come = || -> anyhow::Result<()> {
        for kind in ["pread", "mmap-private"] {
            readers.push(reading(kind, &site.copies()).at(0, SHARD).start(&site.targets())?);
        }
        Ok(())
    };
    readers_come()?;
    kill_agent(&mut agent)?;
    readers_come()?;
    let next = start(site).start()?;
    for reader in readers {
        let name = reader.name().to_owned();
        let outcome = reader.finish(PATIENCE)?;
        ensure!(outcome == Outcome::Right, "reader {name}: {outcome:?}");
    }
    // Who asked had no answer.
    drop(asked.join());
    next.wait_for(ALL_COMPLETE)?;
    next.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(site)
}

/// A keeper that an eviction needs has a copy of the lock until it executes its program: the next agent waits for that.
#[test]
fn the_lock_of_an_agent_that_was_killed_while_it_forked_is_waited_for() -> anyhow::Result<()> {
    let site = site(FileSystem::Ext4, 1)?;
    let mut agent = start(&site).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    agent = start(&site).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    // Only the child changes its directory, before it executes the program.
    let step = Step::of(agent.process().pid()?, "chdir", 1)?;
    let path = site.model_dir();
    let asked = std::thread::spawn(move || run(&path, &["evict", "."]));
    let child = step.reached(|| asked.is_finished())?.context("no keeper was started")?;
    ensure!(child != agent.process().pid()?);
    kill_agent(&mut agent)?;
    let next = start(&site).start();
    let waits = next.and_then(|next| {
        next.wait_for("the lock of an agent that has ended is still held; waiting")?;
        Ok(next)
    });
    kill(child, Signal::SIGCONT)?;
    let next = waits?;
    next.wait_for(ALL_COMPLETE)?;
    drop(asked.join());
    next.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}
