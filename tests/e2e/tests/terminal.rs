//! What people see at a terminal: a bar below whole log lines, and the status drawn again and again in one place. Python's
//! `pty` is the terminal, and passes on all that is written to it.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use e2e::agent::{Build, FILES_VISIBLE, PATIENCE, exit};
use e2e::events::Events;
use e2e::origin::shards;
use e2e::process::Process;
use e2e::python;
use e2e::reader::Outcome;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::Config;
use serde_json::Value;

use crate::{MIB, reading};

const SIZE: u64 = 24 * MIB;
/// Bytes a second: so slow that several frames are drawn while a reader waits.
const RATE: u64 = 8_000_000;
/// Runs its arguments in a terminal of its own, and ends with their status.
const TERMINAL: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(['sh', '-c', sys.argv[1], *sys.argv[2:]])))";
/// Of an administrator's usual width.
const WIDE: &str = "stty columns 100 rows 30 && exec \"$0\" \"$@\"";
/// Ends a part of the line that is drawn over by what follows: back to its start, or all of it wiped.
const OVER: [&str; 2] = ["\r", "\x1b[2K"];
/// The cursor goes to the top, and what is below it is wiped (console_codes(4)).
const TOP: &str = "\x1b[H";

fn site() -> anyhow::Result<Site> {
    Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(1, SIZE))
}

/// Everything that ever stood at the place where the bar is, oldest first.
fn frames(screen: &str) -> Vec<&str> {
    let parts = screen.split('\n').flat_map(|line| line.split(OVER[0]));
    parts.flat_map(|part| part.split(OVER[1])).collect()
}

#[test]
fn the_bar_moves_below_whole_log_lines_and_goes() -> anyhow::Result<()> {
    let site = site()?;
    let python = python::interpreter()?;
    let words = [python.as_os_str(), "-c".as_ref(), TERMINAL.as_ref(), WIDE.as_ref()];
    let start = site.start().through(words).variable("TERM", "xterm");
    let agent = start.argument("--exit-when-complete").start()?;
    agent.output().wait_for(FILES_VISIBLE, PATIENCE, |event| event.line().contains(FILES_VISIBLE))?;
    let reader = reading("mmap-private", &site.copies()).at(0, SIZE).start(&site.targets())?;
    let outcome = reader.finish(PATIENCE)?;
    ensure!(outcome == Outcome::Right, "{outcome:?}");
    let ended = agent.finish()?;
    ended.expect(exit::OK)?;
    let screen = ended.output;
    let frames = frames(&screen);
    let bars: Vec<_> = frames.iter().filter(|frame| frame.contains("/24.00 MiB")).collect();
    ensure!(bars.len() > 2 && bars.first() != bars.last(), "{screen:?}");
    ensure!(bars.iter().any(|bar| bar.contains("1 readers waiting")), "{bars:?}");
    ensure!(bars.iter().all(|bar| bar.chars().count() <= 100), "{bars:?}");
    // A bar that tears a log line leaves no JSON.
    let lines: Vec<Value> = frames.iter().filter_map(|frame| serde_json::from_str(frame).ok()).collect();
    let messages: Vec<_> = lines
        .iter()
        .filter_map(|line| line["fields"]["message"].as_str().or(line["message"].as_str()))
        .collect();
    ensure!(messages.contains(&FILES_VISIBLE) && messages.contains(&"all files complete"), "{screen:?}");
    let torn: Vec<_> =
        frames.iter().filter(|frame| frame.contains('{') && !frame.trim_end().ends_with('}')).collect();
    ensure!(torn.is_empty(), "{torn:?}");
    // What stands there last is no bar.
    let last = bars.last().context("a bar")?;
    let after = screen.rsplit_once(**last).map(|(_, after)| after).context("the last bar")?;
    ensure!(OVER.iter().any(|over| after.starts_with(over)), "{after:?}");
    site.check_files()
}

#[test]
fn a_watched_status_is_drawn_in_one_place() -> anyhow::Result<()> {
    let site = site()?;
    let agent = site.start().argument("--exit-when-complete").start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let mut command = Command::new(python::interpreter()?);
    command.args(["-c", TERMINAL, WIDE]).arg(Build::UnderTest.binary()?).args(["status", "--watch"]);
    command
        .env("MODEL_DIR", site.model_dir())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut watching = Process::spawn(&mut command)?;
    let screen = Events::collect(watching.child().stdout.take().context("its output")?);
    agent.finish()?.expect(exit::OK)?;
    ensure!(watching.wait(PATIENCE)?.success());
    let screen = e2e::events::text(&screen.all(PATIENCE));
    let frames: Vec<_> = screen.split(TOP).skip(1).collect();
    ensure!(frames.len() > 2 && frames.iter().all(|frame| frame.contains("24.0 MiB")), "{screen:?}");
    ensure!(screen.contains("the agent has ended"), "{screen:?}");
    site.check_files()
}
