//! A restart goes on where the agent was stopped, and a finished model starts without fetching anything.
//!
//! The same site gets three agents, one after the other: stopped half-way, run to the end, and one with nothing left
//! to do. What the server sent to each is compared. An agent that is killed is not tried here.

use std::ops::Range;

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::content::{Content, Target};
use e2e::origin::{Origin, shards};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::{Config, Object, Operation};

use crate::MIB;

/// Bytes a second: a load of some seconds, stopped half-way.
const RATE: u64 = 100_000_000;
/// Stopped after this share of the model was sent.
const STOP_PERCENT: u64 = 50;
/// Bytes that may be fetched twice: parts of blocks under way, one a connection, at the moment of the signal.
const UNDER_WAY: u64 = 48 * MIB;

#[test]
fn after_a_stop_only_what_is_missing_is_fetched() -> anyhow::Result<()> {
    let _turn = turn::take();
    let files = shards(2, 128 * MIB + 99);
    let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, files)?;

    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    site.wait_percent(STOP_PERCENT, PATIENCE)?;
    agent.interrupt()?.expect(exit::OK)?;
    for (file, target) in site.origin().files().iter().zip(site.targets()) {
        // No gate is left, so an incomplete file must not be there to be read.
        if target.path().exists() {
            target.check_whole(file.size)?;
        }
    }
    let before = fetched(site.origin());
    site.origin().server().log().clear();

    let agent = site.start().start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()?;
    let after = fetched(site.origin());
    let twice: u64 = before.iter().zip(&after).map(|(before, after)| overlap(before, after)).sum();
    ensure!(twice <= UNDER_WAY, "{twice} bytes were fetched twice: {before:?}, then {after:?}");

    site.origin().server().log().clear();
    site.start().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    site.check_files()?;
    let requests = site.origin().server().log().entries();
    ensure!(
        requests.len() == 1 && site.origin().count(Operation::List) == 1,
        "a finished model needs one listing and no more: {requests:#?}"
    );
    Ok(())
}

/// The more of them are complete, the more time the gate has for letting go of all before it holds the last.
#[test]
fn a_model_of_which_only_the_last_file_is_missing_is_completed() -> anyhow::Result<()> {
    const FILES: usize = 200;
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(FILES, 4099))?;
    site.start().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    let last = &site.origin().files()[FILES - 1];
    for version in 0..4 {
        site.origin().server().put(&last.key(), Object::synthetic(version, last.size));
        let target = Target::new(site.model_dir().join(&last.name), Content::Synthetic(version));
        let agent = site.start().start()?;
        agent.wait_for(ALL_COMPLETE)?;
        agent.stop()?.expect(exit::OK)?;
        target.check_whole(last.size)?;
    }
    Ok(())
}

/// What was sent of each file.
fn fetched(origin: &Origin) -> Vec<Vec<Range<u64>>> {
    origin.files().iter().map(|file| origin.sent_ranges(file)).collect()
}

/// Bytes that both lists cover; neither overlaps itself.
fn overlap(one: &[Range<u64>], other: &[Range<u64>]) -> u64 {
    one.iter().flat_map(|a| other.iter().map(|b| a.end.min(b.end).saturating_sub(a.start.max(b.start)))).sum()
}
