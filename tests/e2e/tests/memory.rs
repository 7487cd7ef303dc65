//! The agent's own memory does not grow with the model.
//!
//! The peak of a whole load (VmHWM of /proc/PID/status) is compared with the promised limit. The page cache, which
//! the model fills, is not part of it.

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, exit};
use e2e::origin::PREFIX;
use e2e::scratch::Scratch;
use e2e::site::Site;
use e2e::turn;
use oss_server::{Config, Object};

use crate::MIB;

/// Many times the limit, and still only seconds to load.
const MODEL: u64 = 2048 * MIB;
/// What the agent promises for a model of any size.
const LIMIT_KIB: u64 = 128 << 10;

#[test]
fn stays_below_its_limit() -> anyhow::Result<()> {
    let _turn = turn::take();
    // On the machine's own disk: a loop device would cache every byte a second time.
    let site = Site::on(Scratch::directory()?, Config::default(), Vec::new())?;
    site.origin().server().put(&format!("{PREFIX}model.bin"), Object::tiled(1, MODEL));
    let mut agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    agent.wait_for(ALL_COMPLETE)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process().pid()?))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
    agent.stop()?.expect(exit::OK)?;
    ensure!(peak <= LIMIT_KIB, "the agent's memory reached {peak} KiB for a model of {} MiB", MODEL / MIB);
    Ok(())
}
