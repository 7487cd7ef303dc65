//! A fresh Debian with a systemd of its own as process 1: namespaces of mounts, processes, cgroups, names and IPC around
//! a directory. The network is the machine's, so that a server on the loopback is reached. The machine's kernel
//! settings, devices and other cgroups are out of reach. Everything ends, and is removed, when the handle is dropped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::cmd::{self, Guarded};
use crate::{setup, toolchain};

/// How long anything may take that is waited for; a start takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Makes the namespaces' inside, with the root directory as `$1` and the folder of the tracepoints as `$2`, and becomes
/// systemd. `/proc/sys` and `/sys` cannot be written, so that the kernel's settings stay; only the harmless devices are
/// there.
const INSIDE: &str = r#"
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind "$2" sys/kernel/tracing
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : > dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec env -i container=ossc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target
"#;
/// Enters the cgroup `$1` before its namespace is made, whose root it becomes.
const OUTSIDE: &str = r#"
echo $$ > "$1/cgroup.procs"
shift
exec unshare --mount --propagation=private --uts --ipc --cgroup --pid --fork --kill-child=KILL sh -ec "$@"
"#;

/// The running Debian.
#[derive(Debug)]
pub(super) struct Container {
    /// Dropped first.
    unshare: Option<Guarded>,
    /// Process 1, as this machine numbers it.
    init: u32,
    cgroup: PathBuf,
    root: TempDir,
}

impl Container {
    /// Boots it.
    pub(super) fn boot() -> Result<Self> {
        let root = unpacked()?;
        let cgroup = cgroups()?.join(format!("ossc-trial-{}", process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        // From here on dropping it cleans up.
        let mut container = Self { unshare: None, init: 0, cgroup, root };
        let mut command = cmd::tied("sh");
        command.args(["-ec", OUTSIDE, "-"]).arg(&container.cgroup).args([INSIDE, "-"]);
        command.arg(container.root.path()).arg(setup::TRACEFS);
        let output = fs::File::create(container.root.path().join("boot.log")).context("a log of the boot")?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        container.unshare = Some(Guarded::spawn(&mut command)?);
        container.wait_for("systemd to run", |container| Ok(container.is_up()))?;
        Ok(container)
    }

    /// The root directory, from outside.
    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    /// A command inside, with what it prints shown, which must end with 0.
    pub(super) fn run(&self, line: &str) -> Result<()> {
        let status = self.command(line).status()?;
        ensure!(status.success(), "`{line}` in the container: {status}");
        Ok(())
    }

    /// What a command inside prints; it must end with 0.
    pub(super) fn output(&self, line: &str) -> Result<String> {
        cmd::output(&mut self.command(line))
    }

    /// A command inside that goes on beside us.
    pub(super) fn spawn(&self, line: &str) -> Result<Child> {
        self.command(line).spawn().with_context(|| format!("cannot start `{line}`"))
    }

    /// Whether a command inside ends with 0.
    pub(super) fn succeeds(&self, line: &str) -> bool {
        let mut command = self.command(line);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Waits until something is so.
    pub(super) fn wait_for(
        &mut self,
        what: &str,
        mut is: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is(self)? {
            if let Some(status) = self.ended()? {
                let log = fs::read_to_string(self.root().join("boot.log")).unwrap_or_default();
                bail!("waiting for {what}, the container ended: {status}\n{log}");
            }
            ensure!(Instant::now() < deadline, "waited for {what} for {} s in vain", PATIENCE.as_secs());
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.unshare.as_mut().map_or(Ok(None), |unshare| unshare.child().try_wait()).context("the container")
    }

    /// Looks for process 1 until it is there, and asks it.
    fn is_up(&mut self) -> bool {
        let Some(unshare) = &mut self.unshare else { return false };
        let outer = unshare.child().id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        self.init = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        let name = fs::read_to_string(format!("/proc/{}/comm", self.init)).unwrap_or_default();
        name.trim() == "systemd" && self.succeeds("systemctl --quiet is-system-running")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = cmd::tied("nsenter");
        command.arg(format!("--target={}", self.init));
        command.args(["--mount", "--uts", "--ipc", "--cgroup", "--pid", "--root", "--wd", "--"]);
        // Messages in English, no questions, no pager.
        command.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "SYSTEMD_PAGER=cat",
        ]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "sh", "-ec", line]).stdin(Stdio::null());
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.unshare = None;
        let deadline = Instant::now() + PATIENCE;
        // The kernel frees the cgroups when the last process is gone.
        while let Err(error) = remove_cgroups(&self.cgroup) {
            if Instant::now() > deadline {
                eprintln!("xtask: {} is left behind: {error}", self.cgroup.display());
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

fn remove_cgroups(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// A fresh root directory.
pub(super) fn unpacked() -> Result<TempDir> {
    let root = tempfile::Builder::new().prefix("ossc-debian-").tempdir().context("a root directory")?;
    let image = image()?;
    cmd::quietly(Command::new("tar").arg("--extract").arg("--file").arg(&image).arg("-C").arg(root.path()))?;
    Ok(root)
}

/// The packed root directory: this machine's own release, for it runs what was linked here.
fn image() -> Result<PathBuf> {
    let about = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.context("/etc/os-release names no release")?;
    let image = toolchain::cache_dir().join(format!("{name}.tar"));
    if !image.is_file() {
        println!("dist: a fresh {name} with systemd into {}; about a minute", image.display());
        let partial = image.with_extension("tar.partial");
        let mut command = Command::new("mmdebstrap");
        // The format is told, for the name does not.
        command.args(["--quiet", "--variant=minbase", "--include=systemd", "--format=tar", name]);
        cmd::run(command.arg(&partial))?;
        fs::rename(&partial, &image).with_context(|| format!("cannot make {}", image.display()))?;
    }
    Ok(image)
}

/// Where cgroup v2 is mounted.
fn cgroups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|mount| mount.get(2) == Some(&"cgroup2"));
    mount
        .and_then(|mount| mount.get(1).map(PathBuf::from))
        .context("cgroup v2 is not mounted; mount it first")
}
