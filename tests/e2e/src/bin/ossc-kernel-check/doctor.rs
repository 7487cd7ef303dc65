//! What `ossc-agent doctor` says of this kernel, and what becomes of it and of a load when the kernel is locked down.
//!
//! Lockdown cannot be taken back (kernel_lockdown(7)), so it is tried last and only in a machine that is to end.

use std::path::Path;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::doctor::{self, Report};
use e2e::origin::shards;
use e2e::reader::{Outcome, Reading};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::Config;

use crate::report::Doctor;

/// Bytes of the only file.
const SHARD: u64 = 4 << 20;
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Nothing may read kernel memory any more, eBPF programs included.
const CONFIDENTIALITY: &str = "confidentiality";

/// The doctor as the machine is, after each trouble was provoked once.
pub(crate) fn check() -> anyhow::Result<Doctor> {
    let unseen = doctor::troubles();
    ensure!(unseen.is_empty(), "the doctor does not find: {}", unseen.join("; "));
    report(&site()?, false)
}

/// The doctor, and a reader during a load, after the kernel was locked down for good.
pub(crate) fn locked_down(reader: &Path) -> anyhow::Result<Doctor> {
    std::fs::write(LOCKDOWN, CONFIDENTIALITY).with_context(|| format!("write to {LOCKDOWN}"))?;
    let site = site()?;
    let found = report(&site, true)?;
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let outcome =
        Reading::new(reader, "pread").ops(1).scratch(&site.copies()).run(&site.targets(), PATIENCE)?;
    ensure!(outcome == Outcome::Right, "a reader under lockdown: {outcome:?}");
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()?;
    Ok(found)
}

fn site() -> anyhow::Result<Site> {
    Site::new(FileSystem::Ext4, Config::default(), shards(1, SHARD))
}

fn report(site: &Site, locked_down: bool) -> anyhow::Result<Doctor> {
    let report = Report::of(site, &[])?;
    let text = |check: &str, field: &str| {
        anyhow::Ok(report.check(check)?[field].as_str().unwrap_or_default().to_owned())
    };
    let of = |verdict: &str| {
        report.checks().map(|checks| {
            checks.iter().filter(|check| check["verdict"] == verdict).map(|check| check.to_string()).collect()
        })
    };
    Ok(Doctor {
        locked_down,
        gate: text("gate", "seen")?,
        lockdown: text("lockdown", "verdict")?,
        ebpf: text("eBPF", "verdict")?,
        failed: of("fail")?,
        warned: of("warn")?,
    })
}
