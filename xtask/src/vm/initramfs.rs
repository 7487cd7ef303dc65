//! The first file system of an emulated machine: busybox, a few modules, and an `/init` that puts this machine's own
//! root in place, read-only, and goes on with a shell script in there.
//!
//! Driven by `vm`, which gives the script. Programs, libraries and Python are thus exactly those of this machine, at
//! the same paths; only the kernel is another. What is written goes to memory: `/run`, `/dev/shm`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use super::machine::ROOT_TAG;
use crate::{cmd, setup};

/// What a machine needs before and besides its root: the shared root's device and file system, and loop devices for
/// the file systems of the tests. ext4 and tmpfs are in Debian's kernels.
const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "loop"];

/// Everything between the kernel and the script. Errors end `/init`, hence the machine, and its console tells why.
fn init(script: &str) -> String {
    format!(
        "#!/bin/sh
set -e
export PATH=/bin
for module in /modules/*; do insmod $module; done
mount -t virtiofs -o ro {ROOT_TAG} /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t securityfs securityfs /root/sys/kernel/security
mount -t tracefs tracefs /root/sys/kernel/tracing
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/shm
mount -t tmpfs tmpfs /root/dev/shm
mount -t tmpfs tmpfs /root/run
ip link set lo up
# The script ends before the machine does, whatever its status.
cat >/root/run/script <<'END'
{script}
END
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run
exec /bin/busybox switch_root /root /bin/sh -c 'sh /run/script; busybox poweroff -f; sleep 60'
"
    )
}

/// Writes the archive for this kernel.
pub(crate) fn write(kernel: &Kernel, script: &str, archive: &Path) -> Result<()> {
    let stage = tempfile::tempdir().context("cannot make a folder for the initramfs")?;
    let place = |name: &str| stage.path().join(name);
    for folder in ["bin", "modules", "root"] {
        fs::create_dir(place(folder))?;
    }
    let busybox = setup::find("busybox").context("busybox is not installed")?;
    fs::copy(&busybox, place("bin/busybox")).with_context(|| format!("cannot copy {}", busybox.display()))?;
    for applet in ["sh", "insmod", "mount", "mkdir", "ip", "cat"] {
        std::os::unix::fs::symlink("busybox", place("bin").join(applet))?;
    }
    for (number, module) in kernel.modules(&MODULES)?.iter().enumerate() {
        let name = module.file_stem().unwrap_or_default().to_string_lossy().replace(".ko", "");
        fs::write(place(&format!("modules/{number:02}-{name}")), plain(module)?)?;
    }
    fs::write(place("init"), init(script))?;
    fs::set_permissions(place("init"), fs::Permissions::from_mode(0o755))?;
    pack(stage.path(), archive)
}

/// A module as the kernel takes it; busybox does not ask the kernel to unpack one.
fn plain(module: &Path) -> Result<Vec<u8>> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(module).with_context(|| format!("cannot read {}", module.display()));
    }
    let output = Command::new("busybox").args(["unxz", "-c"]).arg(module).output()?;
    ensure!(output.status.success(), "busybox cannot unpack {}", module.display());
    Ok(output.stdout)
}

/// Everything below `stage` in the form the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
fn pack(stage: &Path, archive: &Path) -> Result<()> {
    let file = fs::File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut command = Command::new("cpio");
    command.args(["--create", "--format=newc", "--quiet"]).current_dir(stage);
    let mut child = command.stdin(Stdio::piped()).stdout(file).spawn().context("cannot start cpio")?;
    let mut names = child.stdin.take().context("cpio has no standard input")?;
    let listed = list(stage, "", &mut names);
    drop(names);
    cmd::succeeded(child.wait()?, &command)?;
    listed
}

/// One path a line, folders before what is in them.
fn list(stage: &Path, folder: &str, out: &mut impl Write) -> Result<()> {
    for entry in fs::read_dir(stage.join(folder))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a file name is no UTF-8")?;
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        writeln!(out, "{path}")?;
        if entry.file_type()?.is_dir() {
            list(stage, &path, out)?;
        }
    }
    Ok(())
}
