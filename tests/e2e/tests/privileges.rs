//! The agent needs few rights, says which one it lacks, gives up what it needs no more, and gives none to readers.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::turn;
use nix::unistd::Pid;

use crate::keeper::{keepers, no_keeper_left, site};

/// Bits of capabilities(7), from include/uapi/linux/capability.h.
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const FOWNER: u64 = 1 << 3;
const KILL: u64 = 1 << 5;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
const BPF: u64 = 1 << 39;
/// As docs/security.md lists them.
const AGENT: u64 = SYS_ADMIN | DAC_OVERRIDE | FOWNER | KILL | BPF | SYS_RESOURCE;
/// Of what looks after stopped processes.
const STOPS: u64 = BPF | KILL | SYS_PTRACE;
const KEEPER: u64 = SYS_ADMIN | DAC_OVERRIDE | FOWNER | STOPS;

/// A line of a task's status.
fn field(status: &str, name: &str) -> anyhow::Result<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {status}"))?.trim().to_owned())
}

/// Name and permitted capabilities of each thread, none of which may get more.
fn threads(pid: Pid) -> anyhow::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the look.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let set = |name| Ok::<_, anyhow::Error>(u64::from_str_radix(&field(&status, name)?, 16)?);
        ensure!(set("CapEff")? == set("CapPrm")? && set("CapInh")? == 0 && set("CapAmb")? == 0, "{status}");
        ensure!(field(&status, "NoNewPrivs")? == "1", "{status}");
        found.push((field(&status, "Name")?, set("CapPrm")?));
    }
    Ok(found)
}

/// What docs/security.md says of the agent's threads.
fn each_has_what_it_needs(pid: Pid) -> anyhow::Result<()> {
    for (name, permitted) in threads(pid)? {
        let most = match name.as_str() {
            name if name.starts_with("ossc-fetch") => DAC_READ_SEARCH,
            "ossc-gate" => STOPS,
            "ossc-keeper" | "ossc-status" => 0,
            "ossc-bpf" => BPF,
            _ => AGENT,
        };
        ensure!(permitted & !most == 0, "{name} has {permitted:x}, of which it needs {most:x}");
    }
    Ok(())
}

#[test]
fn that_are_not_needed_any_more_are_given_up() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let mut agent = site.start().option("--log-level", "debug").start()?;
    agent.wait_for("capabilities that are not needed any more are given up")?;
    let pid = agent.process().pid()?;
    // A thread that has not run yet has not given up anything.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = each_has_what_it_needs(pid) {
        ensure!(Instant::now() < deadline, "{error:#}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let [keeper] = keepers(&site.model_dir())?[..] else { bail!("not one keeper") };
    for (name, permitted) in threads(keeper)? {
        ensure!(permitted & !KEEPER == 0, "{name} has {permitted:x}");
    }
    // With these alone it finishes its work, and stops in order.
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

#[test]
fn that_are_missing_are_named() -> anyhow::Result<()> {
    let site = site()?;
    for without in [
        &["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"][..],
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    ] {
        let ended = site.start().through(without).run()?;
        ended.expect(exit::KERNEL)?;
        ensure!(ended.text().contains("CAP_SYS_ADMIN"), "{}", ended.text());
    }
    Ok(())
}

/// Everything below a directory.
fn walk(
    directory: &Path,
    look: &mut impl FnMut(&Path, &fs::Metadata) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // A ready file may be replaced between the listing and the look.
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        look(&path, &about)?;
        if about.is_dir() {
            walk(&path, look)?;
        }
    }
    Ok(())
}

#[test]
fn of_others_do_not_reach_the_state() -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let state = site.model_dir().join(".ossc");
    let mode = |about: &fs::Metadata| about.permissions().mode() & 0o777;
    ensure!(mode(&fs::metadata(&state)?) == 0o700);
    walk(&state, &mut |path, about| {
        // Data files are for everybody once they are visible.
        let most = if about.is_dir() {
            0o700
        } else if path.starts_with(state.join("incoming")) {
            0o444
        } else {
            0o600
        };
        let is_socket = about.mode() & libc::S_IFMT == libc::S_IFSOCK;
        ensure!(is_socket || mode(about) & !most == 0, "{} has mode {:o}", path.display(), mode(about));
        Ok(())
    })?;
    // A reader to learn from, so that there is something to keep.
    site.check_files()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    walk(&site.state_dir().join("orders"), &mut |path, about| {
        let most = if about.is_dir() { 0o700 } else { 0o600 };
        ensure!(mode(about) & !most == 0, "{} has mode {:o}", path.display(), mode(about));
        Ok(())
    })?;
    no_keeper_left(&site)
}

/// What a user without privileges tries, in a container and outside of one: each must fail.
const ATTEMPTS: [&str; 14] = [
    "echo x >> \"$FILE\"",
    "truncate -s 0 \"$FILE\"",
    "chmod u+w \"$FILE\"",
    "mv \"$FILE\" \"$FILE.other\"",
    "rm -f \"$FILE\"",
    "ls \"$DIR/.ossc\"",
    "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_SEQPACKET, 0) && connect(S, sockaddr_un(qq($ENV{DIR}/.ossc/keeper))) || exit 1'",
    "ls /proc/$AGENT/fd",
    "ls /proc/$KEEPER/fd",
    "head -c 1 /proc/$AGENT/mem",
    "kill -9 $AGENT",
    "kill -9 $KEEPER",
    // What is tried with must be there.
    "! perl -MSocket -e 1",
    "cat /proc/$AGENT/environ",
];

/// No rights but in user, mount and pid namespaces of its own, where it is root.
const CONTAINER: [&str; 6] = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"];

#[test]
fn of_a_reader_in_a_container_change_nothing() -> anyhow::Result<()> {
    attempt(&CONTAINER)
}

#[test]
fn of_a_reader_of_another_user_change_nothing() -> anyhow::Result<()> {
    attempt(&[])
}

/// Lets user 65534 make every attempt, by way of `through`, and then read.
fn attempt(through: &[&str]) -> anyhow::Result<()> {
    let _turn = turn::take();
    let site = site()?;
    // Others must reach the model, as they must in production.
    for path in site.model_dir().ancestors().take_while(|path| path.starts_with(std::env::temp_dir())) {
        if path != std::env::temp_dir() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
    }
    let mut agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let [keeper] = keepers(&site.model_dir())?[..] else { bail!("not one keeper") };
    let target = &site.targets()[0];
    let script = ATTEMPTS.map(|attempt| {
        format!("if {attempt} 2>/dev/null >&2; then echo 'allowed: {}'; fi", attempt.replace('\'', ""))
    });
    // Readable, and nothing else: the last bytes, for which it waits.
    let script = format!("{}\ntail -c 64 \"$FILE\" | od -An -v -tx1 | tr -d ' \\n'", script.join("\n"));
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(through)
        .args(["sh", "-c", &script])
        .env("FILE", target.path())
        .env("DIR", site.model_dir())
        .env("AGENT", agent.process().pid()?.to_string())
        .env("KEEPER", keeper.to_string())
        .output()
        .context("setpriv and unshare of util-linux")?;
    let (told, errors) =
        (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(!told.contains("allowed"), "{told}");
    let mut right = [0; 64];
    target.fill(crate::keeper::FILE - 64, &mut right)?;
    let right: String = right.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(told == right, "read {told:?}, not {right:?}; {errors}");
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}
