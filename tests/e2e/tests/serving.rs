//! The port on which a node answers others: what is not theirs is refused, whoever sends it, and peers are served on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, PATIENCE, exit};
use e2e::cluster::Cluster;
use e2e::origin::shards;
use e2e::scratch::Scratch;
use e2e::turn;
use oss_server::Config;

use crate::MIB;

/// The headers of every request: a cluster of the name that nodes take by themselves.
const NAMES: &str = "host: ossc\r\nx-ossc-cluster: ossc\r\nx-ossc-node: stranger\r\n";
/// An object that nobody has, well-formed.
const OBJECT: &str = "00112233445566778899aabbccddeeff";
/// Connections that send half a request and no more.
const HALF: usize = 200;

/// What the node answers to these bytes: a status.
fn answer(to: SocketAddr, request: &[u8]) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut reply = Vec::new();
    while !reply.windows(2).any(|end| end == b"\r\n") {
        let mut byte = [0];
        // It may close a connection on which bytes are left that it never read.
        ensure!(stream.read(&mut byte)? == 1, "closed without a reply");
        reply.push(byte[0]);
    }
    let line = String::from_utf8(reply)?;
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).context("no status line")?;
    status.parse().with_context(|| line.clone())
}

/// Requests that are odd, and the status that refuses them; the last two are not odd.
fn odd() -> Vec<(String, u16)> {
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\n{NAMES}{more}\r\n");
    let block = |object: &str, block: &str, more: &str| {
        get(&format!("/v1/o/{object}/b/{block}"), &format!("x-ossc-role: owner\r\n{more}"))
    };
    let named = |names: &str| format!("GET /v1/have HTTP/1.1\r\nhost: ossc\r\n{names}\r\n");
    let many: String = (0..40).map(|number| format!("x-more-{number}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(9 << 10));
    vec![
        // Objects and blocks that are not there.
        (block(OBJECT, "0", ""), 404),
        (block(OBJECT, "4294967295", ""), 404),
        (get(&format!("/v1/o/{OBJECT}/digests"), ""), 404),
        // Numbers that are none.
        (block(OBJECT, "4294967296", ""), 400),
        (block(OBJECT, "99999999999999999999999", ""), 400),
        (block(OBJECT, "-1", ""), 400),
        (block(OBJECT, "", ""), 400),
        (block(OBJECT, "0", "x-ossc-hop: 3\r\n"), 400),
        (block(OBJECT, "0", "x-ossc-hop: 18446744073709551616\r\n"), 400),
        // Ways out of the model.
        (block("..", "0", ""), 400),
        (block("%2e%2e%2f%2e%2e", "0", ""), 400),
        (get("/v1/o/../../../../etc/passwd", ""), 400),
        (get("/etc/passwd", ""), 400),
        (get("/v1/have/../o", ""), 400),
        (get("/v1/have\0", ""), 400),
        // Not what the protocol has.
        (block(OBJECT, "0", "").replace("x-ossc-role: owner\r\n", ""), 400),
        (get("/v1/have", "").replace("GET", "PUT"), 400),
        (get("/v1/have", "content-length: 5\r\n") + "12345", 400),
        (get("/v1/have", "transfer-encoding: chunked\r\n"), 400),
        (get("/v1/gossip", "content-length: 99999999999\r\n").replace("GET", "POST"), 400),
        (get("/v1/have", &many), 400),
        (get("/v1/have", &long), 400),
        ("\u{16}\u{3}\u{1} no HTTP at all\r\n\r\n".to_owned(), 400),
        // Names.
        (named("x-ossc-node: stranger\r\n"), 400),
        (named("x-ossc-cluster: ossc\r\n"), 400),
        (named(&format!("x-ossc-cluster: ossc\r\nx-ossc-node: {}\r\n", "a".repeat(5000))), 400),
        (named("x-ossc-cluster: ossc\r\nx-ossc-node: ../../n\r\n"), 400),
        (named("x-ossc-cluster: other\r\nx-ossc-node: stranger\r\n"), 403),
        (get("/v1/have", ""), 200),
        (get("/v1/have", "x-more: 1\r\n"), 200),
    ]
}

#[test]
fn odd_requests_and_halves_of_requests_are_refused_and_peers_are_served() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(2, Config::default(), shards(2, 24 * MIB + 5))?;
    let first = cluster.start(0).start()?;
    first.wait_for(ALL_COMPLETE)?;
    let to = cluster.address(0);
    for (request, status) in odd() {
        let shown: String = request.chars().take(200).collect();
        let got = answer(to, request.as_bytes()).with_context(|| format!("{shown:?}"))?;
        ensure!(got == status, "{shown:?} is answered with {got}, not {status}");
    }
    let halves: Vec<_> = (0..HALF)
        .map(|_| {
            let mut stream = TcpStream::connect(to)?;
            stream.write_all(format!("GET /v1/have HTTP/1.1\r\n{NAMES}").as_bytes())?;
            anyhow::Ok(stream)
        })
        .collect::<anyhow::Result<_>>()?;
    let second = cluster.start(1).start()?;
    second.wait_for(ALL_COMPLETE)?;
    drop(halves);
    for (node, agent) in cluster.nodes().zip([first, second]) {
        agent.stop()?.expect(exit::OK)?;
        cluster.check(node)?;
    }
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!(sent <= size + size / 10, "the peer was not served: {sent} bytes from OSS, of {size}");
    Ok(())
}

/// What was sent on each connection.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Passes connections on to a node, and keeps what was sent to it, connection by connection.
fn listen_in(to: SocketAddr) -> anyhow::Result<(SocketAddr, Heard)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, heard) = (listener.local_addr()?, Heard::default());
    let kept = Arc::clone(&heard);
    // It ends with the process of the test.
    thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let Ok(there) = TcpStream::connect(to) else { return };
            let (Ok(mut asked), Ok(mut asks)) = (stream.try_clone(), there.try_clone()) else { return };
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(Vec::new());
            let kept = Arc::clone(&kept);
            thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = asked.read(&mut piece) {
                    let bytes = piece.get(..length).unwrap_or_default();
                    if let Some(all) = kept.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
                        all.extend_from_slice(bytes);
                    }
                    if asks.write_all(bytes).is_err() {
                        return;
                    }
                }
                asks.shutdown(std::net::Shutdown::Write).ok();
            });
            let (mut from, mut back) = (there, stream);
            thread::spawn(move || {
                std::io::copy(&mut from, &mut back).ok();
                back.shutdown(std::net::Shutdown::Write).ok();
            });
        }
    });
    Ok((address, heard))
}

