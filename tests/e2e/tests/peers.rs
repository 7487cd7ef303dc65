//! Many nodes read OSS about once: what the server sent in all is about one model, and every node has every byte.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, Build, FILES_VISIBLE, PATIENCE, Start, exit};
use e2e::asking;
use e2e::cluster::Cluster;
use e2e::evil::{Evil, Sums};
use e2e::origin::shards;
use e2e::scratch::Scratch;
use e2e::turn;
use nix::sys::signal::Signal;
use oss_server::Config;
use serde_json::Value;

use crate::MIB;

/// Said at the end of a load with peers, with what came from where.
pub(crate) const WHERE_FROM: &str = "where the bytes came from";

/// Starts an agent on every node, waits until all have everything, ends them, and compares the bytes.
fn load_everywhere(cluster: &Cluster, start: impl Fn(u8) -> Start) -> anyhow::Result<()> {
    let agents: Vec<Agent> =
        cluster.nodes().map(|node| start(node).start()).collect::<anyhow::Result<_>>()?;
    for agent in &agents {
        agent.wait_for(ALL_COMPLETE)?;
    }
    for agent in agents {
        agent.stop()?.expect(exit::OK)?;
    }
    cluster.nodes().try_for_each(|node| cluster.check(node))
}

fn check_sent(cluster: &Cluster, percent: u64) -> anyhow::Result<()> {
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!(sent >= size, "{sent} bytes sent of a model of {size}");
    ensure!(sent <= size * percent / 100, "{sent} bytes sent of a model of {size}, {} %", sent * 100 / size);
    Ok(())
}

/// A server that is slower than the exchange among nodes.
pub(crate) fn origin() -> Config {
    Config { rate: 100_000_000, ..Config::default() }
}

#[test]
fn two_nodes_read_the_model_once() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(2, origin(), shards(3, 64 * MIB + 77))?;
    load_everywhere(&cluster, |node| cluster.start(node))?;
    check_sent(&cluster, 110)
}

#[test]
fn eight_nodes_read_the_model_once() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(8, origin(), shards(2, 96 * MIB + 5))?;
    load_everywhere(&cluster, |node| cluster.start(node))?;
    check_sent(&cluster, 110)
}

#[test]
fn each_zone_reads_the_model_once() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(4, origin(), shards(2, 48 * MIB + 5))?;
    let zone = |node| if node % 2 == 0 { "even" } else { "odd" };
    load_everywhere(&cluster, |node| cluster.start(node).option("--peers-zone", zone(node)))?;
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!(sent >= 2 * size && sent <= size * 220 / 100, "{sent} bytes sent of two models of {size}");
    Ok(())
}

/// A number that an agent shows.
fn number(json: &Value, path: &str) -> anyhow::Result<u64> {
    json.pointer(path).and_then(Value::as_u64).with_context(|| format!("no {path}: {json}"))
}

/// Each other node is named, with its part of what went between this one and all of them.
fn check_nodes(cluster: &Cluster, node: u8, json: &Value) -> anyhow::Result<()> {
    let nodes = json["peers"]["nodes"].as_array().context("no nodes")?;
    let mut named: Vec<_> = nodes.iter().filter_map(|node| node["name"].as_str()).collect();
    named.sort_unstable();
    let others = cluster.nodes().filter(|other| *other != node).map(|other| format!("n{other}"));
    ensure!(named == others.collect::<Vec<_>>(), "node {node}: {json}");
    ensure!(nodes.iter().all(|node| node["state"] == "there"), "{json}");
    let sum = |field: &str| nodes.iter().filter_map(|node| node[field].as_u64()).sum::<u64>();
    let [received, served] =
        ["received", "served"].map(|total| number(json, &format!("/peers/bytes/{total}")));
    ensure!(sum("received_bytes") == received?, "{json}");
    // Who asks before this node has heard of it is not told apart.
    let served = served?;
    ensure!(sum("served_bytes") <= served && (sum("served_bytes") > 0) == (served > 0), "{json}");
    let asked = number(json, "/peers/requests/owner")? + number(json, "/peers/requests/holder")?;
    ensure!(sum("requests") == asked, "{asked} requests: {json}");
    Ok(())
}

