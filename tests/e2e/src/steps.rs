//! Stops a process right after one of its system calls, by strace(1): at a step that a test chose, whatever the machine
//! does meanwhile, and with no switch in the agent.
//!
//! Driven by tests that kill an agent in the middle of something. What was stopped stays so without strace, which is only
//! there from [`Step::of`] to [`Step::reached`].

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::agent::PATIENCE;
use crate::events::{Event, Events, text};
use crate::process::Process;

/// strace has all threads.
const ATTACHED: &str = " attached";
/// A process has stopped with all its threads.
const STOPPED: &str = "--- stopped by SIGSTOP ---";
/// So often a wait looks whether there is still something to wait for.
const GLANCE: Duration = Duration::from_millis(100);

/// A step that a process has not made yet.
#[derive(Debug)]
pub struct Step {
    strace: Process,
    said: Events,
}

/// How often something makes each of these system calls: the most of one thread.
pub fn counted(
    process: Pid,
    calls: &[&str],
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let (mut strace, said) = attach(process, &[format!("trace={}", calls.join(","))])?;
    work()?;
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in detach(&mut strace, &said)? {
        let (thread, line) = event
            .line()
            .strip_prefix("[pid")
            .and_then(|line| line.split_once("] "))
            .unwrap_or(("", event.line()));
        if let Some(call) =
            calls.iter().find(|call| line.strip_prefix(**call).is_some_and(|rest| rest.starts_with('(')))
        {
            *counts.entry(((*call).to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in counts {
        let entry: &mut usize = most.entry(call).or_default();
        *entry = count.max(*entry);
    }
    Ok(most)
}

/// Has strace trace a process, its threads, and what it starts.
fn attach(process: Pid, what: &[String]) -> anyhow::Result<(Process, Events)> {
    let mut command = Command::new("strace");
    command.arg("-f").args(what.iter().flat_map(|what| ["-e", what]));
    command.args(["-p", &process.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut strace = Process::spawn(&mut command).context("strace: run `cargo xtask setup`")?;
    let said = Events::collect(strace.child().stderr.take().context("what strace says")?);
    said.wait_for(ATTACHED, PATIENCE, |event| event.line().contains(ATTACHED))?;
    Ok((strace, said))
}

/// Leaves all alone: who is stopped stays so. What strace has said. It is killed, for else it would wait for each of its
/// processes to stop, which one that waits for its child (vfork(2)) never does.
fn detach(strace: &mut Process, said: &Events) -> anyhow::Result<Vec<Event>> {
    strace.signal(Signal::SIGKILL)?;
    strace.wait(PATIENCE)?;
    Ok(said.all(PATIENCE))
}

impl Step {
    /// The `nth` call of this system call from now on by one of the threads of a process, or of a process that it starts.
    pub fn of(process: Pid, call: &str, nth: usize) -> anyhow::Result<Self> {
        let what = [format!("trace={call}"), format!("inject={call}:signal=SIGSTOP:when={nth}")];
        attach(process, &what).map(|(strace, said)| Self { strace, said })
    }

    /// Waits for the step. Who has stopped there, with all its threads; none where what it is part of `is_over` without it.
    pub fn reached(mut self, is_over: impl Fn() -> bool) -> anyhow::Result<Option<Pid>> {
        let is_stop = |event: &Event| event.line().contains(STOPPED);
        while !is_over() && self.said.wait_for(STOPPED, GLANCE, is_stop).is_err() {
            ensure!(self.strace.is_running()?, "strace has ended:\n{}", text(&self.said.so_far()));
        }
        let said = detach(&mut self.strace, &self.said)?;
        let Some(stop) = said.iter().find(|event| is_stop(event)) else { return Ok(None) };
        let thread = stop.line().strip_prefix("[pid").and_then(|rest| rest.split_once(']'));
        let thread =
            thread.and_then(|(number, _)| number.trim().parse().ok()).with_context(|| text(&said))?;
        process_of(thread).map(Some)
    }
}

/// The process of a thread.
fn process_of(thread: i32) -> anyhow::Result<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let process = process.and_then(|number| number.trim().parse().ok());
    Ok(Pid::from_raw(process.with_context(|| format!("no process in {status}"))?))
}
