//! Rate limits: bounds from below are checked, since a loaded machine may always be slower.

use std::time::{Duration, Instant};

use oss_server::{Config, Fault, Object, Rule, Server};

use crate::client::{Client, PATIENCE, public_server};

const K: &str = "/test-bucket/k";

/// Seconds it takes `connections` clients to read `len` bytes each.
fn read(server: &Server, connections: usize, len: usize, headers: &[(&str, &str)]) -> f64 {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut client = Client::connect(server);
                let range = format!("bytes=0-{}", len - 1);
                let all = [&[("Range", range.as_str())], headers].concat();
                assert_eq!(client.request("GET", K, &all).body.len(), len);
            });
        }
    });
    begin.elapsed().as_secs_f64()
}

#[test]
fn limits_hold_for_all_each_and_one() {
    let config = |rate, connection_rate| Config { public: true, rate, connection_rate, ..Config::default() };
    for (rate, connection_rate, headers, least) in [
        // 400 kB in all at 2 MB/s.
        (2_000_000, 0, &[][..], 0.2),
        // 100 kB on each connection at 500 kB/s.
        (0, 500_000, &[], 0.2),
        // 100 kB at 819200 bit/s.
        (0, 0, &[("x-oss-traffic-limit", "819200")], 0.97),
    ] {
        let server = Server::start(config(rate, connection_rate)).unwrap();
        server.put("k", Object::tiled(1, 1 << 20));
        let seconds = read(&server, 4, 100_000, headers);
        // The first piece is free, and late wake-ups are caught up with.
        assert!(seconds > least - 0.03, "{seconds} s for {rate} {connection_rate} {headers:?}");
    }
}

#[test]
fn a_drip_slows_its_reply_only() {
    let server = public_server();
    server.put("k", Object::tiled(1, 1 << 20));
    server.faults().add(Rule::new(Fault::Drip { rate: 100_000 }).nth(1));
    assert!(read(&server, 1, 20_000, &[]) > 0.17);
    assert!(server.log().wait_idle(PATIENCE));
    let entry = server.log().entries().remove(0);
    assert!(entry.ended.unwrap() - entry.started > Duration::from_millis(170));
}

#[test]
fn a_new_limit_frees_those_who_wait_under_the_old_one() {
    let server = public_server();
    server.put("k", Object::tiled(1, 1 << 20));
    for change in [Server::set_rate, Server::set_connection_rate] {
        change(&server, 1);
        let mut client = Client::connect(&server);
        client.send("GET", K, &[], "");
        client.read_head().unwrap();
        assert!(server.log().wait(PATIENCE, |entries| !entries.is_empty()));
        change(&server, 0);
        assert_eq!(client.read(1 << 20).unwrap().len(), 1 << 20);
    }
}

#[test]
fn a_senseless_traffic_limit_is_refused() {
    let server = public_server();
    server.put("k", Object::bytes("x"));
    let mut client = Client::connect(&server);
    for limit in ["0", "819199", "838860801", "fast"] {
        let reply = client.request("GET", K, &[("x-oss-traffic-limit", limit)]);
        assert_eq!((reply.status(), reply.code().as_str()), (400, "InvalidArgument"), "{limit}");
    }
}