/// The page names each other node, with the bytes that the JSON says, and the counts.
fn check_page(shown: &str, json: &Value) -> anyhow::Result<()> {
    for node in json["peers"]["nodes"].as_array().context("no nodes")? {
        let (received, served) = (number(node, "/received_bytes")?, number(node, "/served_bytes")?);
        let name = node["name"].as_str().context("no name")?;
        let row = format!("data-node=\"{name}\" data-received=\"{received}\" data-served=\"{served}\"");
        ensure!(shown.contains(&row), "{row} is not on the page: {shown}");
    }
    let [owner, holder, redirected] =
        ["owner", "holder", "redirected"].map(|count| number(json, &format!("/peers/requests/{count}")));
    for (name, value) in [
        ("There now", "2".to_owned()),
        ("Asked of owners, of others", format!("{}, {}", owner?, holder?)),
        ("Sent on to another node", redirected?.to_string()),
    ] {
        let shows = format!("<dt>{name}</dt><dd>{value}</dd>");
        ensure!(shown.contains(&shows), "{shows} is not on the page: {shown}");
    }
    for name in ["From OSS as owner", "From OSS in place of owners", "From OSS because peers did not give it"]
    {
        ensure!(shown.contains(&format!("<dt>{name}</dt><dd>")), "{name} is not on the page: {shown}");
    }
    Ok(())
}

/// The audit log has each request to a peer, and the bytes that came by them.
fn check_audit(cluster: &Cluster, node: u8, path: &Path, json: &Value) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).context("the audit log")?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (to_peers, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["operation"] == "peer");
    ensure!(others.iter().all(|line| line.get("peer").is_none()) && !others.is_empty(), "{text}");
    let mut received = 0;
    for line in &to_peers {
        let who = line["peer"].as_str().context("no peer")?;
        ensure!(cluster.nodes().any(|other| other != node && who == format!("n{other}")), "{line}");
        let file = cluster.origin().files().iter().find(|file| line["key"] == file.key());
        let file = file.with_context(|| format!("no such object: {line}"))?;
        let range = line["range"].as_str().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (first, last) = range.with_context(|| format!("no range: {line}"))?;
        let (first, last): (u64, u64) = (first.parse()?, last.parse()?);
        ensure!(first % (2 * MIB) == 0 && last < file.size, "{line}");
        ensure!(line["duration_ms"].as_f64().is_some() && line["attempt"].as_u64() > Some(0), "{line}");
        let (bytes, is_whole) =
            (number(line, "/bytes")?, line["status"] == 200 && line.get("error").is_none());
        ensure!(bytes == if is_whole { last - first + 1 } else { 0 }, "{line}");
        received += bytes;
    }
    ensure!(received == number(json, "/peers/bytes/received")?, "{received} in the log: {json}");
    let asked = number(json, "/peers/requests/owner")? + number(json, "/peers/requests/holder")?;
    ensure!(to_peers.len() as u64 == asked, "{} lines of {asked} requests", to_peers.len());
    Ok(())
}

/// Compares what the agents of a load that is over show with each other and with what the server sent.
fn compare(cluster: &Cluster, agents: &[Agent]) -> anyhow::Result<()> {
    let (mut asked, mut received, mut served) = (0, 0, 0);
    for (node, agent) in cluster.nodes().zip(agents) {
        let port = asking::port(agent)?;
        let (json, metrics) = (asking::status(port)?, asking::metrics(port)?);
        ensure!(number(&json, "/peers/members")? == 2 && number(&json, "/peers/quarantined")? == 0, "{json}");
        for why in ["own", "stand_in", "escape", "alone", "again"] {
            let bytes = number(&json, &format!("/peers/bytes/{why}"))?;
            let metric = metrics.get(&format!("ossc_peer_origin_bytes_total{{why=\"{why}\"}}"));
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let same = metric.copied() == Some(bytes as f64);
            ensure!(same, "{why}: {bytes} and {metric:?}");
            asked += bytes;
        }
        let (from_peers, to_peers) =
            (number(&json, "/peers/bytes/received")?, number(&json, "/peers/bytes/served")?);
        check_nodes(cluster, node, &json)?;
        received += from_peers;
        served += to_peers;
        let text = asking::run(&cluster.model_dir(node), &["status"])?;
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        ensure!(text.contains("2 peers, 0 in quarantine"), "{text}");
    }
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    // A node asks for the first byte of a file whose checksum it has not seen, on top.
    ensure!((asked..=asked + 6).contains(&sent), "{sent} bytes sent, {asked} asked for");
    ensure!(received == served, "{received} received, {served} served");
    ensure!(asked + received == 3 * size, "{asked} asked for, {received} received of 3 times {size}");
    Ok(())
}

#[test]
fn what_is_shown_of_peers_is_what_the_server_saw() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(3, origin(), shards(2, 48 * MIB + 9))?;
    let logs = Scratch::directory()?;
    let log = |node: u8| logs.path().join(format!("audit-{node}"));
    let start = |node| {
        let named =
            cluster.start(node).option("--peers-node", format!("n{node}")).option("--block-size", "2M");
        named.option("--http", "127.0.0.1:0").option("--audit-path", log(node)).start()
    };
    let agents: Vec<Agent> = cluster.nodes().map(start).collect::<anyhow::Result<_>>()?;
    for agent in &agents {
        agent.wait_for(WHERE_FROM)?;
    }
    // A sender has counted a block a moment after it arrived.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = compare(&cluster, &agents) {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {error:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let first = agents.first().context("no agents")?;
    let (port, home) = (asking::port(first)?, Scratch::directory()?);
    check_page(&asking::page(port, home.path())?, &asking::status(port)?)?;
    for (node, agent) in cluster.nodes().zip(agents) {
        let json = asking::status(asking::port(&agent)?)?;
        agent.stop()?.expect(exit::OK)?;
        check_audit(&cluster, node, &log(node), &json)?;
    }
    Ok(())
}

