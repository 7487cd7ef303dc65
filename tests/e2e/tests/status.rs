//! What people and machines are shown of a load whose rate is limited: the command, the page, its JSON, the metrics and the
//! audit log say the same, and what they say is what the server saw.
//!
//! One connection, so that each byte is asked for once; the server holds its replies where a moment is to stand still.

use std::fs;
use std::io::{BufRead as _, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, READER_HELD, Start, exit};
use e2e::asking::{self, exchange, metrics, page, port, run, status};
use e2e::cluster::Cluster;
use e2e::origin::shards;
use e2e::process::Process;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::{Config, End, Entry, Fault, Operation, Rule, RuleHandle};
use serde_json::Value;

use crate::MIB;

/// Bytes a second: a load of a few seconds.
const RATE: u64 = 40_000_000;
/// Bytes of each of the three files.
const SHARD: u64 = 32 * MIB + 5;
/// Requests of ranges that are answered before the server holds its replies.
const FREE: u64 = 6;
/// The answer to `status` and its like where there is no agent.
const NO_AGENT: i32 = 9;

fn site() -> anyhow::Result<Site> {
    Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(3, SHARD))
}

fn start(site: &Site) -> Start {
    let slow = site.start().option("--threads", "1").option("--connections", "1");
    slow.option("--http", "127.0.0.1:0").option("--block-size", "2M").option("--audit-path", audit_log(site))
}

fn audit_log(site: &Site) -> PathBuf {
    site.state_dir().join("audit.log")
}

/// Ranges that came whole, as the audit log has them: how many, and their bytes.
fn audited(site: &Site) -> anyhow::Result<(u64, u64)> {
    let (mut requests, mut bytes) = (0, 0);
    for line in fs::read_to_string(audit_log(site))?.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if line["operation"] == "get" && line["status"] == 206 && line.get("error").is_none() {
            requests += 1;
            bytes += line["bytes"].as_u64().with_context(|| format!("no bytes: {line}"))?;
        }
    }
    Ok((requests, bytes))
}

/// Holds replies from some request on.
fn hold(site: &Site) -> RuleHandle<'_> {
    let stall = Fault::Stall { after: None, time: None };
    site.origin().server().faults().add(Rule::new(stall).operation(Operation::Get).skip(FREE))
}

/// A process that reads a file from its start, and is held.
fn reader(site: &Site, agent: &Agent, shard: usize) -> anyhow::Result<Process> {
    let targets = site.targets();
    let mut command = Command::new("cat");
    command.arg(targets[shard].path()).stdin(Stdio::null()).stdout(Stdio::null());
    let reader = Process::spawn(&mut command)?;
    agent.wait_for(READER_HELD)?;
    Ok(reader)
}

/// A load that stands still half-way, with a reader of the last file held.
struct HalfWay<'s> {
    held: RuleHandle<'s>,
    agent: Agent,
    port: SocketAddr,
    reader: Process,
}

impl<'s> HalfWay<'s> {
    fn of(site: &'s Site) -> anyhow::Result<Self> {
        let held = hold(site);
        let agent = start(site).start()?;
        let port = port(&agent)?;
        ensure!(held.wait_held(1, PATIENCE), "no reply was held");
        let reader = reader(site, &agent, 2)?;
        Ok(Self { held, agent, port, reader })
    }

    /// Goes on to the end, of the reader too.
    fn go_on(&mut self) -> anyhow::Result<()> {
        self.held.release();
        self.agent.wait_for(ALL_COMPLETE)?;
        ensure!(self.reader.wait(PATIENCE)?.success());
        Ok(())
    }
}

/// Ranges that the server sent whole: how many, and their bytes.
fn seen(site: &Site) -> (u64, u64) {
    let whole = |entry: &Entry| {
        entry.operation == Operation::Get && entry.status == 206 && entry.end == End::Complete
    };
    let entries = site.origin().server().log().select(whole);
    (entries.len() as u64, entries.iter().map(|entry| entry.sent).sum())
}