#[test]
fn a_request_with_a_shared_key_that_was_listened_in_on_is_of_no_use() -> anyhow::Result<()> {
    let _turn = turn::take();
    let keys = Scratch::directory()?;
    let key = keys.path().join("key");
    std::fs::write(&key, "a key of more than sixteen bytes")?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let cluster = Cluster::new(2, Config::default(), shards(1, 24 * MIB + 5))?;
    let start =
        |node| cluster.secured(node).option("--peers-psk-file", &key).option("--peers-discovery", "list");
    let first = start(0).start()?;
    first.wait_for(ALL_COMPLETE)?;
    let (by, heard) = listen_in(cluster.address(0))?;
    let second = start(1).variable("OSSC_PEERS", by.to_string()).start()?;
    second.wait_for(ALL_COMPLETE)?;
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let heads = heard.iter().filter_map(|sent| {
        let end = sent.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
        sent.get(..end).filter(|head| head.starts_with(b"GET "))
    });
    let heads: Vec<_> = heads.collect();
    ensure!(!heads.is_empty(), "nothing was heard");
    for head in heads {
        let got = answer(cluster.address(0), head)?;
        ensure!(got == 403, "sent again it is answered with {got}: {}", String::from_utf8_lossy(head));
        // The same proof for another question.
        let text = String::from_utf8(head.to_vec())?;
        let line = text.lines().next().context("no line")?;
        let other = text.replacen(line, &format!("GET /v1/o/{OBJECT}/digests HTTP/1.1"), 1);
        let got = answer(cluster.address(0), other.as_bytes())?;
        ensure!(got == 403, "with another question it is answered with {got}");
    }
    for agent in [second, first] {
        agent.stop()?.expect(exit::OK)?;
    }
    cluster.nodes().try_for_each(|node| cluster.check(node))?;
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!(
        sent <= size + size / 10,
        "nothing went by way of the listener: {sent} bytes from OSS, of {size}"
    );
    Ok(())
}
