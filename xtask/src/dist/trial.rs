//! `cargo xtask dist --try`: the packages as an administrator meets them, on a fresh Debian with a real systemd. Install,
//! edit two lines, start an inference unit that wants the agent; upgrade while it reads; kill agent and keeper
//! together; a second model with its own unit; remove, purge. The .rpm is installed, upgraded and removed beside that, by rpm
//! without a systemd that runs (`rpm`). Each step says what it saw; the first that is not as it
//! should be ends the trial, with the agents' journal.

mod container;
mod rpm;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Release, packages};
use crate::cmd;
use crate::server::{BUCKET, Server, Settings};
use container::Container;

/// Objects and their size: together some 25 s at the rate, in which all the rest happens.
const OBJECTS: [&str; 3] = ["m-1.safetensors", "m-2.safetensors", "m-3.safetensors"];
const OBJECT_BYTES: u64 = 20 << 20;
const RATE: u64 = 2_500_000;
/// Most that `systemd-analyze security` may say of the unit, tenths: below "medium". CAP_SYS_PTRACE and CAP_KILL, for the
/// stop gate, are 4 of them.
const EXPOSURE: u32 = 37;
/// A reader that begins with its model. `dist` has the same, with a real server, in packaging/examples.
const INFERENCE: &str = "[Unit]
Wants=ossc-agent.service
After=ossc-agent.service
[Service]
Type=oneshot
DynamicUser=yes
ExecStart=/bin/sh -c 'cd /srv/model && exec sha256sum *'
StandardOutput=file:/run/sums
";
/// What may change without being of the package: records of the package manager, logs, what is mounted or made by units.
const NOT_OURS: &str = "find / -xdev \\( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache -o -path /tmp -o -path /srv \\
    -o -path /boot.log -o -path /var/lib/systemd -o -path /var/lib/private -o -path /root \\) -prune -o -print";

/// All of it.
pub(super) fn trial(release: &Release, first: &[PathBuf]) -> Result<()> {
    let scratch = tempfile::tempdir().context("a directory for the trial")?;
    same_again(release, first, &scratch.path().join("again"))?;
    let next = Release { version: format!("{}+next", release.version), epoch: release.epoch.clone() };
    let next = packages(&next, &scratch.path().join("next"))?;
    cmd::run(&mut cmd::cargo(&["build", "--quiet", "--package=oss-server"]))?;
    let objects = scratch.path().join("objects");
    make_objects(&objects)?;
    rpm::trial(&first[1], &next[1])?;
    let server = Server::start(&Settings {
        directory: Some(objects.clone()),
        rate: Some(RATE),
        debug: true,
        ..Settings::default()
    })?;
    let mut container = Container::boot()?;
    for (package, name) in [(&first[0], "first.deb"), (&next[0], "next.deb")] {
        fs::copy(package, container.root().join("root").join(name)).context("cannot copy a package")?;
    }
    let outcome = steps(&mut container, &server, &objects);
    if outcome.is_err() {
        container.run("journalctl --no-pager --output=short-precise | tail -n 200 >&2").ok();
    }
    outcome
}

/// Packs again, and compares byte by byte.
fn same_again(release: &Release, first: &[PathBuf], out: &Path) -> Result<()> {
    for (one, other) in first.iter().zip(packages(release, out)?) {
        let same = fs::read(one)? == fs::read(&other)?;
        ensure!(same, "packed twice, {} differs", other.display());
    }
    seen("packed twice, the same bytes");
    Ok(())
}

fn make_objects(directory: &Path) -> Result<()> {
    fs::create_dir(directory).context("a directory for objects")?;
    for name in OBJECTS {
        let mut bytes = Vec::new();
        fs::File::open("/dev/urandom")?.take(OBJECT_BYTES).read_to_end(&mut bytes)?;
        fs::write(directory.join(name), bytes).context("cannot write an object")?;
    }
    Ok(())
}

fn steps(container: &mut Container, server: &Server, objects: &Path) -> Result<()> {
    let before = files(container)?;
    install(container, server)?;
    load(container, objects)?;
    second_model(container)?;
    container.run("dpkg --remove ossc >/dev/null")?;
    let left: Vec<_> = files(container)?.difference(&before).cloned().collect();
    let settings = ["/etc/oss-connector", "/etc/credstore", "/etc/systemd/system"];
    let settings = |path: &String| settings.iter().any(|folder| path.starts_with(folder));
    ensure!(left.iter().all(settings), "removing the package left {left:?}");
    ensure!(!left.iter().any(|path| path.contains(".wants/")), "a unit is still enabled: {left:?}");
    // The keeper of a model that was not complete waits for another agent first.
    container.wait_for("the last process to end", |container| {
        Ok(!container.succeeds("grep --quiet --no-messages -xE 'ossc-agent|ossc-keeper' /proc/[0-9]*/comm"))
    })?;
    seen("removed: nothing left but settings");
    container.run("dpkg --purge ossc >/dev/null && test ! -e /etc/oss-connector/config.json")?;
    seen("purged: the sample is gone, other settings are the administrator's");
    Ok(())
}

