//! The order in which a model is read is learned: the next load fetches in that order, and its reader hardly waits.
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
/// Files of the model, and bytes of each.
const FILES: u64 = 3;
const SIZE: u64 = 128 * MIB;
/// Bytes of one read.
const PIECE: u64 = 4 * MIB;
/// The order is the same in every load.
const SEED: u64 = 4;
/// What the second reader may wait, in percent of the first one.
const AT_MOST_PERCENT: u64 = 10;
/// What a command reads: enough to be learned from, and long before the file is complete.
const READ_BY_COMMAND: u64 = SIZE / 4;
/// What the agent says of an order it keeps, and of one it cannot use.
const ORDER_LEARNED: &str = "order learned";
const NOT_USED: &str = "the load begins without a learned order";
/// What it says when accesses are observed from then on.
const PROBES_ATTACHED: &str = "eBPF probes attached";
/// What it says when nothing is to be learned.
const NOT_OBSERVED: &str = "accesses are not observed, as configured";
/// What it says when there is nothing more to learn.
const PROBES_DETACHED: &str = "the order is known; eBPF probes detached";

#[test]
fn makes_the_second_reader_hardly_wait() -> anyhow::Result<()> {
    let _turn = turn::take();
    let config = Config { rate: RATE, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(usize::try_from(FILES)?, SIZE))?;
    let mut waited = [0; 2];
    for (load, waited) in (1..).zip(&mut waited) {
        let held = held_ms(&load_and_read(&site)?);
        *waited = held.iter().sum();
        let reads = FILES * SIZE / PIECE;
        println!("load {load}: {} of {reads} reads were held, {waited} ms together", held.len());
    }
    let [first, second] = waited;
    ensure!(
        second * 100 <= first * AT_MOST_PERCENT,
        "the second reader waited {second} ms, more than {AT_MOST_PERCENT} % of the {first} ms of the first one"
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
fn is_not_learned_where_nobody_is_to_be_observed() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(2, 2 * MIB + 5))?;
    for observed in [true, false] {
        empty(&site)?;
        let start = site.start();
        let agent = if observed { start } else { start.argument("--no-observe") }.start()?;
        agent.wait_for(if observed { PROBES_ATTACHED } else { NOT_OBSERVED })?;
        agent.wait_for(ALL_COMPLETE)?;
        // The gate sees no reader any more.
        site.check_files()?;
        if observed {
            agent.wait_for(PROBES_DETACHED)?;
        }
        let ended = agent.stop()?;
        ended.expect(exit::OK)?;
        let said = |message: &str| ended.log.iter().any(|event| event.message() == message);
        ensure!(
            said(ORDER_LEARNED) == observed && said(NOT_OBSERVED) != observed,
            "{observed}: {:#?}",
            ended.log
        );
        std::fs::remove_dir_all(site.state_dir().join("orders")).ok();
    }
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
    read_shuffled(site)?;
    agent.wait_for(ALL_COMPLETE)?;
    // Every block was read, so an agent that goes on observing would do so for nothing.
    agent.wait_for(PROBES_DETACHED)?;
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    Ok(ended)
}

fn empty(site: &Site) -> anyhow::Result<()> {
    std::fs::remove_dir_all(site.model_dir()).context("remove the model directory")?;
    std::fs::create_dir(site.model_dir()).context("make the model directory")
}

fn read_shuffled(site: &Site) -> anyhow::Result<()> {
    let open = |target: Target| Ok((File::open(target.path()).context("open the model")?, target));
    let files = site.targets().into_iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let pieces = files.iter().flat_map(|file| (0..SIZE / PIECE).map(move |piece| (file, piece * PIECE)));
    let mut pieces: Vec<_> = pieces.collect();
    fastrand::Rng::with_seed(SEED).shuffle(&mut pieces);
    let mut bytes = vec![0; usize::try_from(PIECE)?];
    for ((file, target), offset) in pieces {
        file.read_exact_at(&mut bytes, offset)?;
        let next = (site.origin().sent() + 2 * PIECE).min(site.origin().size());
        target.check(offset, &bytes)?;
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
