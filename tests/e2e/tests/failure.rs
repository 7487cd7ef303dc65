//! What cannot be fetched is an errno for exactly the readers that need it, never zeros, and no reader of anything
//! else notices.
//!
//! OSS refuses one object, or one range of it, for good. Failures that pass are left to the agent's own tests.

use std::ops::Range;

use anyhow::{Context, ensure};
use e2e::agent::{FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::shards;
use e2e::reader::{KINDS, Outcome};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::{Config, Fault, Operation, Rule};

use crate::{MIB, reading};

/// Bytes of each file.
const SHARD: u64 = 48 * MIB;
/// The range that cannot be fetched, in the second test.
const LOST: Range<u64> = 24 * MIB..24 * MIB + 4096;

/// OSS refuses the object to this key, for good.
fn refusal() -> Rule {
    let fault = Fault::Error { status: 403, code: "AccessDenied".to_owned() };
    Rule::new(fault).operation(Operation::Get).key("*-00002-of-*")
}

#[test]
fn of_one_object_reaches_its_readers_only() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(3, SHARD))?;
    site.origin().server().faults().add(refusal());
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let (targets, copies) = (site.targets(), site.copies());
    let [first, refused, last] = &targets[..] else { anyhow::bail!("three files") };
    for kind in KINDS {
        let outcome = reading(kind, &copies).ops(1).run([refused], PATIENCE)?;
        ensure!(is_denied(&outcome), "{kind} of the refused object: {outcome:?}");
        let outcome = reading(kind, &copies).ops(2).run([first, last], PATIENCE)?;
        ensure!(outcome == Outcome::Right, "{kind} of the other objects: {outcome:?}");
    }
    agent.interrupt()?.expect(exit::OK)
}

#[test]
fn of_one_range_reaches_its_readers_only() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(3, SHARD))?;
    site.origin().server().faults().add(refusal().range(LOST));
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let (targets, copies) = (site.targets(), site.copies());
    let refused = targets.get(1).context("the second file")?;
    for kind in ["pread", "mmap-private", "splice", "io-uring", "dd"] {
        let reading = reading(kind, &copies).ops(1);
        let outcome = reading.clone().at(LOST.start + 100, 100).run([refused], PATIENCE)?;
        ensure!(is_denied(&outcome), "{kind} of the lost range: {outcome:?}");
        // Far enough from it that no block holds bytes of both: blocks have at most 16 MiB.
        for offset in [0, SHARD - 4096] {
            let outcome = reading.clone().at(offset, 4096).run([refused], PATIENCE)?;
            ensure!(outcome == Outcome::Right, "{kind} at {offset}: {outcome:?}");
        }
    }
    agent.interrupt()?.expect(exit::OK)
}

#[test]
fn is_told_once() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(3, SHARD))?;
    site.origin().server().faults().add(refusal().range(LOST));
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let copies = site.copies();
    let refused = site.origin().files().get(1).context("the second file")?;
    let reading = reading("pread", &copies).at(LOST.start, 4096).ops(3).any_errno();
    let outcome = reading.run([&refused.target(&site.model_dir())], PATIENCE)?;
    ensure!(outcome == Outcome::Right, "{outcome:?}");
    let ended = agent.interrupt()?;
    ended.expect(exit::OK)?;
    let errors: Vec<_> = ended
        .log
        .iter()
        .filter(|event| event.field("level").is_some_and(|level| level == "ERROR"))
        .map(|event| event.line())
        .collect();
    let [error] = errors[..] else { anyhow::bail!("one error line expected: {errors:#?}") };
    ensure!(error.contains(&refused.key()) && error.contains("AccessDenied"), "{error}");
    Ok(())
}

fn is_denied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Errno(text) if text.contains("EIO") || text.contains("EACCES"))
}