fn install(container: &Container, server: &Server) -> Result<()> {
    container.run("dpkg --install /root/first.deb >/dev/null && ! systemctl --quiet is-active ossc-agent")?;
    container.run("ossc-agent --version && test -s /usr/share/man/man1/ossc-agent.1.gz")?;
    let refused = container.succeeds("systemctl start ossc-agent");
    ensure!(
        !refused
            && container.output("systemctl show --property=ExecMainStatus --value ossc-agent")?.trim() == "2",
        "the sample, unedited, is not refused as settings that are wrong"
    );
    seen("installed: nothing was started, and the unedited sample is refused");
    let (edit, endpoint) = ("sed --in-place --expression", server.endpoint());
    container.run(&format!(
        "{edit} 's|oss://BUCKET/PREFIX/|oss://{BUCKET}/|' {edit_more} 's|https://oss-REGION.*com|{endpoint}|' \
         /etc/oss-connector/config.json",
        edit_more = "--expression",
    ))?;
    let [_, _, (_, id), (_, secret), _] = server.environment("");
    let keys = format!(r#"{{"AccessKeyId": "{id}", "AccessKeySecret": "{secret}"}}"#);
    container.run(&format!("mkdir -p /etc/credstore && umask 077 && echo '{keys}' > /etc/credstore/ossc"))?;
    fs::write(container.root().join("etc/systemd/system/inference.service"), INFERENCE)?;
    container.run(
        "systemctl daemon-reload && systemd-analyze verify --man=no ossc-agent.service ossc-agent@x.service",
    )?;
    let exposure = container
        .output(&format!("systemd-analyze security --no-pager --threshold={EXPOSURE} ossc-agent.service"))?;
    seen(exposure.lines().last().unwrap_or_default());
    Ok(())
}

fn load(container: &mut Container, objects: &Path) -> Result<()> {
    let mut reader = container.spawn("systemctl start inference.service")?;
    container.wait_for("a reader to be held", reader_is_held)?;
    seen("the inference unit reads while the model loads");

    let first = main_process(container)?;
    container.run("dpkg --install /root/next.deb >/dev/null")?;
    ensure!(main_process(container)? != first, "the upgrade did not restart the agent");
    ensure!(reader.try_wait()?.is_none(), "the reader ended in the upgrade");
    container.wait_for("a reader to be held", reader_is_held)?;
    seen("upgraded: another agent, the same reader");

    let second = main_process(container)?;
    container.run("systemctl kill --kill-whom=all --signal=KILL ossc-agent")?;
    container.wait_for("the agent to be started again", |container| {
        let active = container.succeeds("systemctl --quiet is-active ossc-agent");
        Ok(active && ![&second, "0"].contains(&main_process(container)?.as_str()))
    })?;
    ensure!(reader.try_wait()?.is_none(), "the reader went on without an agent");
    seen("agent and keeper killed together: started again, with the readers that systemd kept held");

    let status = reader.wait().context("the inference unit")?;
    ensure!(status.success(), "the inference unit failed: {status}");
    let wanted = cmd::output(Command::new("sha256sum").args(OBJECTS).current_dir(objects))?;
    ensure!(container.output("cat /run/sums")? == wanted, "the reader got other bytes than the objects have");
    seen("the reader has every byte of the objects");
    let journal = container.output("journalctl --unit=ossc-agent --no-pager --output=cat")?;
    ensure!(!journal.contains("not observed"), "a file is not observed in the sandbox");
    ensure!(journal.contains("eBPF probes attached"), "the probes were not attached in the sandbox");
    Ok(())
}

/// The template, and a drop-in that observes a slice, as packaging/examples shows it.
fn second_model(container: &mut Container) -> Result<()> {
    container.run(
        "sed 's|/srv/model|/srv/two|' /etc/oss-connector/config.json > /etc/oss-connector/two.json
         cp /etc/credstore/ossc /etc/credstore/ossc.two
         mkdir /etc/systemd/system/ossc-agent@two.service.d
         sed 's|NAME.json|two.json|' /usr/share/doc/ossc/examples/ossc-agent-cgroup.conf \\
             > /etc/systemd/system/ossc-agent@two.service.d/cgroup.conf
         systemctl daemon-reload
         systemctl enable --quiet --now ossc-agent@two.service",
    )?;
    container.run(
        "test -r /srv/two/m-1.safetensors && systemctl --no-pager show --property=StatusText ossc-agent@two",
    )?;
    container.run("systemctl --quiet is-active ossc-agent ossc-agent@two")?;
    seen("a second model has its own unit, which observes a slice");
    Ok(())
}

fn reader_is_held(container: &mut Container) -> Result<bool> {
    let status = container.output("systemctl show --property=StatusText --value ossc-agent")?;
    Ok(status.contains("readers waiting") && !status.contains(" 0 readers waiting"))
}

fn main_process(container: &Container) -> Result<String> {
    let pid = container.output("systemctl show --property=MainPID --value ossc-agent")?;
    Ok(pid.trim().to_owned())
}

fn files(container: &Container) -> Result<BTreeSet<String>> {
    Ok(container.output(NOT_OURS)?.lines().map(str::to_owned).collect())
}

fn seen(what: &str) {
    println!("dist: {what}");
}