/// Names of a process's threads.
fn threads(pid: u64) -> anyhow::Result<Vec<String>> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).context("its threads")?;
    // One may end meanwhile.
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    Ok(names.map(|name| name.trim().to_owned()).collect())
}

#[test]
fn nothing_of_peers_is_there_without_them() -> anyhow::Result<()> {
    let _turn = turn::take();
    // The same model by the same steps: without a word on peers, and with sharing that nobody else takes part in. One
    // block a file and one connection: how large requests are does not depend on the speed, nor their order on luck.
    let mut asked = Vec::new();
    for is_sharing in [false, true] {
        let cluster = Cluster::new(1, Config::default(), shards(8, 4 * MIB))?;
        let start = if is_sharing { cluster.start(0) } else { cluster.without_peers(0) };
        let start = start.option("--threads", "1").option("--connections", "1").option("--block-size", "4M");
        let agent = start.option("--http", "127.0.0.1:0").start()?;
        agent.wait_for(ALL_COMPLETE)?;
        let port = asking::port(&agent)?;
        let (json, metrics) = (asking::status(port)?, asking::metrics(port)?);
        ensure!(json["peers"].is_null() != is_sharing, "{json}");
        ensure!(metrics.keys().any(|name| name.starts_with("ossc_peer")) == is_sharing, "{metrics:?}");
        let threads = threads(number(&json, "/agent/pid")?)?;
        ensure!(threads.iter().any(|name| name == "ossc-peer") == is_sharing, "{threads:?}");
        agent.stop()?.expect(exit::OK)?;
        cluster.check(0)?;
        check_sent(&cluster, 100)?;
        let entries = cluster.origin().server().log().entries();
        let requests = entries.into_iter().map(|entry| (entry.operation, entry.key, entry.range_header));
        asked.push(requests.collect::<Vec<_>>());
    }
    ensure!(asked[0] == asked[1], "OSS is asked for other things: {asked:#?}");
    Ok(())
}

/// Runs `ossc-agent peers ...`.
fn make(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(Build::UnderTest.binary()?).arg("peers").args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn certificates_let_nodes_in_and_keep_others_out() -> anyhow::Result<()> {
    let _turn = turn::take();
    let keys = Scratch::directory()?;
    let path = |name: &str| keys.path().join(name).display().to_string();
    make(&["init-ca", "--cluster", "blue", "--dir", &path("ca")])?;
    make(&["init-ca", "--cluster", "blue", "--dir", &path("other-ca")])?;
    let cluster = Cluster::new(3, origin(), shards(2, 48 * MIB))?;
    for node in ["n0", "n1"] {
        make(&["issue", "--node", node, "--dir", &path("ca"), "--out", &path(node)])?;
    }
    // The third one has a certificate that another authority issued for the same names.
    make(&["issue", "--node", "n2", "--dir", &path("other-ca"), "--out", &path("n2")])?;
    load_everywhere(&cluster, |node| {
        let name = format!("n{node}");
        let file = |file: &str| keys.path().join(&name).join(file);
        cluster
            .secured(node)
            .option("--peers-cluster", "blue")
            .option("--peers-node", &name)
            .option("--peers-ca", file("ca.pem"))
            .option("--peers-cert", file(&format!("{name}.pem")))
            .option("--peers-key", file(&format!("{name}-key.pem")))
    })?;
    // Two read it together, the third one alone.
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!((2 * size..=2 * size + size / 5).contains(&sent), "{sent} bytes sent of a model of {size}");
    Ok(())
}

#[test]
fn a_shared_key_lets_nodes_in_and_keeps_others_out() -> anyhow::Result<()> {
    let _turn = turn::take();
    let keys = Scratch::directory()?;
    let key = |name: &str, content: &str| {
        let path = keys.path().join(name);
        std::fs::write(&path, content).context("write the key")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).context("protect the key")?;
        anyhow::Ok(path)
    };
    let (right, wrong) =
        (key("right", "a key of more than sixteen bytes")?, key("wrong", "another key of more bytes")?);
    let cluster = Cluster::new(3, origin(), shards(2, 48 * MIB))?;
    load_everywhere(&cluster, |node| {
        cluster.secured(node).option("--peers-psk-file", if node < 2 { &right } else { &wrong })
    })?;
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!((2 * size..=2 * size + size / 5).contains(&sent), "{sent} bytes sent of a model of {size}");
    Ok(())
}

