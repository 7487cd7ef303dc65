//! `ossc-agent doctor` on a site, its report, and troubles that it must find.
//!
//! Driven by the tests of the doctor and by `ossc-kernel-check`, which runs it on other kernels.

use std::process::{Command, ExitStatus};

use anyhow::{Context, ensure};
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Config, Fault, Object, Operation, Rule};
use serde_json::Value;

use crate::agent::{Build, exit};
use crate::origin::{PREFIX, shards};
use crate::scratch::FileSystem;
use crate::site::Site;

/// Bytes of each file of the sites.
const SHARD: u64 = 4 << 20;

/// What it said, and how it ended.
#[derive(Debug)]
pub struct Report {
    /// The whole document.
    pub json: Value,
    /// 0 unless a check failed.
    pub status: ExitStatus,
}

/// The command for the model of this site, with these arguments behind `doctor`.
pub fn command(site: &Site, arguments: &[&str]) -> anyhow::Result<Command> {
    let server = site.origin().server();
    let mut command = Command::new(Build::UnderTest.binary()?);
    command.arg("doctor").args(arguments).env_clear();
    command.env("OSS_ENDPOINT", server.endpoint()).env("OSS_REGION", "cn-hangzhou");
    command.env("OSS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("OSS_ACCESS_KEY_SECRET", ACCESS_KEY_SECRET);
    command.env("OSS_PATH", site.origin().path()).env("MODEL_DIR", site.model_dir());
    Ok(command)
}

impl Report {
    /// Of the model of this site, without measuring throughput.
    pub fn of(site: &Site, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::by(command(site, &["--json", "--measure=0"])?.args(arguments))
    }

    /// Of this command, which asks for JSON.
    pub fn by(command: &mut Command) -> anyhow::Result<Self> {
        let output = command.output().context("run the doctor")?;
        let json = serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON: {output:?}"))?;
        Ok(Self { json, status: output.status })
    }

    /// All checks.
    pub fn checks(&self) -> anyhow::Result<&[Value]> {
        Ok(self.json["checks"].as_array().context("no list of checks")?)
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> anyhow::Result<&Value> {
        let mut checks = self.checks()?.iter();
        checks.find(|check| check["name"] == name).with_context(|| format!("no {name} in {:#}", self.json))
    }

    /// It has this finding, a check with its verdict and words of what was seen, and ended as that demands.
    pub fn found(&self, (name, verdict, words): (&str, &str, &str)) -> anyhow::Result<()> {
        let check = self.check(name)?;
        ensure!(check["verdict"] == verdict, "{check}");
        ensure!(check["seen"].as_str().is_some_and(|seen| seen.contains(words)), "{check}");
        ensure!(check["advice"].is_string() == (verdict != "ok"), "{check}");
        let status = if verdict == "fail" { exit::INTERNAL } else { exit::OK };
        ensure!(self.status.code() == Some(status), "{self:#?}");
        ensure!(!self.json.to_string().contains(ACCESS_KEY_SECRET), "a secret is in the report: {self:#?}");
        Ok(())
    }
}

/// Something that is not as a load needs it.
struct Trouble {
    name: &'static str,
    file_system: FileSystem,
    arrange: fn(&Site),
    /// Arguments behind `doctor`.
    arguments: &'static [&'static str],
    /// The check that finds it, its verdict and words of what it has seen.
    finding: (&'static str, &'static str, &'static str),
}

const TROUBLES: &[Trouble] = &[
    Trouble {
        name: "no space",
        file_system: FileSystem::Ext4,
        arrange: |site| {
            site.origin().server().put(&format!("{PREFIX}huge.bin"), Object::tiled(1, 64 << 30));
        },
        arguments: &[],
        finding: ("free space", "fail", "GiB to come"),
    },
    Trouble {
        name: "a source that no NIC has",
        file_system: FileSystem::Ext4,
        arrange: |_| {},
        arguments: &["--source", "192.0.2.77"],
        finding: ("source 192.0.2.77", "fail", "no NIC"),
    },
    Trouble {
        name: "a clock an hour off",
        file_system: FileSystem::Ext4,
        arrange: |site| site.origin().server().set_clock_offset(3600),
        arguments: &[],
        finding: ("clock", "fail", "behind OSS"),
    },
    Trouble {
        name: "an unknown key",
        file_system: FileSystem::Ext4,
        arrange: |site| site.origin().server().keys().remove(ACCESS_KEY_ID),
        arguments: &[],
        finding: ("list", "fail", "InvalidAccessKeyId"),
    },
    Trouble {
        name: "a wrong secret",
        file_system: FileSystem::Ext4,
        arrange: |site| site.origin().server().keys().add(ACCESS_KEY_ID, "another secret"),
        arguments: &[],
        finding: ("list", "fail", "SignatureDoesNotMatch"),
    },
    Trouble {
        name: "no permission to list",
        file_system: FileSystem::Ext4,
        arrange: |site| {
            let fault = Fault::Error { status: 403, code: "AccessDenied".to_owned() };
            site.origin().server().faults().add(Rule::new(fault).operation(Operation::List));
        },
        arguments: &[],
        finding: ("list", "fail", "AccessDenied"),
    },
    Trouble {
        name: "no permission to read",
        file_system: FileSystem::Ext4,
        arrange: |site| {
            let fault = Fault::Error { status: 403, code: "AccessDenied".to_owned() };
            site.origin().server().faults().add(Rule::new(fault).operation(Operation::Get));
        },
        arguments: &[],
        finding: ("read", "fail", "AccessDenied"),
    },
    Trouble {
        name: "memory for a disk",
        file_system: FileSystem::Tmpfs,
        arrange: |_| {},
        arguments: &[],
        finding: ("file system", "ok", "tmpfs"),
    },
    Trouble {
        name: "a file system that cannot hold readers",
        file_system: FileSystem::Ramfs,
        arrange: |_| {},
        arguments: &[],
        finding: ("file system", "fail", "ramfs"),
    },
];

/// Provokes each trouble once; those that the doctor did not find, and what it said.
#[must_use]
pub fn troubles() -> Vec<String> {
    let outcomes = TROUBLES.iter().map(|trouble| (trouble.name, try_out(trouble)));
    outcomes.filter_map(|(name, outcome)| Some(format!("{name}: {:#}", outcome.err()?))).collect()
}

fn try_out(trouble: &Trouble) -> anyhow::Result<()> {
    let site = Site::new(trouble.file_system, Config::default(), shards(2, SHARD))?;
    (trouble.arrange)(&site);
    Report::of(&site, trouble.arguments)?.found(trouble.finding)
}
