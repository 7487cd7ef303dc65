//! `ossc-agent doctor` finds what is wrong before a load does, and changes nothing.
//!
//! One table, one row a trouble; each is tried alone on a fresh site. What needs no agent (the route of a second
//! NIC, lockdown) has its tests beside the checks.

use std::process::{Command, Output};

use anyhow::{Context, ensure};
use e2e::agent::{Build, exit};
use e2e::origin::{PREFIX, shards};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Config, Fault, Object, Operation, Rule};
use serde_json::Value;

use crate::MIB;

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

#[test]
fn finds_each_trouble() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for trouble in TROUBLES {
        if let Err(error) = try_out(trouble) {
            wrong.push(format!("{}: {error:#}", trouble.name));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

fn try_out(trouble: &Trouble) -> anyhow::Result<()> {
    let site = Site::new(trouble.file_system, Config::default(), shards(2, 4 * MIB))?;
    (trouble.arrange)(&site);
    let (name, verdict, words) = trouble.finding;
    let output = doctor(&site, &[&["--json", "--measure=0"], trouble.arguments].concat())?;
    let report = json(&output)?;
    let check = check(&report, name)?;
    ensure!(check["verdict"] == verdict, "{check}");
    ensure!(check["seen"].as_str().is_some_and(|seen| seen.contains(words)), "{check}");
    ensure!(check["advice"].is_string() == (verdict != "ok"), "{check}");
    let status = if verdict == "fail" { exit::INTERNAL } else { exit::OK };
    ensure!(output.status.code() == Some(status), "{}: {report:#}", output.status);
    ensure!(!report.to_string().contains(ACCESS_KEY_SECRET), "a secret is in the report: {report:#}");
    Ok(())
}

#[test]
fn is_content_with_a_machine_that_works_and_changes_nothing() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(2, 8 * MIB))?;
    let output = doctor(&site, &["--json", "--measure=1", "--source", "127.0.0.1"])?;
    let report = json(&output)?;
    ensure!(output.status.success(), "{report:#}");
    ensure!(report["version"] == 1, "{report:#}");
    ensure!(check(&report, "gate")?["seen"].as_str().is_some_and(|seen| seen.starts_with("pre-content")));
    ensure!(check(&report, "list")?["seen"].as_str().is_some_and(|seen| seen.starts_with("2 objects")));
    for name in ["read", "throughput 127.0.0.1", "time to load", "free space", "memory", "eBPF", "clock"] {
        let check = check(&report, name)?;
        ensure!(check["verdict"] != "fail", "{check}");
    }
    ensure!(site.model_dir().read_dir()?.next().is_none(), "the model directory is no longer empty");
    let text = String::from_utf8(doctor(&site, &["--measure=0"])?.stdout)?;
    ensure!(text.starts_with("kernel\n  ok ") && text.contains(" 0 failed"), "{text}");
    Ok(())
}

#[test]
fn works_without_a_configuration() -> anyhow::Result<()> {
    let output = Command::new(Build::UnderTest.binary()?).args(["doctor", "--json"]).env_clear().output()?;
    let report = json(&output)?;
    ensure!(check(&report, "settings")?["verdict"] == "fail", "{report:#}");
    ensure!(check(&report, "privileges")?["verdict"] == "ok", "{report:#}");
    ensure!(output.status.code() == Some(exit::INTERNAL), "{}", output.status);
    Ok(())
}

fn doctor(site: &Site, arguments: &[&str]) -> anyhow::Result<Output> {
    let server = site.origin().server();
    let mut command = Command::new(Build::UnderTest.binary()?);
    command.arg("doctor").args(arguments).env_clear();
    command.env("OSS_ENDPOINT", server.endpoint()).env("OSS_REGION", "cn-hangzhou");
    command.env("OSS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("OSS_ACCESS_KEY_SECRET", ACCESS_KEY_SECRET);
    command.env("OSS_PATH", site.origin().path()).env("MODEL_DIR", site.model_dir());
    command.output().context("run the doctor")
}

fn json(output: &Output) -> anyhow::Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON: {output:?}"))
}

fn check<'r>(report: &'r Value, name: &str) -> anyhow::Result<&'r Value> {
    let checks = report["checks"].as_array().context("no list of checks")?;
    checks.iter().find(|check| check["name"] == name).with_context(|| format!("no {name} in {report:#}"))
}