#[test]
fn peers_are_refused_without_a_word_on_security() -> anyhow::Result<()> {
    let cluster = Cluster::new(1, Config::default(), shards(1, MIB))?;
    let ended = cluster.secured(0).run()?;
    ended.expect(exit::USAGE)?;
    ensure!(
        ended.text().contains("--insecure-peers"),
        "the message does not say what to do: {}",
        ended.text()
    );
    Ok(())
}

#[test]
fn a_node_alone_reads_the_model_once() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(2, origin(), shards(1, 64 * MIB))?;
    let agent = cluster.start(0).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    cluster.check(0)?;
    check_sent(&cluster, 100)
}

#[test]
fn nodes_that_know_one_other_find_all() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(4, origin(), shards(2, 64 * MIB))?;
    // Everybody knows the first one, which knows nobody.
    let seed = cluster.address(0).to_string();
    load_everywhere(&cluster, |node| {
        let start = cluster.start(node).variable("OSSC_PEERS", if node == 0 { "" } else { &seed });
        start.option("--peers-discovery", "gossip")
    })?;
    // The first one has begun alone by the time the others have heard of it.
    check_sent(&cluster, 150)
}

/// A node beside a peer that sends zeros: what it must have at the end, and say.
fn beside_evil(sums: Sums, percent: u64) -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(2, origin(), shards(2, 64 * MIB))?;
    let evil = Evil::start(cluster.address(1), cluster.address(0), sums)?;
    let agent = cluster.start(0).option("--block-size", "2M").option("--peers-discovery", "list").start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    ensure!(evil.sent() > 0, "the peer was never asked: {}", ended.text());
    ensure!(ended.text().contains("nothing is taken from it any more"), "{}", ended.text());
    cluster.check(0)?;
    check_sent(&cluster, percent)
}

#[test]
fn blocks_that_are_not_what_their_checksum_says_change_nothing() -> anyhow::Result<()> {
    beside_evil(Sums::Wrong, 100)
}

#[test]
fn blocks_that_are_wrong_with_a_fitting_checksum_are_found_and_read_again() -> anyhow::Result<()> {
    beside_evil(Sums::Fitting, 200)
}

#[test]
fn a_reader_does_not_wait_for_a_peer_that_does_not_answer() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(3, origin(), shards(2, 64 * MIB))?;
    let start = |node| cluster.start(node).option("--block-size", "2M").option("--peers-discovery", "list");
    let first = start(0).start()?;
    first.wait_for(ALL_COMPLETE)?;
    let silent = Evil::start(cluster.address(1), cluster.address(0), Sums::Silent)?;
    let second = start(2).start()?;
    second.wait_for(FILES_VISIBLE)?;
    cluster.check(2)?;
    second.wait_for(ALL_COMPLETE)?;
    let counts = second.wait_for(WHERE_FROM)?;
    let hedged = counts.field("hedged").and_then(Value::as_u64);
    ensure!(hedged > Some(0), "no second peer was asked: {}", counts.line());
    ensure!(silent.sent() > 0, "the silent peer was never asked");
    for agent in [first, second] {
        agent.stop()?.expect(exit::OK)?;
    }
    // Once the model, and one byte of each file: with that OSS tells the second node the checksum.
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!((size..=size + 2).contains(&sent), "{sent} bytes sent of a model of {size}");
    Ok(())
}

#[test]
fn a_peer_whose_blocks_never_end_holds_nobody_up() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(2, origin(), shards(2, 64 * MIB))?;
    let evil = Evil::start(cluster.address(1), cluster.address(0), Sums::Trickling)?;
    let agent = cluster.start(0).option("--block-size", "2M").option("--peers-discovery", "list").start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    ensure!(evil.sent() > 0, "the peer was never asked: {}", ended.text());
    cluster.check(0)?;
    check_sent(&cluster, 100)
}

#[test]
fn a_load_goes_on_when_a_node_dies() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(4, origin(), shards(2, 96 * MIB))?;
    let mut agents: Vec<Agent> =
        cluster.nodes().map(|node| cluster.start(node).start()).collect::<anyhow::Result<_>>()?;
    cluster.origin().wait_sent(cluster.origin().size() / 4, PATIENCE)?;
    let mut dead = agents.remove(1);
    dead.process().signal(Signal::SIGKILL)?;
    dead.process().wait(PATIENCE)?;
    for agent in &agents {
        agent.wait_for(ALL_COMPLETE)?;
    }
    for agent in agents {
        agent.stop()?.expect(exit::OK)?;
    }
    [0, 2, 3].into_iter().try_for_each(|node| cluster.check(node))?;
    check_sent(&cluster, 150)
}
