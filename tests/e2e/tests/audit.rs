//! The audit log has a line for each request, which says what the server saw, and no rotation loses or tears one.
//!
//! The server's request log is the witness; lines and entries are brought together by the request's id.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::{PREFIX, shards};
use e2e::python;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use nix::sys::signal::Signal;
use oss_server::{Config, End, Entry, Fault, Operation, Rule};
use serde_json::Value;

use crate::MIB;

/// Bytes a second: a load of a few seconds, within which there is time for rotations.
const RATE: u64 = 40_000_000;
/// What the agent says when it goes on with another file.
const REOPENED: &str = "log file reopened";

/// The lines of an audit log, each of them whole.
fn lines(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("torn: {line}"))).collect()
}

fn error(status: u16, code: &str) -> Fault {
    Fault::Error { status, code: code.to_owned() }
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Get => "get",
        Operation::Head => "head",
        Operation::List => "list",
        _ => "another",
    }
}

/// Whether each request that the server answered has one line, with the same facts, and other lines are of requests
/// that failed.
fn compare(lines: &[Value], entries: &[Entry]) -> anyhow::Result<()> {
    let mut by_id = BTreeMap::new();
    for line in lines {
        ensure!(line.get("lost").is_none(), "{line}");
        let Some(id) = line["request_id"].as_str() else {
            ensure!(line["error"].is_string(), "no request id: {line}");
            continue;
        };
        ensure!(by_id.insert(id, line).is_none(), "twice: {line}");
    }
    for entry in entries.iter().filter(|entry| entry.end == End::Complete) {
        let line = by_id.remove(entry.request_id.as_str()).with_context(|| format!("no line: {entry:?}"))?;
        let fits = line["operation"] == word(entry.operation)
            && line["key"] == entry.key.as_str()
            && line["range"].as_str() == entry.range_header.as_deref()
            && line["status"] == entry.status
            && line["bytes"] == entry.sent
            && line["local"] == entry.peer.to_string()
            && line["code"].as_str() == entry.code.as_deref()
            && line.get("error").is_some() == (entry.status >= 400)
            && line["attempt"].as_u64() > Some(0)
            && (line["operation"] == "get") == line["lane"].is_string();
        ensure!(fits, "{line} is not what the server saw: {entry:?}");
        let (time, took) = (line["time"].as_str().unwrap_or_default(), line["duration_ms"].as_f64());
        ensure!(time.len() == "2026-01-02T03:04:05.678Z".len() && time.ends_with('Z'), "{line}");
        ensure!(took.is_some_and(|took| took >= 0.0), "{line}");
    }
    ensure!(by_id.is_empty(), "requests that the server never saw: {by_id:?}");
    Ok(())
}

#[test]
fn agrees_with_the_server() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(3, 16 * MIB + 5))?;
    let faults = site.origin().server().faults();
    faults.add(Rule::new(error(500, "InternalError")).operation(Operation::Get).nth(2));
    faults.add(Rule::new(error(503, "ServiceUnavailable")).operation(Operation::List).nth(1));
    let path = site.state_dir().join("audit.log");
    let agent = site.start().option("--audit-path", &path).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    ensure!(fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600, "others may read it");
    let log = site.origin().server().log();
    ensure!(log.wait_idle(PATIENCE));
    let (lines, entries) = (lines(&path)?, log.entries());
    compare(&lines, &entries)?;
    let again = |line: &&Value| line["attempt"] == 2;
    ensure!(lines.iter().filter(again).count() == 2, "both errors were tried again: {lines:?}");
    let bytes = |line: &Value| line["bytes"].as_u64().filter(|_| line["status"] == 206).unwrap_or(0);
    ensure!(lines.iter().map(bytes).sum::<u64>() == site.origin().size(), "{lines:?}");
    let text = fs::read_to_string(&path)?;
    for secret in [oss_server::ACCESS_KEY_SECRET, oss_server::ACCESS_KEY_ID, "ignature", "uthorization"] {
        ensure!(!text.contains(secret), "{secret} is in the audit log");
    }
    Ok(())
}

