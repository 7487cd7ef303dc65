//! The program given behind `--`: held before its first instruction until the probes watch it, sent the
//! agent's signals, and waited for. Driven by `agent`, which starts it once the files are visible, and by
//! `trace`. That it cannot be started is the caller's error to tell.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::spawn::spawn_held;

/// Added to the signal's number in the status of a program that a signal ended, as shells do.
const SIGNALLED: i32 = 128;

/// The running program.
#[derive(Debug)]
pub struct Command {
    pid: Pid,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
}

impl Command {
    /// Starts the program that `words` name, if any, without these variables of the environment; `watch` is called with its pid before it runs.
    ///
    /// # Errors
    /// Those of [`spawn_held`], and of starting a thread.
    pub fn start(
        words: &[OsString],
        without: &[&str],
        watch: impl FnOnce(u32) + Send,
    ) -> io::Result<Option<Self>> {
        let Some((program, arguments)) = words.split_first() else { return Ok(None) };
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        for variable in without {
            command.env_remove(variable);
        }
        let mut child = spawn_held(&mut command, watch)?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidData)?);
        tracing::info!(program = %program.to_string_lossy(), pid = pid.as_raw(), "command started");
        let (sender, ended) = oneshot::channel();
        // A thread rather than tokio's process support: the child is spawned by `sys`, held.
        std::thread::Builder::new().name("ossc-command".into()).spawn(move || {
            super::privileges::keep_only(super::privileges::NONE);
            // The receiver is gone only when the agent is ending anyway.
            drop(sender.send(child.wait()));
        })?;
        Ok(Some(Self { pid, ended }))
    }

    /// Takes over a child of this process that it started before it executed itself anew.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn adopt(pid: u32) -> io::Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidData)?);
        let (sender, ended) = oneshot::channel();
        std::thread::Builder::new().name("ossc-command".into()).spawn(move || {
            drop(sender.send(wait(pid)));
        })?;
        Ok(Self { pid, ended })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Waits for its end; the status as a shell would give it.
    pub async fn ended(&mut self) -> u8 {
        let status = match (&mut self.ended).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                tracing::error!(%error, "the command's status is lost");
                return u8::MAX;
            }
            Err(_) => return u8::MAX,
        };
        let code = status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(1);
        tracing::info!(status = code, "command ended");
        u8::try_from(code).unwrap_or(u8::MAX)
    }

    /// Passes a signal on. A SIGINT typed at a terminal reaches the command by itself, being in the same
    /// foreground process group.
    pub fn forward(&self, signal: Signal) {
        if signal == Signal::SIGINT && io::stdin().is_terminal() {
            return;
        }
        if let Err(error) = kill(self.pid, signal) {
            tracing::debug!(%error, %signal, "signal not passed on: the command has ended");
        }
    }
}

/// The end of a child that the standard library does not know.
fn wait(pid: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