/// A number of a JSON document, by the way to it.
fn number(json: &Value, path: &str) -> anyhow::Result<f64> {
    json.pointer(path).and_then(Value::as_f64).with_context(|| format!("no number {path}: {json}"))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Looks again until what is shown is what the server saw. The server notes the end of a reply a moment after the agent
/// has it, and the agent has bytes a moment after they were sent.
fn agrees(site: &Site, port: SocketAddr) -> anyhow::Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match compare(site, port) {
            Ok(status) => return Ok(status),
            Err(error) => ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {error:#}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn compare(site: &Site, port: SocketAddr) -> anyhow::Result<Value> {
    let (requests, sent) = seen(site);
    let audited = audited(site)?;
    ensure!(audited == (requests, sent), "{audited:?} in the audit log of {requests} requests, {sent} bytes");
    let output = run(&site.model_dir(), &["status", "--json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout)?;
    for json in [&told, &status(port)?] {
        ensure!(number(json, "/version")? == 1.0);
        ensure!(number(json, "/sources/0/received_bytes")? == float(sent), "{sent} bytes were sent: {json}");
        ensure!(number(json, "/bytes/ready")? == float(sent), "{sent} bytes were sent: {json}");
        ensure!(number(json, "/bytes/total")? == float(site.origin().size()), "{json}");
        let files = json["files"].as_array().context("no files")?;
        let ready: f64 = files.iter().map(|file| file["ready"].as_f64().unwrap_or(-1.0)).sum();
        ensure!(ready == float(sent), "{json}");
    }
    let metrics = metrics(port)?;
    let metric = |name: &str| metrics.get(name).copied().with_context(|| format!("no {name} in {metrics:?}"));
    let got = metric("ossc_requests_total{operation=\"get\",status=\"206\",code=\"\"}")?;
    ensure!(got == float(requests), "{requests} requests were answered, not {got}");
    for (name, path) in [
        ("ossc_received_bytes_total{source=\"oss\",nic=\"routes\"}", "/sources/0/received_bytes"),
        ("ossc_ready_bytes", "/bytes/ready"),
        ("ossc_model_bytes", "/bytes/total"),
        ("ossc_files_complete", "/files_complete"),
        ("ossc_blocks_ready", "/blocks/ready"),
        ("ossc_readers_held", "/readers/held"),
        ("ossc_lane_blocks_total{lane=\"demand\"}", "/lanes/0/begun_blocks"),
        ("ossc_lane_queued_blocks{lane=\"demand\"}", "/lanes/0/queued_blocks"),
        ("ossc_lane_blocks_total{lane=\"background\"}", "/lanes/2/begun_blocks"),
        ("ossc_lane_queued_blocks{lane=\"background\"}", "/lanes/2/queued_blocks"),
        ("ossc_first_accesses_total{result=\"miss\"}", "/foresight/misses"),
    ] {
        let (shown, told) = (metric(name)?, number(&told, path)?);
        ensure!(shown == told, "{name} is {shown}, {path} is {told}");
    }
    let answered = number(&told, "/readers/held_total")? - number(&told, "/readers/held")?;
    ensure!(metric("ossc_reader_hold_seconds_count")? == answered, "{answered} readers were let go");
    Ok(told)
}

#[test]
fn agrees_with_the_server_and_with_itself() -> anyhow::Result<()> {
    let site = site()?;
    let mut load = HalfWay::of(&site)?;
    let port = load.port;
    let status = agrees(&site, port)?;
    ensure!(status["state"] == "loading" && number(&status, "/bytes/ready")? > 0.0, "{status}");
    let waiting = &status["readers"]["waiting"][0];
    let pid = load.reader.pid()?.as_raw();
    ensure!(waiting["pid"] == pid && waiting["program"] == "cat" && waiting["start"] == 0, "{status}");
    ensure!(waiting["file"] == site.origin().files()[2].name.as_str(), "{status}");
    ensure!(status["files"][2]["blocks"].as_str().is_some_and(|blocks| blocks.contains('h')), "{status}");
    ensure!(number(&status, "/lanes/0/queued_blocks")? > 0.0, "a reader waits: {status}");
    let text = run(&site.model_dir(), &["status"])?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(text.contains("READERS THAT WAIT: 1") && text.contains(&format!("cat ({pid})")), "{text}");
    load.go_on()?;
    let status = agrees(&site, port)?;
    ensure!(status["state"] == "complete" && number(&status, "/eta_seconds")? == 0.0, "{status}");
    ensure!(number(&status, "/bytes/ready")? == float(site.origin().size()), "{status}");
    ensure!(number(&status, "/readers/held")? == 0.0 && number(&status, "/readers/denied_total")? == 0.0);
    let lanes = status["lanes"].as_array().context("no lanes")?;
    let sum = |name: &str| lanes.iter().filter_map(|lane| lane[name].as_f64()).sum::<f64>();
    ensure!(
        sum("begun_blocks") >= number(&status, "/blocks/total")? && sum("queued_blocks") == 0.0,
        "{status}"
    );
    for file in status["files"].as_array().context("no files")? {
        ensure!(file["state"] == "complete" && file["blocks"] == "o17", "{file}");
    }
    names_are_known(port)?;
    load.agent.stop()?.expect(exit::OK)?;
    // What is there at the next start is told apart from what came.
    let agent = start(&site).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let status = asking::status(asking::port(&agent)?)?;
    ensure!(status["files"][0]["blocks"] == "c17" && status["gate"].is_null(), "{status}");
    ensure!(number(&status, "/bytes/at_start")? == float(site.origin().size()), "{status}");
    agent.stop()?.expect(exit::OK)?;
    let output = run(&site.model_dir(), &["status"])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(NO_AGENT) && error.contains("no agent serves"), "{error}");
    Ok(())
}

/// Every metric that the dashboard and the alerts name is there.
fn names_are_known(port: SocketAddr) -> anyhow::Result<()> {
    let metrics = metrics(port)?;
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    for file in ["grafana/ossc.json", "prometheus/alerts.yaml"] {
        let text = fs::read_to_string(packaging.join(file)).with_context(|| file.to_owned())?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<_> = words.filter(|word| word.starts_with("ossc_")).collect();
        ensure!(!names.is_empty(), "{file} names no metric");
        for name in names {
            let is_there = |sample: &String| sample.split('{').next() == Some(name);
            ensure!(
                metrics.keys().any(is_there),
                "{file} names {name}, which is not among {:?}",
                metrics.keys()
            );
        }
    }
    Ok(())
}

#[test]
fn what_peers_sent_is_told_apart() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(2, Config { rate: RATE, ..Config::default() }, shards(2, SHARD))?;
    let first = cluster.start(0).start()?;
    first.wait_for(ALL_COMPLETE)?;
    let second = cluster.start(1).option("--http", "127.0.0.1:0").start()?;
    second.wait_for(ALL_COMPLETE)?;
    let port = port(&second)?;
    let status = status(port)?;
    ensure!(status["sources"][1]["source"] == "peer" && status["sources"][1]["nic"].is_null(), "{status}");
    let from_peers = number(&status, "/sources/1/received_bytes")?;
    ensure!(from_peers > 0.0 && from_peers <= float(cluster.origin().size()), "{status}");
    let files = status["files"].as_array().context("no files")?;
    let has = |file: &Value, letter| file["blocks"].as_str().is_some_and(|blocks| blocks.contains(letter));
    ensure!(files.iter().any(|file| has(file, 'p')) && !files.iter().any(|file| has(file, 'c')), "{status}");
    let sample = "ossc_received_bytes_total{source=\"peer\",nic=\"\"}";
    ensure!(metrics(port)?.get(sample) == Some(&from_peers), "{status}");
    second.stop()?.expect(exit::OK)?;
    first.stop()?.expect(exit::OK)
}

#[test]
fn the_page_shows_it_in_a_browser() -> anyhow::Result<()> {
    let site = site()?;
    let mut load = HalfWay::of(&site)?;
    let port = load.port;
    let told = agrees(&site, port)?;
    let shown = page(port, site.state_dir())?;
    // Nothing moves: the page shows the same bytes.
    for file in told["files"].as_array().context("no files")? {
        let (name, ready) = (file["name"].as_str().context("no name")?, number(file, "/ready")?);
        let row = format!("data-name=\"{name}\" data-state=\"loading\" data-ready=\"{ready}\"");
        ensure!(shown.contains(&row), "{row} is not on the page: {shown}");
    }
    let held = format!("<dt>Readers held now</dt><dd>{}</dd>", number(&told, "/readers/held")?);
    ensure!(shown.contains(&held), "{held} is not on the page: {shown}");
    let pid = load.reader.pid()?.to_string();
    for words in [
        "data-state=\"loading\"",
        &site.origin().path(),
        ">cat<",
        &pid,
        "from OSS",
        "a reader waits for it",
        "missing",
    ] {
        ensure!(shown.contains(words), "{words} is not on the page: {shown}");
    }
    for file in site.origin().files() {
        ensure!(shown.contains(&format!("{}: of 17 blocks ", file.name)), "{}: {shown}", file.name);
    }
    load.go_on()?;
    let shown = page(port, site.state_dir())?;
    for words in ["body data-state=\"complete\"", "of 17 blocks 17 from OSS", "data-ready=\"33554437\""] {
        ensure!(shown.contains(words), "{words} is not on the page: {shown}");
    }
    load.agent.stop()?.expect(exit::OK)
}

#[test]
fn only_looking_is_open_to_others_and_only_by_our_names() -> anyhow::Result<()> {
    let site = site()?;
    let agent = start(&site).start()?;
    let port = port(&agent)?;
    agent.wait_for(FILES_VISIBLE)?;
    for (request, expected) in [
        ("GET /status.json HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: evil.example:80\r\n\r\n", 421),
        ("GET /metrics HTTP/1.0\r\n\r\n", 421),
        ("GET /status.json HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
        ("POST /cancel HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        ("POST /prefetch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na", 405),
        ("GET /cancel HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("\x16\x03\x01 no HTTP\r\n\r\n", 400),
        (&format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 << 10)), 431),
    ] {
        // What the server refuses it need not read; its refusal may be lost with the rest.
        let is_long = request.len() > 1 << 10;
        match exchange(port, request.as_bytes()) {
            Ok((status, head, _)) => ensure!(status == expected, "{head} for {request:?}"),
            Err(error) => ensure!(is_long, "{request:?}: {error:#}"),
        }
    }
    let (_, head, _) = exchange(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    ensure!(head.to_lowercase().contains("content-security-policy: default-src 'none'"), "{head}");
    // Those who say nothing take no more than their places.
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(port)).collect::<Result<_, _>>()?;
    for mut stream in &silent {
        // The server may have closed it.
        stream.write_all(b"GET").ok();
    }
    ensure!(run(&site.model_dir(), &["status"])?.status.success(), "the socket has places of its own");
    drop(silent);
    let deadline = Instant::now() + PATIENCE;
    while status(port).is_err() {
        ensure!(Instant::now() < deadline, "places do not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Another user cannot even reach the socket.
    let binary = e2e::agent::Build::UnderTest.binary()?;
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary).arg("status");
    let output = stranger.env("MODEL_DIR", site.model_dir()).output()?;
    ensure!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    let ended = site.start().option("--http", "0.0.0.0:0").run()?;
    ended.expect(exit::USAGE)?;
    ensure!(ended.text().contains("--http-remote"), "{}", ended.text());
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let ended = site.start().option("--http", taken.local_addr()?.to_string()).run()?;
    ended.expect(exit::USAGE)
}

#[test]
fn probes_and_watchers_hear_it_by_the_exit_status() -> anyhow::Result<()> {
    let site = site()?;
    let dir = site.model_dir();
    let ready = |how_far| run(&dir, &["status", "--ready", how_far]);
    ensure!(ready("visible")?.status.code() == Some(NO_AGENT));
    let mut load = HalfWay::of(&site)?;
    ensure!(ready("visible")?.status.success());
    let output = ready("complete")?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(NO_AGENT) && error.contains("not complete"), "{error}");
    let begin = |words: &[&str]| -> anyhow::Result<Process> {
        let mut command = Command::new(e2e::agent::Build::UnderTest.binary()?);
        command.env_clear().env("MODEL_DIR", &dir).args(words).stdin(Stdio::null());
        Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    };
    let mut waiting = begin(&["status", "--ready", "complete", "--wait"])?;
    let mut watching = begin(&["status", "--watch", "--json"])?;
    let mut first = String::new();
    let output = watching.child().stdout.take().context("its output")?;
    let mut output = std::io::BufReader::new(output);
    output.read_line(&mut first)?;
    ensure!(first.contains("\"version\":1"), "{first}");
    ensure!(waiting.is_running()?);
    load.go_on()?;
    ensure!(waiting.wait(PATIENCE)?.success() && ready("complete")?.status.success());
    load.agent.stop()?.expect(exit::OK)?;
    let (mut rest, mut error) = (String::new(), String::new());
    output.read_to_string(&mut rest)?;
    watching.child().stderr.take().context("its errors")?.read_to_string(&mut error)?;
    ensure!(watching.wait(PATIENCE)?.success() && error.contains("the agent has ended"), "{error}");
    // One that dies leaves its socket behind.
    let mut agent = start(&site).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let deadline = Instant::now() + PATIENCE;
    while !ready("visible")?.status.success() {
        ensure!(Instant::now() < deadline, "the agent does not answer");
    }
    agent.process().signal(nix::sys::signal::Signal::SIGKILL)?;
    agent.process().wait(PATIENCE)?;
    let output = run(&dir, &["status"])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(NO_AGENT) && error.contains("has died"), "{error}");
    Ok(())
}

#[test]
fn prefetch_comes_next_and_cancel_ends() -> anyhow::Result<()> {
    let site = site()?;
    let held = hold(&site);
    let agent = start(&site).start()?;
    ensure!(held.wait_held(1, PATIENCE), "no reply was held");
    let last = &site.origin().files()[2];
    let path = site.model_dir().join(&last.name);
    let output = run(&site.model_dir(), &["prefetch", path.to_str().context("a path")?])?;
    ensure!(output.status.success(), "{output:?}");
    let output = run(&site.model_dir(), &["prefetch", "no-such-file"])?;
    ensure!(output.status.code() == Some(NO_AGENT), "{output:?}");
    let output = run(&site.model_dir(), &["prefetch", "/etc/passwd"])?;
    ensure!(output.status.code() == Some(exit::USAGE), "{output:?}");
    held.release();
    // Of the first file some is asked for already, of the second one no more than what comes first of all files.
    agent.log().wait_for("the last file", PATIENCE, |event| {
        event.message() == "file complete" && event.field("file").and_then(Value::as_str) == Some(&last.name)
    })?;
    let output = run(&site.model_dir(), &["cancel"])?;
    ensure!(output.status.success(), "{output:?}");
    let ended = agent.finish()?;
    ended.expect(exit::OK)?;
    let complete = ended.log.iter().filter(|event| event.message() == "file complete");
    let mut complete = complete.filter_map(|event| event.field("file").and_then(Value::as_str));
    let second = site.origin().files()[1].name.as_str();
    ensure!(
        complete.find(|name| [second, &last.name].contains(name)) == Some(&last.name),
        "{}",
        ended.text()
    );
    let output = run(&site.model_dir(), &["cancel"])?;
    ensure!(output.status.code() == Some(NO_AGENT), "{output:?}");
    // Beside a command, whose end is the agent's, there is nothing to cancel.
    let agent = start(&site).command(["sleep", "1000"]).start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let deadline = Instant::now() + PATIENCE;
    while !run(&site.model_dir(), &["status"])?.status.success() {
        ensure!(Instant::now() < deadline, "the agent does not answer");
    }
    let output = run(&site.model_dir(), &["cancel"])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(NO_AGENT) && error.contains("command"), "{error}");
    drop(agent);
    Ok(())
}
