//! A child process that cannot outlive its handle, and whose end can be waited for with a deadline.
//!
//! Driven by `agent` and `reader`. The child leads a process group of its own, so that whatever it started goes
//! with it. Dropping the handle kills the group and reaps the child; when the test process is killed, the kernel kills
//! the child.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::sys;

/// A running or ended child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts the command in a process group of its own.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = sys::die_with_parent(command)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, ended: None })
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id()).context("process id")?))
    }

    /// Sends a signal to the child alone, not to what it started.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        ensure!(self.ended.is_none(), "the process has ended, {signal} cannot be sent");
        kill(self.pid()?, signal).with_context(|| format!("send {signal}"))
    }

    /// Waits until it ends, at most `limit`; an error when it has not by then.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let handle = sys::pidfd_open(self.pid()?).context("pidfd_open")?;
        let timeout = PollTimeout::try_from(limit).context("deadline")?;
        let ready = poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout).context("poll")?;
        ensure!(ready > 0, "process {} has not ended within {limit:?}", self.child.id());
        let status = self.child.wait().context("wait")?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("wait")?;
        }
        Ok(self.ended.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group may still have members after the child itself was reaped; an empty one gives ESRCH.
        if let Ok(pid) = self.pid() {
            killpg(pid, Signal::SIGKILL).ok();
        }
        if self.ended.is_none() {
            self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_waited_for_with_a_deadline() {
        let mut process = Process::spawn(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        assert_eq!(process.wait(Duration::from_secs(60)).unwrap().code(), Some(7));
        let mut process = Process::spawn(Command::new("sleep").arg("1000")).unwrap();
        assert!(process.wait(Duration::from_millis(1)).is_err());
        assert!(process.is_running().unwrap());
    }

    #[test]
    fn a_dropped_process_takes_its_children_along() {
        use std::io::Read;
        let (mut out, into) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000"]).stdout(into);
        drop(Process::spawn(&mut command).unwrap());
        drop(command);
        // The pipe ends only when every process that holds its writing end is gone.
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
    }
}
