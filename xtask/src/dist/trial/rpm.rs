//! The .rpm as rpm sees it: installed into a fresh root directory, looked at, upgraded over an edited setting, removed. Debian's
//! rpm does it, and its root is a Debian, so nothing is resolved; what the scripts do where systemd runs is the .deb's
//! trial, for they are the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{container, seen};
use crate::cmd;

/// Files without which the package is of no use.
const FILES: [&str; 4] = [
    "/usr/bin/ossc-agent",
    "/usr/lib/systemd/system/ossc-agent.service",
    "/usr/lib/systemd/system/ossc-agent@.service",
    "/usr/share/man/man1/ossc-agent.1.gz",
];
const CONFIG: &str = "etc/oss-connector/config.json";
const EDIT: &str = "\n";

/// All of it.
pub(super) fn trial(first: &Path, next: &Path) -> Result<()> {
    let root = container::unpacked()?;
    let root = root.path();
    let rpm = |arguments: &[&str], package: Option<&Path>| {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(root).args(["--dbpath", "/var/lib/rpm"]);
        command.args(arguments).args(package);
        cmd::output(&mut command)
    };
    let inside = |line: &str| cmd::output(Command::new("chroot").arg(root).args(["sh", "-ec", line]));
    rpm(&["--initdb"], None)?;
    let before = files(root)?;
    rpm(&["--install", "--nodeps"], Some(first))?;
    let listed = rpm(&["--query", "--list", "ossc"], None)?;
    for file in FILES {
        ensure!(listed.lines().any(|line| line == file), "the .rpm lacks {file}:\n{listed}");
    }
    rpm(&["--verify", "--nodeps", "ossc"], None).context("what is installed is not what the .rpm says")?;
    inside("ossc-agent --version")?;
    inside("systemd-analyze verify --man=no ossc-agent.service ossc-agent@x.service")?;
    inside("systemctl --quiet enable ossc-agent.service")?;
    let config = root.join(CONFIG);
    let edited = fs::read_to_string(&config).context("no sample of settings")? + EDIT;
    fs::write(&config, &edited)?;
    rpm(&["--upgrade", "--nodeps"], Some(next))?;
    ensure!(fs::read_to_string(&config)? == edited, "an upgrade changed the administrator's settings");
    rpm(&["--erase", "--nodeps", "ossc"], None)?;
    let saved = config.with_extension("json.rpmsave");
    ensure!(fs::read_to_string(&saved)? == edited, "removing the .rpm lost the administrator's settings");
    fs::remove_file(&saved)?;
    fs::remove_dir(saved.parent().unwrap_or(root))?;
    let left: Vec<_> = files(root)?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "removing the .rpm left {left:?}");
    seen("the .rpm: installed, upgraded over edited settings, removed without a trace");
    Ok(())
}

/// Of the root, without what rpm and systemctl keep for themselves.
fn files(root: &Path) -> Result<BTreeSet<String>> {
    let line = "find . -xdev \\( -path ./var/lib/rpm -o -path ./run \\) -prune -o -print";
    let found = cmd::output(Command::new("sh").args(["-ec", line]).current_dir(root))?;
    Ok(found.lines().map(str::to_owned).collect())
}
