//! `ossc-agent doctor` finds what is wrong before a load does, and changes nothing.
//!
//! One table, one row a trouble; each is tried alone on a fresh site. What another kernel lacks, and lockdown, are
//! tried in the emulated machines of `cargo xtask vm`.

use std::process::Command;

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, Build, exit};
use e2e::cluster::Cluster;
use e2e::doctor::{self, Report};
use e2e::links::{Links, address, nic};
use e2e::origin::{PREFIX, shards};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Config, Fault, Object, Operation, Rule};

use crate::{MIB, nics};

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
    found(&Report::of(&site, trouble.arguments)?, trouble.finding)
}

/// The report has this finding, and ends as that demands.
fn found(report: &Report, (name, verdict, words): (&str, &str, &str)) -> anyhow::Result<()> {
    let check = report.check(name)?;
    ensure!(check["verdict"] == verdict, "{check}");
    ensure!(check["seen"].as_str().is_some_and(|seen| seen.contains(words)), "{check}");
    ensure!(check["advice"].is_string() == (verdict != "ok"), "{check}");
    let status = if verdict == "fail" { exit::INTERNAL } else { exit::OK };
    ensure!(report.status.code() == Some(status), "{report:#?}");
    ensure!(!report.json.to_string().contains(ACCESS_KEY_SECRET), "a secret is in the report: {report:#?}");
    Ok(())
}

#[test]
fn finds_packets_that_leave_by_another_nic() -> anyhow::Result<()> {
    nics::apart(|| {
        let links = Links::new(&[100, 100])?;
        let site = nics::site(&links, 4 * MIB)?;
        let both = links.addresses();
        let name = format!("source {}", address(1));
        found(&Report::of(&site, &["--source", &both])?, (&name, "ok", &nic(1)))?;
        links.forget_rule(1)?;
        let words = format!("{} has it, but packets from it leave by {}", nic(1), nic(0));
        found(&Report::of(&site, &["--source", &both])?, (&name, "fail", &words))
    })
}

#[test]
fn asks_peers_whether_they_let_this_node_in() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(1, 4 * MIB))?;
    let cluster = Cluster::new(1, Config::default(), shards(1, 4 * MIB))?;
    let agent = cluster.start(0).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let seed = cluster.address(0).to_string();
    let name = format!("peer {seed}");
    let arguments = ["--peers-listen", "127.0.0.1:0", "--peers", &seed, "--insecure-peers"];
    let other = [&arguments[..], &["--peers-cluster", "another"]].concat();
    found(&Report::of(&site, &arguments)?, (&name, "ok", "answers in"))?;
    found(&Report::of(&site, &other)?, (&name, "fail", "do not accept each other"))?;
    agent.stop()?.expect(exit::OK)?;
    found(&Report::of(&site, &arguments)?, (&name, "warn", "no answer from"))
}

#[test]
fn is_content_with_a_machine_that_works_and_changes_nothing() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(2, 8 * MIB))?;
    let arguments = ["--json", "--measure=1", "--source", "127.0.0.1"];
    let report = Report::by(&mut doctor::command(&site, &arguments)?)?;
    ensure!(report.status.success(), "{report:#?}");
    ensure!(report.json["version"] == 1, "{report:#?}");
    ensure!(report.check("gate")?["seen"].as_str().is_some_and(|seen| seen.starts_with("pre-content")));
    ensure!(report.check("list")?["seen"].as_str().is_some_and(|seen| seen.starts_with("2 objects")));
    for name in ["read", "throughput 127.0.0.1", "time to load", "free space", "memory", "eBPF", "clock"] {
        let check = report.check(name)?;
        ensure!(check["verdict"] != "fail", "{check}");
    }
    ensure!(site.model_dir().read_dir()?.next().is_none(), "the model directory is no longer empty");
    let text = String::from_utf8(doctor::command(&site, &["--measure=0"])?.output()?.stdout)?;
    ensure!(text.starts_with("kernel\n  ok ") && text.contains(" 0 failed"), "{text}");
    Ok(())
}

#[test]
fn works_without_a_configuration() -> anyhow::Result<()> {
    let mut command = Command::new(Build::UnderTest.binary()?);
    let report = Report::by(command.args(["doctor", "--json"]).env_clear())?;
    ensure!(report.check("settings")?["verdict"] == "fail", "{report:#?}");
    ensure!(report.check("privileges")?["verdict"] == "ok", "{report:#?}");
    ensure!(report.status.code() == Some(exit::INTERNAL), "{report:#?}");
    Ok(())
}
