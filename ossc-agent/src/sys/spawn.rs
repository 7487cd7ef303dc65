//! Starts a program that is held before its first instruction, so that the probes can be told of it in
//! time, and that has the limit of open descriptors this process was started with. Driven by
//! `command`; a program that cannot be executed gives the usual error of a spawn.

use std::io::{self, Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Sent instead of a pid when there was no child to send one.
const NO_CHILD: u32 = 0;

/// Spawns `command`; `on_pid` runs with its pid after fork(2) and before execve(2).
///
/// # Errors
/// Those of [`Command::spawn`], and of pipe(2).
pub fn spawn_held(command: &mut Command, on_pid: impl FnOnce(u32) + Send) -> io::Result<Child> {
    let (mut pids, mut report) = pipe()?;
    let (mut go, mut release) = pipe()?;
    let mut end = report.try_clone()?;
    let hold = move || {
        super::process::restore_open_files()?;
        super::privileges::restore_core()?;
        report.write_all(&std::process::id().to_ne_bytes())?;
        go.read_exact(&mut [0])
    };
    // SAFETY: between fork and exec the closure only calls setrlimit(2), getpid(2), write(2) and read(2) on descriptors
    // made before the fork: all are async-signal-safe, and nothing is allocated.
    unsafe { command.pre_exec(hold) };
    std::thread::scope(|scope| {
        let releaser = scope.spawn(move || -> io::Result<()> {
            let mut pid = [0; size_of::<u32>()];
            pids.read_exact(&mut pid)?;
            match u32::from_ne_bytes(pid) {
                NO_CHILD => Ok(()),
                pid => {
                    on_pid(pid);
                    release.write_all(&[1])
                }
            }
        });
        // Returns only after the child's execve, which needs the release.
        let child = command.spawn();
        // Wakes the releaser where no child did; where one did, it has closed its end and nobody listens.
        end.write_all(&NO_CHILD.to_ne_bytes()).ok();
        match releaser.join() {
            Ok(Ok(())) => child,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the thread that releases the command panicked")),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_pid_is_known_before_the_program_runs() {
        let seen = AtomicU32::new(0);
        let mut command = Command::new("true");
        let mut child = spawn_held(&mut command, |pid| seen.store(pid, Ordering::SeqCst)).unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), child.id());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_missing_program_is_an_error_and_not_a_hang() {
        let error = spawn_held(&mut Command::new("/nonexistent/program"), |_| {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
