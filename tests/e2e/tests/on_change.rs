//! An object that changes in OSS during the load, with `--on-change restart`: the new version is loaded as a new
//! file, and nobody ever sees a mix. What `fail` does is in `faults`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, READER_HELD, Start, exit};
use e2e::content::Content;
use e2e::origin::{ModelFile, shards};
use e2e::reader::Outcome;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use nix::errno::Errno;
use oss_server::{Config, Object};

use crate::keeper::no_keeper_left;
use crate::{MIB, reading};

/// Bytes a second: seconds for the rest when the change happens.
const RATE: u64 = 10_000_000;
const SHARD: u64 = 32 * MIB + 77;
/// Seed of the new version.
const NEW: u64 = 77;
const ANEW: &str = "beginning anew";

fn site() -> anyhow::Result<Site> {
    Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(3, SHARD))
}

fn start(site: &Site) -> Start {
    site.start().option("--on-change", "restart").option("--threads", "1").option("--connections", "4")
}

#[test]
fn loads_the_new_version_and_keeps_the_readers_of_the_others() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let agent = start(&site).start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let [changing, other, _] = &site.targets()[..] else { anyhow::bail!("three files") };
    // Open across the change: the old version, whatever becomes of the name.
    let old = File::open(changing.path())?;
    let reader = reading("mmap-private", &site.copies()).at(0, SHARD).start([other])?;
    agent.wait_for(READER_HELD)?;
    let file = site.origin().files()[0].clone();
    let new = ModelFile { content: Content::Synthetic(NEW), ..file.clone() };
    site.origin().server().put(&file.key(), Object::synthetic(NEW, SHARD));
    agent.wait_for(ANEW)?;
    site.origin().server().set_rate(0);
    let before = agent.log().so_far().len();
    agent.log().wait_for(ALL_COMPLETE, PATIENCE, |event| event.message() == ALL_COMPLETE)?;
    ensure!(agent.log().so_far().len() > before, "nothing was said after it");
    match reader.finish(PATIENCE)? {
        Outcome::Right => {}
        other => anyhow::bail!("the reader of another file: {other:?}"),
    }
    new.target(&site.model_dir()).check_whole(SHARD)?;
    for (file, target) in site.origin().files().iter().zip(site.targets()).skip(1) {
        target.check_whole(file.size)?;
    }
    // The old one is an error from end to end, or its own bytes; never the new ones.
    for offset in [0, SHARD / 2, SHARD - 64] {
        let mut bytes = [0; 64];
        match old.read_exact_at(&mut bytes, offset) {
            Ok(()) => changing.check(offset, &bytes).context("the old version through its descriptor")?,
            Err(error) => ensure!(error.raw_os_error() == Some(Errno::EIO as i32), "{error}"),
        }
    }
    drop(old);
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    ensure!(ended.text().contains("expected ETag"), "both versions are named");
    no_keeper_left(&site)
}

#[test]
fn leaves_out_an_object_that_was_deleted() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let agent = start(&site).start()?;
    agent.wait_for(FILES_VISIBLE)?;
    site.origin().server().delete(&site.origin().files()[2].key());
    agent.wait_for(ANEW)?;
    site.origin().server().set_rate(0);
    agent.wait_for(ALL_COMPLETE)?;
    let [first, second, deleted] = &site.targets()[..] else { anyhow::bail!("three files") };
    first.check_whole(SHARD)?;
    second.check_whole(SHARD)?;
    ensure!(!deleted.path().exists(), "the deleted object has a file");
    agent.stop()?.expect(exit::OK)?;
    no_keeper_left(&site)
}

#[test]
fn lets_the_command_run_on() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let go = site.copies().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.1; done; exit 17", go.display());
    let agent = start(&site).command(["sh", "-c", &script]).start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let file = site.origin().files()[0].clone();
    site.origin().server().put(&file.key(), Object::synthetic(NEW, SHARD));
    agent.wait_for(ANEW)?;
    site.origin().server().set_rate(0);
    agent.wait_for(ALL_COMPLETE)?;
    std::fs::write(go, "")?;
    agent.finish()?.expect(17)?;
    no_keeper_left(&site)
}
