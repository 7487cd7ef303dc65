//! Running other programs: cargo from the workspace's root, children that must not outlive us, and
//! the root-user check. Every command line that runs is printed first, so that a developer can
//! repeat it by hand. Failures name the program and its status; output is never swallowed.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::{Pid, Uid};

/// How long a child may take to end after SIGTERM before it is killed. The agent drains in well
/// under a second; a loaded two-core machine needs a margin.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a child that is ending; std has no wait with a deadline.
const END_POLL: Duration = Duration::from_millis(20);

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// The cargo that runs us, in the workspace's root. It is not told what package we are: build scripts that
/// depend on that (ring's) would run again, and all above them be compiled again, at each change between this
/// and a cargo started by hand.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    for (name, _) in env::vars_os() {
        let ours = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if ours {
            command.env_remove(name);
        }
    }
    command
}

/// Prints the command line, runs it with our own output, and fails unless it ends with status 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    quietly(command)
}

/// Runs without printing the command line; fails unless the status is 0.
pub(crate) fn quietly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    succeeded(status, command)
}

/// Runs quietly and gives what was printed on standard output; fails unless the status is 0.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    succeeded(output.status, command)?;
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// An error unless `status` is 0.
pub(crate) fn succeeded(status: ExitStatus, command: &Command) -> Result<()> {
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// The command line as a developer would type it, without paths to the program.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// An error unless we are root: the agent watches readers through fanotify and loads eBPF programs.
pub(crate) fn require_root(command: &str) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "`cargo xtask {command}` needs root, because the agent holds readers through fanotify and loads eBPF \
             programs. Run: sudo --preserve-env=PATH,HOME cargo xtask {command}"
        );
    }
    Ok(())
}

/// A command for a process that must not outlive us, even if we are killed: the kernel sends it SIGTERM
/// when its parent ends. setpriv(1), of util-linux, asks for that and becomes the program.
pub(crate) fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A child that ends with us: dropped, it gets SIGTERM, then SIGKILL.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
}

impl Guarded {
    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
        Ok(Self { child })
    }

    /// The child, for its pipes and its status.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// SIGTERM, then wait, then SIGKILL. Ending a child that has ended is no error.
    fn end(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        signal::kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        let deadline = Instant::now() + END_PATIENCE;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(END_POLL);
        }
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: child {} may still run: {error}", self.child.id());
        }
    }
}
