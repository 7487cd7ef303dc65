//! Asks a running agent for its state as others do: by its own commands, over its HTTP port, and with a browser.
//!
//! Driven by the tests of what is shown. Each request is a connection of its own, read to its end.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::agent::{Agent, Build, PATIENCE};
use crate::process::Process;

/// What the agent says of its port.
const SERVED: &str = "the state of the load is served";
/// Virtual milliseconds that a page may take: it is drawn within its first look at the agent.
const PAGE_TIME: &str = "--virtual-time-budget=3000";

/// The port of an agent that was started with `--http`.
pub fn port(agent: &Agent) -> anyhow::Result<SocketAddr> {
    let event = agent.wait_for(SERVED)?;
    let address = event.field("address").and_then(Value::as_str).context("no address")?;
    address.parse().context("the address")
}

/// Sends these bytes and takes what comes: status, head and body.
pub fn exchange(port: SocketAddr, request: &[u8]) -> anyhow::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(port)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let reply = String::from_utf8(reply).context("the reply is no text")?;
    let (head, body) = reply.split_once("\r\n\r\n").with_context(|| format!("no reply: {reply:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, head.to_owned(), body.to_owned()))
}

/// Asks for a path; the body if it was found.
pub fn get(port: SocketAddr, path: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {port}\r\n\r\n");
    let (status, head, body) = exchange(port, request.as_bytes())?;
    ensure!(status == 200, "{path}: {head}");
    Ok(body)
}

/// The status as the port tells it.
pub fn status(port: SocketAddr) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&get(port, "/status.json")?)?)
}

/// Each sample of the metrics by its name and labels, as they are written.
pub fn metrics(port: SocketAddr) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = get(port, "/metrics")?;
    ensure!(text.ends_with("# EOF\n"), "the metrics have no end: {text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
            Ok((name.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?))
        })
        .collect()
}

/// Runs a task of the agent's program on this model directory.
pub fn run(model_dir: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(Build::UnderTest.binary()?);
    command.env_clear().env("MODEL_DIR", model_dir).args(arguments).stdin(Stdio::null());
    command.output().with_context(|| format!("run ossc-agent {arguments:?}"))
}

/// What a page is when its scripts have run, as the browser writes it. `home`: where the browser keeps its things.
pub fn page(port: SocketAddr, home: &Path) -> anyhow::Result<String> {
    let mut command = Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom", PAGE_TIME])
        .arg(format!("--user-data-dir={}", home.join("browser").display()))
        .arg(format!("http://{port}/"))
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut browser = Process::spawn(&mut command)
        .context("the page is looked at with chromium: run `cargo xtask setup`")?;
    let mut page = String::new();
    let mut output = browser.child().stdout.take().context("the browser's output")?;
    output.read_to_string(&mut page)?;
    let status = browser.wait(PATIENCE)?;
    ensure!(status.success(), "the browser ended with {status}: {page}");
    Ok(page)
}
