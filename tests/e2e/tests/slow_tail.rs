//! Replies that stand still while others come are not waited for: their ranges are asked for anew, each byte is
//! written once, and the request that stood still is ended.
//!
//! The server holds some replies for longer than any test lasts. What it saw and the agent's log are compared; time
//! is not measured.

use std::time::Duration;

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, exit};
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::{Config, End, Fault, Operation, Rule};

use crate::MIB;

/// Bytes a second: the load goes on for a while after the replies began to stand still.
const RATE: u64 = 100_000_000;
/// Replies that never begin, and replies that stop amid the body.
const HELD: u64 = 3;
/// What the agent says of each.
const STILL: &str = "request stands still; asking for the rest anew";

#[test]
fn is_asked_for_anew_and_written_once() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(2, 128 * MIB))?;
    for after in [None, Some(MIB)] {
        let stall = Fault::Stall { after, time: Some(Duration::from_secs(3600)) };
        site.origin().server().faults().add(Rule::new(stall).operation(Operation::Get).skip(8).times(HELD));
    }
    let agent = site.start().option("--log-level", "debug").start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    site.check_files()?;
    let still = ended.log.iter().filter(|event| event.message() == STILL).count();
    ensure!(still as u64 >= HELD, "{still} requests were given up");
    // Each byte was taken from one reply: what the held ones had sent was kept, and the rest is in others.
    let cut = site.origin().server().log().count(|entry| entry.end == End::Gone);
    ensure!(cut as u64 >= HELD, "{cut} replies were ended by the agent");
    let sent = site.origin().sent();
    let least = site.origin().size();
    ensure!(sent < least + 2 * HELD * MIB, "{sent} bytes sent for a model of {least}");
    Ok(())
}
