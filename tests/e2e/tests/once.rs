//! Each byte of the model is fetched exactly once, however many readers ask for it at the same time.
//!
//! The server's request log is the witness: what it sent of each object must be the object, in pieces that neither
//! overlap nor leave a gap.

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::shards;
use e2e::reader::Outcome;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::Config;

use crate::{MIB, reading};

/// Bytes a second: slow enough that the readers run into what is not there yet.
const RATE: u64 = 100_000_000;
/// Four readers of each of these; some want the same ranges (a mapping and a digest want all of a file).
const KINDS: [&str; 4] = ["pread", "mmap-shared", "io-uring", "sha256sum"];

#[test]
fn each_byte_is_fetched_by_one_request() -> anyhow::Result<()> {
    let _turn = turn::take();
    let files = shards(3, 64 * MIB + 77);
    let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, files)?;
    let (targets, copies) = (site.targets(), site.copies());
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let readers = (0..16)
        .map(|index| {
            let kind = KINDS[index % KINDS.len()];
            let ops = if kind == "sha256sum" { 1 } else { 200 };
            // Readers of one kind come in pairs with the same seed, so that they want the same ranges.
            reading(kind, &copies).seed(index as u64 / 8).ops(ops).start(&targets)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    for reader in readers {
        let name = reader.name().to_owned();
        let outcome = reader.finish(PATIENCE)?;
        ensure!(outcome == Outcome::Right, "{name}: {outcome:?}");
    }
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;

    for file in site.origin().files() {
        let ranges = site.origin().sent_ranges(file);
        let mut end = 0;
        for range in &ranges {
            ensure!(
                range.start == end,
                "{}: bytes {end} to {} twice or never: {ranges:?}",
                file.name,
                range.start
            );
            end = range.end;
        }
        ensure!(end == file.size, "{}: {end} of {} bytes fetched", file.name, file.size);
    }
    let sent = site.origin().sent();
    ensure!(sent == site.origin().size(), "{sent} bytes sent for a model of {}", site.origin().size());
    Ok(())
}