/// What was requested of objects so far: enough for a rotation to have lines before it and behind it.
fn wait_requests(site: &Site, count: usize) -> anyhow::Result<()> {
    let done = |entries: &[Entry]| entries.iter().filter(|entry| entry.status == 206).count() >= count;
    ensure!(site.origin().server().log().wait(PATIENCE, done), "no {count} requests");
    Ok(())
}

#[test]
fn survives_renames() -> anyhow::Result<()> {
    let config = Config { rate: RATE, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(32, 4 * MIB + 5))?;
    let (path, log) = (site.state_dir().join("audit.log"), site.state_dir().join("agent.log"));
    // The keeper writes to the log as well.
    let start = site.start().option("--audit-path", &path).option("--log-path", &log);
    let mut agent = start.start()?;
    let rotated = |name: &str, nth: usize| site.state_dir().join(format!("{name}.log.{nth}"));
    for nth in 1..4 {
        wait_requests(&site, nth * 6)?;
        fs::rename(&path, rotated("audit", nth))?;
        fs::rename(&log, rotated("agent", nth))?;
        agent.process().signal(Signal::SIGHUP)?;
        until(|| Ok(path.exists() && log.exists()))?;
    }
    until(|| Ok(fs::read_to_string(&log)?.contains(ALL_COMPLETE)))?;
    agent.stop()?.expect(exit::OK)?;
    ensure!(site.origin().server().log().wait_idle(PATIENCE));
    let mut all = Vec::new();
    for nth in 1..4 {
        all.extend(lines(&rotated("audit", nth))?);
    }
    all.extend(lines(&path)?);
    compare(&all, &site.origin().server().log().entries())?;
    let mut text = String::new();
    for nth in 1..4 {
        lines(&rotated("agent", nth))?;
        text += &fs::read_to_string(rotated("agent", nth))?;
    }
    lines(&log)?;
    text += &fs::read_to_string(&log)?;
    for message in [FILES_VISIBLE, ALL_COMPLETE, REOPENED] {
        ensure!(text.contains(message), "{message} is lost: {text}");
    }
    ensure!(text.matches("file complete").count() == 32, "{text}");
    Ok(())
}

#[test]
fn survives_copies_that_are_truncated() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(16, 4 * MIB + 5))?;
    let path = site.state_dir().join("audit.log");
    // What is written between copy and truncation is lost by this kind of rotation, whoever writes (logrotate(8)); so
    // nothing is: the server holds its replies meanwhile.
    let stall = Fault::Stall { after: None, time: None };
    let held = site.origin().server().faults().add(Rule::new(stall).operation(Operation::Get).skip(4));
    let agent = site.start().option("--audit-path", &path).start()?;
    // The file is there a moment after the start.
    until(|| Ok(path.exists() && lines(&path)?.iter().filter(|line| line["status"] == 206).count() == 4))?;
    let copy = site.state_dir().join("audit.log.1");
    fs::copy(&path, &copy)?;
    fs::File::options().write(true).open(&path)?.set_len(0)?;
    held.release();
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    ensure!(site.origin().server().log().wait_idle(PATIENCE));
    let all = [lines(&copy)?, lines(&path)?].concat();
    compare(&all, &site.origin().server().log().entries())
}

/// Looks again and again until a file is as it should be.
fn until(mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn is_reopened_beside_a_command() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(2, 8 * MIB))?;
    let path = site.state_dir().join("audit.log");
    let script = "
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
print('ready', flush=True)
assert signal.sigwait({signal.SIGHUP}) == signal.SIGHUP
print('hung up', flush=True)
signal.sigwait({signal.SIGTERM})
";
    let python = python::interpreter()?;
    let command = [python.as_os_str(), "-c".as_ref(), script.as_ref()];
    let mut agent = site.start().option("--audit-path", &path).command(command).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.output().wait_for("ready", PATIENCE, |line| line.line() == "ready")?;
    let old = site.state_dir().join("audit.log.1");
    fs::rename(&path, &old)?;
    agent.process().signal(Signal::SIGHUP)?;
    agent.wait_for(REOPENED)?;
    agent.output().wait_for("hung up", PATIENCE, |line| line.line() == "hung up")?;
    ensure!(lines(&path)?.is_empty() && lines(&old)?.iter().any(|line| line["key"] == PREFIX));
    agent.process().signal(Signal::SIGTERM)?;
    agent.finish()?.expect(exit::OK)
}
