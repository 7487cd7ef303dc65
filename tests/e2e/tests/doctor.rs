//! `ossc-agent doctor` finds what is wrong before a load does, and changes nothing.
//!
//! Most troubles are rows of a table in `e2e::doctor`, each tried alone on a fresh site; `cargo xtask vm` tries them on other
//! kernels, too, and what those lack, and lockdown.

use std::process::Command;

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, Build, exit};
use e2e::cluster::Cluster;
use e2e::doctor::{self, Report};
use e2e::links::{Links, address, nic};
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::Config;

use crate::{MIB, nics};

#[test]
fn finds_each_trouble() -> anyhow::Result<()> {
    let wrong = doctor::troubles();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

#[test]
fn finds_a_missing_capability() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(1, 4 * MIB))?;
    let doctor = doctor::command(&site, &["--json", "--measure=0"])?;
    let mut less = Command::new("setpriv");
    less.arg("--bounding-set=-sys_ptrace").arg(doctor.get_program()).args(doctor.get_args()).env_clear();
    less.envs(doctor.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Report::by(&mut less)?.found(("privileges", "fail", "CAP_SYS_PTRACE"))
}

#[test]
fn finds_packets_that_leave_by_another_nic() -> anyhow::Result<()> {
    nics::apart(|| {
        let links = Links::new(&[100, 100])?;
        let site = nics::site(&links, 4 * MIB)?;
        let both = links.addresses();
        let name = format!("source {}", address(1));
        Report::of(&site, &["--source", &both])?.found((&name, "ok", &nic(1)))?;
        links.forget_rule(1)?;
        let words = format!("{} has it, but packets from it leave by {}", nic(1), nic(0));
        Report::of(&site, &["--source", &both])?.found((&name, "fail", &words))
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
    Report::of(&site, &arguments)?.found((&name, "ok", "answers in"))?;
    Report::of(&site, &other)?.found((&name, "fail", "do not accept each other"))?;
    agent.stop()?.expect(exit::OK)?;
    Report::of(&site, &arguments)?.found((&name, "warn", "no answer from"))
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
