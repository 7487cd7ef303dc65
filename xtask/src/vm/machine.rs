//! One emulated machine from power on to power off: qemu's own processor (no KVM, so that it runs in any virtual
//! machine), this machine's root file system read-only by virtiofs, two serial ports. The first is the console, kept
//! in a log; what the second one gets is the machine's result.
//!
//! It knows nothing of what runs inside. A machine that does not end by its deadline is ended.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::cmd::{self, Guarded};
use crate::setup;

/// Under this name the machine finds the shared root.
pub(crate) const ROOT_TAG: &str = "host";
/// The port for results, as the machine's programs see it.
pub(crate) const RESULT_PORT: &str = "/dev/ttyS1";
/// Between two looks at whether the machine has ended.
const POLL: Duration = Duration::from_millis(50);

/// What to boot.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// The kernel.
    pub(crate) kernel: &'a Path,
    /// Its first file system.
    pub(crate) initramfs: &'a Path,
    /// MiB of memory; taken from this machine only as it is used.
    pub(crate) memory: u32,
    /// Where the console goes.
    pub(crate) console: PathBuf,
    /// How long it may run.
    pub(crate) deadline: Duration,
}

impl Machine<'_> {
    /// Boots it and waits until it has powered itself off. What comes by the port for results goes to the file
    /// `result`, which holds only that, whatever goes wrong.
    pub(crate) fn run(&self, result: &Path) -> Result<()> {
        fs::write(result, "").with_context(|| format!("cannot write {}", result.display()))?;
        // A socket's path must be short, so it is not below the project.
        let folder = tempfile::tempdir().context("cannot make a folder for a socket")?;
        let socket = folder.path().join("root");
        let _root = share_root(&socket)?;
        let mut qemu = cmd::tied("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-nodefaults", "-no-user-config"]);
        qemu.args(["-display", "none", "-no-reboot", "-monitor", "none"]);
        // virtiofsd reads and writes the machine's memory, which therefore is a shared one.
        let memory = self.memory;
        qemu.args(["-m", &format!("{memory}M"), "-numa", "node,memdev=memory", "-object"]);
        qemu.arg(format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
        qemu.args(["-chardev", &format!("socket,id=root,path={}", socket.display())]);
        qemu.args(["-device", &format!("vhost-user-fs-pci,chardev=root,tag={ROOT_TAG}")]);
        qemu.args(["-serial", &format!("file:{}", self.console.display())]);
        qemu.args(["-serial", &format!("file:{}", result.display())]);
        qemu.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        // A panic ends the machine at once.
        qemu.args(["-append", "console=ttyS0 panic=-1 loglevel=5"]);
        let mut machine = Guarded::spawn(qemu.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let status = wait(&mut machine, self.deadline)?;
        let console = self.console.display();
        let status = status.with_context(|| {
            format!("the machine has not ended within {:?}; its console is {console}", self.deadline)
        })?;
        ensure!(status.success(), "qemu failed: {status}; the console is {console}");
        Ok(())
    }
}

/// The status of a child that ends within `limit`.
pub(crate) fn wait(child: &mut Guarded, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        match child.child().try_wait().context("cannot wait for a child")? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= deadline => return Ok(None),
            None => thread::sleep(POLL),
        }
    }
}

/// Serves this machine's root at a socket, to one machine and as long as that lives.
fn share_root(socket: &Path) -> Result<Guarded> {
    let Some((program, arguments)) = setup::virtiofsd() else { bail!("virtiofsd is not installed") };
    // It gets the listening socket itself, so that nobody has to wait until it listens.
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot bind {}", socket.display()))?;
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass a socket on")?;
    let mut command = cmd::tied(program);
    command.arg(format!("--fd={}", listener.as_raw_fd()));
    command.args(arguments);
    // Its messages are about its own doing and come also when all is well.
    Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_not_waited_for_beyond_the_deadline() {
        let mut child = Guarded::spawn(cmd::tied("sleep").arg("1000")).unwrap();
        assert_eq!(wait(&mut child, Duration::from_millis(1)).unwrap(), None);
        let mut child = Guarded::spawn(cmd::tied("sh").args(["-c", "exit 3"])).unwrap();
        let status = wait(&mut child, Duration::from_secs(60)).unwrap();
        assert_eq!(status.and_then(|status| status.code()), Some(3));
    }
}
