//! What a reader waits for comes first: the end, or the middle, of the last file is read long before the load of
//! the files before it is done.
//!
//! Measured in bytes that the server sent, not in time, so that a slow machine changes nothing.

use anyhow::ensure;
use e2e::agent::{FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::shards;
use e2e::reader::{Outcome, Reading};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::Config;

use crate::{MIB, reading};

/// Bytes a second: so slow that what is sent while a busy machine starts the reader hardly counts. Of the load,
/// which would take 40 seconds, the test sees the first few.
const RATE: u64 = 25_000_000;
/// Bytes of each of the four files.
const SHARD: u64 = 256 * MIB;
/// Percent of the model that may have been sent when the reader has its bytes.
const AT_MOST_PERCENT: u64 = 10;

#[test]
fn for_the_last_page_of_the_last_file() -> anyhow::Result<()> {
    comes_first(|reading| reading.last(4096))
}

#[test]
fn for_a_page_amid_the_last_file() -> anyhow::Result<()> {
    comes_first(|reading| reading.at(SHARD / 2 + 12_345, 4096))
}

fn comes_first(range: fn(Reading) -> Reading) -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(4, SHARD))?;
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let outcome = range(reading("pread", &site.copies())).ops(1).run(site.targets().last(), PATIENCE)?;
    let sent = site.origin().sent();
    ensure!(outcome == Outcome::Right, "{outcome:?}");
    let percent = sent * 100 / site.origin().size();
    ensure!(
        percent < AT_MOST_PERCENT,
        "{percent} % of the model ({sent} bytes) were sent before the reader's page"
    );
    agent.interrupt()?.expect(exit::OK)
}
