//! The agent in a container, as packaging/container and packaging/kubernetes start it: in a pid namespace of its own,
//! whose process 1 starts it again when it dies, and with readers outside. And the manifests: what the API takes, and
//! that they fit together.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, Start, exit};
use e2e::python;
use e2e::reader::Outcome;
use e2e::site::Site;
use e2e::turn;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::keeper::{held_reader, no_keeper_left, site};

const TAKEN_OVER: &str = "readers taken over from an earlier agent";
/// Every document of the files named is one that the API of this version takes, and namespace, names of settings,
/// volumes, ports and labels that one of them mentions are in another.
const CHECK: &str = r#"
import os, sys, yaml, kubernetes_validate
folder, examples = sys.argv[1:]
listed = yaml.safe_load(open(f"{folder}/kustomization.yaml"))
files = sorted(name for name in os.listdir(folder) if name != "kustomization.yaml")
assert sorted(listed["resources"]) == files, (listed["resources"], files)
documents = [d for name in files for d in yaml.safe_load_all(open(f"{folder}/{name}"))]
extra = [d for name in os.listdir(examples) if name.endswith(".yaml") for d in yaml.safe_load_all(open(f"{examples}/{name}"))]
for document in documents + extra:
    kubernetes_validate.validate(document, "1.30", strict=True)
by = {(d["kind"], d["metadata"]["name"]): d for d in documents}
assert all(d["metadata"].get("namespace", listed["namespace"]) == listed["namespace"] for d in documents)
agents = by["DaemonSet", "ossc-agent"]["spec"]
pod, labels = agents["template"]["spec"], agents["template"]["metadata"]["labels"]
[agent] = pod["containers"]
assert agents["selector"]["matchLabels"] == labels
assert by["Service", "ossc-peers"]["spec"]["selector"] == labels
assert by["NetworkPolicy", "ossc-peers"]["spec"]["podSelector"]["matchLabels"] == labels
assert ("ServiceAccount", pod["serviceAccountName"]) in by
assert all(("ConfigMap", source["configMapRef"]["name"]) in by for source in agent["envFrom"])
assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in agent["volumeMounts"]}
assert {p["name"] for p in agent["ports"]} == {p["targetPort"] for p in by["Service", "ossc-peers"]["spec"]["ports"]}
assert "limits" not in agent["resources"], "the page cache of the model is charged to the agent"
print(len(documents), "documents")
"#;

fn packaging() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging"))
}

/// The agent as in the image, which has a pid namespace and a supervisor.
fn contained(site: &Site) -> anyhow::Result<Start> {
    let supervisor = packaging().join("container/ossc-supervise").canonicalize().context("the supervisor")?;
    let supervisor = supervisor.to_str().context("a path in UTF-8")?.to_owned();
    let words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"].map(str::to_owned);
    Ok(site.start().through(words.into_iter().chain([supervisor])).option("--restart-deadline", "0"))
}

/// The only child of a process with this name.
fn child(parent: Pid, name: &str) -> anyhow::Result<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    for pid in children.split_whitespace() {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim() == name {
            return Ok(Pid::from_raw(pid.parse()?));
        }
    }
    bail!("process {parent} has no child {name}")
}

/// Process 1 of the container.
fn init(agent: &mut Agent) -> anyhow::Result<Pid> {
    child(agent.process().pid()?, "sh")
}

#[test]
fn starts_the_agent_again_with_its_readers() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut agent = contained(&site)?.start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &agent)?;
    let init = init(&mut agent)?;
    kill(child(init, "ossc-agent")?, Signal::SIGKILL)?;
    agent.wait_for(TAKEN_OVER)?;
    match reader.finish(PATIENCE)? {
        Outcome::Right => {}
        other => bail!("{other:?}"),
    }
    agent.wait_for(ALL_COMPLETE)?;
    kill(init, Signal::SIGTERM)?;
    agent.finish()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

#[test]
fn ends_with_an_error_for_readers_and_without_holes() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut agent = contained(&site)?.start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let reader = held_reader(&site, &agent)?;
    kill(init(&mut agent)?, Signal::SIGTERM)?;
    match reader.finish(PATIENCE)? {
        Outcome::Errno(_) => {}
        other => bail!("{other:?}"),
    }
    agent.finish()?.expect(exit::OK)?;
    for target in site.targets() {
        ensure!(!target.path().exists(), "{} is still there", target.path().display());
    }
    no_keeper_left(&site)
}

#[test]
fn ends_when_the_agent_cannot_start() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    contained(&site)?.option("--oss-path", "nonsense").run()?.expect(exit::USAGE)
}

#[test]
fn manifests_are_what_kubernetes_takes() -> anyhow::Result<()> {
    let mut check = Command::new(python::interpreter()?);
    check.args(["-c", CHECK]).arg(packaging().join("kubernetes")).arg(packaging().join("examples"));
    let output = check.output().context("start Python")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
