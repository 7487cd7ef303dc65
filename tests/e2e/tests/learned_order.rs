//! The order in which a model is read is learned: later loads fetch in that order, and their readers hardly wait.
//! An order that is wrong changes no byte.
//!
//! The reader goes through the model in a fixed shuffled order, at half the rate of the link. Its pace is told by
//! the bytes the server sends rather than by a clock: it takes the next piece when two pieces more have been sent,
//! or all of them. How long it was held is what the agent's log says.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Build, Ended, FILES_VISIBLE, PATIENCE, READER_RELEASED, exit};
use e2e::content::Target;
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use nix::sys::signal::Signal;
use oss_server::Config;
use serde_json::{Value, json};

use crate::MIB;

/// Bytes a second of the link.
const RATE: u64 = 50_000_000;
/// Bytes of the model, in one file.
const SIZE: u64 = 384 * MIB;
/// Bytes of one read.
const PIECE: u64 = 4 * MIB;
/// The order is the same in every load.
const SEED: u64 = 4;
/// Two loads teach, the third is judged: a complete file has no gate, so the first load, which is over while its
/// reader is still held up, tells of the beginning only.
const LOADS: usize = 3;
/// What the last reader may wait, in percent of the first one.
const AT_MOST_PERCENT: u64 = 10;
/// What a command reads: enough to be learned from, and long before the file is complete.
const READ_BY_COMMAND: u64 = SIZE / 8;
/// What the agent says of an order it keeps, and of one it cannot use.
const ORDER_LEARNED: &str = "order learned";
const NOT_USED: &str = "the load begins without a learned order";

#[test]
fn makes_later_readers_hardly_wait() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(1, SIZE))?;
    let mut waits = Vec::new();
    for load in 1..=LOADS {
        let held = held_ms(&load_and_read(&site)?);
        let total: u64 = held.iter().sum();
        println!("load {load}: {} of {} reads were held, {total} ms together", held.len(), SIZE / PIECE);
        waits.push(total);
    }
    let (first, last) = (waits[0], waits[LOADS - 1]);
    ensure!(
        last * 100 <= first * AT_MOST_PERCENT,
        "the last reader waited more than {AT_MOST_PERCENT} % of what the first one waited: {waits:?} ms"
    );
    Ok(())
}

#[test]
fn is_only_advice() -> anyhow::Result<()> {
    let _turn = turn::take();
    // A reader that keeps up with the load, so that the gate sees it.
    let site =
        Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(3, 16 * MIB + 5))?;
    let mut logs = Vec::new();
    let spoils: [fn(&mut Vec<u8>); 4] = [|_| (), |text| text.truncate(100), |text| text.fill(b'['), |_| ()];
    for spoil in spoils {
        for order in std::fs::read_dir(site.state_dir().join("orders")).into_iter().flatten() {
            let path = order?.path();
            let mut text = std::fs::read(&path)?;
            spoil(&mut text);
            std::fs::write(&path, text)?;
        }
        empty(&site)?;
        let agent = site.start().start()?;
        agent.wait_for(FILES_VISIBLE)?;
        site.check_files()?;
        agent.wait_for(ALL_COMPLETE)?;
        let ended = agent.stop()?;
        ended.expect(exit::OK)?;
        logs.push(ended.log.iter().map(|event| event.message().to_owned()).collect::<Vec<_>>());
    }
    let said = |message: &str| logs.iter().map(|log| log.iter().any(|line| line == message)).collect();
    let (learned, not_used): (Vec<bool>, Vec<bool>) = (said(ORDER_LEARNED), said(NOT_USED));
    ensure!(
        learned == [true; 4] && not_used == [false, true, true, false],
        "{learned:?} {not_used:?} {logs:#?}"
    );
    Ok(())
}

#[test]
fn is_that_of_the_command_and_its_children() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(1, SIZE))?;
    let targets = site.targets();
    let script = format!(
        "head -c {READ_BY_COMMAND} {} >/dev/null; echo ready; exec sleep 1000",
        targets[0].path().display()
    );
    let mut agent = site.start().command(["sh", "-c", &script]).start()?;
    agent.wait_for(FILES_VISIBLE)?;
    // Another reader, of whose reads nothing may be learned, though the gate sees them too.
    let mut piece = vec![0; usize::try_from(PIECE)?];
    File::open(targets[0].path())?.read_exact_at(&mut piece, SIZE / 2)?;
    agent.output().wait_for("ready", PATIENCE, |line| line.line() == "ready")?;
    agent.process().signal(Signal::SIGTERM)?;
    agent.finish()?.expect(128 + Signal::SIGTERM as i32)?;

    let mut show = Command::new(Build::UnderTest.binary()?);
    show.args(["plan", "show", "--json", "--state-dir"]).arg(site.state_dir()).arg(site.origin().path());
    let shown: Value = serde_json::from_slice(&show.output()?.stdout).context("the JSON of plan show")?;
    let learned = &shown["models"][0]["commands"];
    let order = json!([{ "key": site.origin().files()[0].key(), "start": 0, "end": READ_BY_COMMAND }]);
    ensure!(learned.as_array().is_some_and(|commands| commands.len() == 1), "one command: {shown:#}");
    ensure!(learned[0]["command"] == "sh -c" && learned[0]["order"] == order, "{shown:#}");
    Ok(())
}

/// Loads the model into an empty directory while a reader goes through it.
fn load_and_read(site: &Site) -> anyhow::Result<Ended> {
    empty(site)?;
    site.origin().server().log().clear();
    // Few connections, so that the pieces on their way at the start are a small part of the model.
    let start =
        site.start().option("--log-level", "debug").option("--threads", "2").option("--connections", "2");
    let agent = start.start()?;
    agent.wait_for(FILES_VISIBLE)?;
    for target in site.targets() {
        read_shuffled(site, &target)?;
    }
    agent.wait_for(ALL_COMPLETE)?;
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    Ok(ended)
}

fn empty(site: &Site) -> anyhow::Result<()> {
    std::fs::remove_dir_all(site.model_dir()).context("remove the model directory")?;
    std::fs::create_dir(site.model_dir()).context("make the model directory")
}

fn read_shuffled(site: &Site, target: &Target) -> anyhow::Result<()> {
    let file = File::open(target.path()).context("open the model")?;
    let mut pieces: Vec<u64> = (0..SIZE / PIECE).collect();
    fastrand::Rng::with_seed(SEED).shuffle(&mut pieces);
    let mut bytes = vec![0; usize::try_from(PIECE)?];
    for piece in pieces {
        file.read_exact_at(&mut bytes, piece * PIECE)?;
        let next = (site.origin().sent() + 2 * PIECE).min(site.origin().size());
        target.check(piece * PIECE, &bytes)?;
        site.origin().wait_sent(next, PATIENCE)?;
    }
    Ok(())
}

/// How long each read that was held had to wait.
fn held_ms(ended: &Ended) -> Vec<u64> {
    let released = ended.log.iter().filter(|event| event.message() == READER_RELEASED);
    // The log writes numbers of 128 bits, which durations are, as text.
    released.filter_map(|event| event.field("wait_ms")?.as_str()?.parse().ok()).collect()
}
