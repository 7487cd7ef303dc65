//! Runs the agent with its program and notes what both say and when. The program's words go straight
//! to the terminal; the agent's events are kept for the time line. When it fails, the events are
//! printed too, since they hold the reason.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::agent_log::Event;
use crate::cmd::{self, Guarded};

/// What is known after the agent has ended.
#[derive(Debug)]
pub(crate) struct Run {
    /// Just before the agent's process was made.
    pub(crate) started: Timestamp,
    /// The agent's log.
    pub(crate) events: Vec<Event>,
    /// The program's words.
    pub(crate) words: Vec<(Timestamp, String)>,
}

/// Runs `agent` to its end; fails unless its status is 0.
pub(crate) fn run(agent: &mut Command) -> Result<Run> {
    let started = Timestamp::now();
    let mut process =
        Guarded::spawn(agent.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let stdout = process.child().stdout.take().context("the agent has no standard output")?;
    let stderr = process.child().stderr.take().context("the agent has no standard error")?;
    // Two pipes, so two readers: one alone would let the other fill and stop the agent.
    let events = thread::spawn(move || read_events(BufReader::new(stderr)));
    let mut words = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what the program prints")?;
        println!("  {line}");
        words.push((Timestamp::now(), line));
    }
    let events = events.join().ok().context("the thread that reads the agent's log panicked")??;
    let status = process.child().wait().context("cannot wait for the agent")?;
    cmd::succeeded(status, agent).inspect_err(|_| events.iter().for_each(|event| eprintln!("  {event}")))?;
    Ok(Run { started, events, words })
}

/// Keeps events; passes on what the program says on standard error.
fn read_events(stderr: impl BufRead) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in stderr.lines() {
        let line = line.context("cannot read the agent's log")?;
        match Event::parse(&line) {
            Some(event) => events.push(event),
            None => eprintln!("  {line}"),
        }
    }
    Ok(events)
}
