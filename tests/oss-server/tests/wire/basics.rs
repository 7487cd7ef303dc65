//! Right answers: addressing, contents, errors, the log, TLS, start and stop.

use std::fs;
use std::net::TcpStream;

use oss_server::{Authorization, Config, End, Fault, Object, Operation, Rule, Server, synthetic};

use crate::client::{Client, PATIENCE, public_server};

#[test]
fn requests_share_a_connection_and_every_reply_has_the_common_headers() {
    let server = public_server();
    server.put("k", Object::bytes("content"));
    let mut client = Client::connect(&server);
    let mut ids = Vec::new();
    for (method, target, status) in [
        ("GET", "/test-bucket/k", 200),
        ("HEAD", "/test-bucket/k", 200),
        ("HEAD", "/test-bucket/k?objectMeta", 200),
        ("HEAD", "/test-bucket/missing", 404),
        ("GET", "/test-bucket/missing", 404),
        ("GET", "/test-bucket/?list-type=2&unknown=1", 200),
        ("GET", "/other/k", 404),
        ("PUT", "/test-bucket/k", 405),
        ("GET", "/", 405),
    ] {
        let reply = client.request(method, target, &[]);
        assert_eq!(reply.status(), status, "{method} {target}");
        assert_eq!(reply.head.header("server"), Some("AliyunOSS"));
        assert!(httpdate::parse_http_date(reply.head.header("date").unwrap()).is_ok());
        let id = reply.head.header("x-oss-request-id").unwrap().to_owned();
        assert!(id.len() == 24 && id.bytes().all(|byte| b"0123456789ABCDEF".contains(&byte)), "{id}");
        assert!(!ids.contains(&id));
        ids.push(id);
    }
    assert_eq!(server.log().connections(), 1);
    let entries = server.log().entries();
    assert_eq!(entries.len(), 9);
    let operations: Vec<Operation> = entries.iter().map(|entry| entry.operation).collect();
    use Operation::{Get, Head, List, Meta, Other};
    assert_eq!(operations, [Get, Head, Meta, Head, Get, List, Get, Other, Other]);
}

#[test]
fn errors_come_as_documents_or_in_a_header() {
    let server = public_server();
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/test-bucket/a").code(), "NoSuchKey");
    assert_eq!(client.request("HEAD", "/test-bucket/a", &[]).code(), "NoSuchKey");
    assert_eq!(client.get("/another/a").code(), "NoSuchBucket");
    assert_eq!(client.get("/test-bucket/").code(), "InvalidArgument");
    let named = [("Host", "oss-cn-hangzhou.aliyuncs.com")];
    assert_eq!(client.request("GET", "/test-bucket/a", &named).code(), "SecondLevelDomainForbidden");
    let reply = client.get("/test-bucket/a");
    assert_eq!(reply.head.header("content-type"), Some("application/xml"));
    assert_eq!(reply.head.header("x-oss-ec"), Some("0026-00000001"));
    assert!(reply.text().contains("<Key>a</Key>"));
}

#[test]
fn the_bucket_may_be_in_the_path_or_in_the_host_name() {
    let config =
        Config { public: true, custom_domains: vec!["models.example.com".to_owned()], ..Config::default() };
    let server = Server::start(config).unwrap();
    server.put("a/b c.bin", Object::bytes("x"));
    let mut client = Client::connect(&server);
    for (host, target) in [
        ("127.0.0.1", "/test-bucket/a/b%20c.bin"),
        ("localhost", "/test-bucket/a%2Fb%20c.bin"),
        ("test-bucket.oss-cn-hangzhou.aliyuncs.com", "/a/b%20c.bin"),
        ("test-bucket.localhost:1234", "/a%2Fb%20c.bin"),
        ("models.example.com", "/a/b%20c.bin"),
    ] {
        assert_eq!(client.request("GET", target, &[("Host", host)]).text(), "x", "{host}");
    }
    assert_eq!(server.log().count(|entry| entry.bucket == "test-bucket" && entry.key == "a/b c.bin"), 5);
}

#[test]
fn a_private_bucket_refuses_unsigned_requests() {
    let server = Server::start(Config::default()).unwrap();
    server.put("k", Object::bytes("x"));
    let reply = Client::connect(&server).get("/test-bucket/k");
    assert_eq!((reply.status(), reply.code().as_str()), (403, "AccessDenied"));
    let entry = server.log().entries().remove(0);
    assert_eq!((entry.status, entry.code.as_deref()), (403, Some("AccessDenied")));
    assert_eq!(entry.authorization, Authorization::Anonymous);
}

#[test]
fn every_kind_of_content_is_served_right() {
    const SIZE: usize = 3 << 20;
    let server = public_server();
    let mut bytes = vec![0; SIZE];
    synthetic::fill(9, 0, &mut bytes);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), &bytes).unwrap();
    assert_eq!(server.put_dir("dir/", dir.path()).unwrap(), 1);
    server.put("bytes", Object::bytes(bytes.clone()));
    server.put("computed", Object::synthetic(9, u64::try_from(SIZE).unwrap()));
    let mut client = Client::connect(&server);
    let mut checksums = Vec::new();
    for key in ["dir/sub/file", "bytes", "computed"] {
        let target = format!("/test-bucket/{key}");
        let whole = client.get(&target);
        assert!(whole.body == bytes, "{key}");
        checksums.push(whole.head.header("x-oss-hash-crc64ecma").unwrap().to_owned());
        for (first, last) in [(0, 0), (1, 4096), (1_048_575, 2_100_001), (SIZE - 1, SIZE - 1)] {
            let part = client.get_range(&target, &format!("bytes={first}-{last}"));
            assert_eq!(part.status(), 206);
            let place = format!("bytes {first}-{last}/{SIZE}");
            assert_eq!(part.head.header("content-range"), Some(place.as_str()));
            assert!(part.body == bytes[first..=last], "{key} {first}-{last}");
        }
    }
    assert!(checksums.iter().all(|checksum| *checksum == checksums[0]), "{checksums:?}");
}

#[test]
fn computed_objects_may_be_of_any_size() {
    const SIZE: u64 = 700 << 30;
    let server = public_server();
    server.put("computed", Object::synthetic(1, SIZE));
    server.put("tiled", Object::tiled(2, SIZE));
    let mut client = Client::connect(&server);
    // The second range crosses the end of a tile, wherever in it the object begins.
    for (first, len) in
        [(SIZE - 5, 5), (3 * synthetic::TILE - 77, synthetic::TILE / 16), (600 << 30, 100_003)]
    {
        let range = format!("bytes={first}-{}", first + len - 1);
        let body = client.get_range("/test-bucket/computed", &range).body;
        assert_eq!(synthetic::check(1, first, &body), None);
        let body = client.get_range("/test-bucket/tiled", &range).body;
        assert_eq!(
            (synthetic::check_tiled(2, first, &body), body.len()),
            (None, usize::try_from(len).unwrap())
        );
    }
    let head = |target: &str| Client::connect(&server).request("HEAD", target, &[]).head;
    assert!(head("/test-bucket/tiled").header("x-oss-hash-crc64ecma").is_some());
    assert!(head("/test-bucket/computed").header("x-oss-hash-crc64ecma").is_none());
}

#[test]
fn a_replaced_object_has_another_etag_and_the_old_one_no_longer_matches() {
    let server = public_server();
    server.put("k", Object::bytes("old"));
    let old = server.etag("k").unwrap();
    let mut client = Client::connect(&server);
    assert_eq!(client.request("GET", "/test-bucket/k", &[("If-Match", &old)]).text(), "old");
    server.put("k", Object::bytes("new"));
    let reply = client.request("GET", "/test-bucket/k", &[("If-Match", &old)]);
    assert_eq!((reply.status(), reply.code().as_str()), (412, "PreconditionFailed"));
    let reply = client.request("GET", "/test-bucket/k", &[("If-None-Match", &server.etag("k").unwrap())]);
    assert_eq!((reply.status(), reply.body.len()), (304, 0));
    assert!(server.delete("k"));
    assert_eq!(client.get("/test-bucket/k").status(), 404);
    assert_eq!(server.log().entries()[0].if_match, Some(old));
}

#[test]
fn listing_pages_can_be_kept_short() {
    let server = public_server();
    for number in 0..5 {
        server.put(&format!("k{number}"), Object::bytes("x"));
    }
    server.set_page_limit(Some(2));
    let mut client = Client::connect(&server);
    let mut keys = 0;
    let mut token = String::new();
    for _ in 0..3 {
        let target =
            format!("/test-bucket/?list-type=2&max-keys=1000&encoding-type=url&continuation-token={token}");
        let reply = client.get(&target);
        keys += reply.text().matches("<Key>").count();
        let next = reply.text().split_once("<NextContinuationToken>");
        token = next.map_or(String::new(), |(_, rest)| rest.split_once('<').unwrap().0.to_owned());
    }
    assert_eq!((keys, token.as_str()), (5, ""));
}

#[test]
fn the_log_file_has_a_line_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let config = Config { public: true, log_file: Some(path.clone()), keep_log: false, ..Config::default() };
    let server = Server::start(config).unwrap();
    server.put("k", Object::bytes("0123456789"));
    let mut client = Client::connect(&server);
    client.get_range("/test-bucket/k", "bytes=2-");
    client.get("/test-bucket/missing");
    drop(server);
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["key"], "k");
    assert_eq!(lines[0]["range"], serde_json::json!([2, 10]));
    assert_eq!((&lines[0]["status"], &lines[0]["sent"]), (&206.into(), &8.into()));
    assert_eq!((&lines[0]["end"], &lines[0]["operation"]), (&"complete".into(), &"get".into()));
    assert!(lines[0]["start_ns"].as_u64().unwrap() <= lines[0]["end_ns"].as_u64().unwrap());
    assert_eq!(lines[1]["code"], "NoSuchKey");
}

#[test]
fn tls_is_trusted_by_the_servers_own_authority() {
    let config =
        Config { public: true, tls: true, tls_names: vec!["oss.test".to_owned()], ..Config::default() };
    let server = Server::start(config).unwrap();
    server.put("computed", Object::synthetic(1, 3 << 20));
    server.put("tiled", Object::tiled(1, 3 << 20));
    assert!(server.endpoint().starts_with("https://127.0.0.1:"));
    for name in ["127.0.0.1", "localhost", "test-bucket.localhost", "oss.test"] {
        let mut client = Client::connect_tls(&server, name);
        let body = client.get("/test-bucket/computed").body;
        assert_eq!((synthetic::check(1, 0, &body), body.len()), (None, 3 << 20));
        let body = client.get_range("/test-bucket/tiled", "bytes=1000-").body;
        assert_eq!((synthetic::check_tiled(1, 1000, &body), body.len()), (None, (3 << 20) - 1000));
    }
}

#[test]
fn a_client_that_leaves_is_noticed() {
    let server = public_server();
    server.put("k", Object::tiled(1, 100 << 30));
    let mut client = Client::connect(&server);
    client.send("GET", "/test-bucket/k", &[], "");
    client.read_head().unwrap();
    drop(client);
    assert!(server.log().wait(PATIENCE, |entries| entries.iter().any(|entry| entry.end == End::Gone)));
    let entry = server.log().entries().remove(0);
    assert!(entry.sent < 100 << 30 && entry.ended.is_some());
}

#[test]
fn dropping_the_server_ends_everything_and_its_port_can_be_used_again() {
    // An address of its own: no other test can take the port in between.
    let listen = ([127, 0, 0, 77], 0).into();
    let server = Server::start(Config { listen, public: true, ..Config::default() }).unwrap();
    server.put("k", Object::tiled(1, 100 << 30));
    let rule = server.faults().add(Rule::new(Fault::Stall { after: None, time: None }).key("k").times(1));
    let address = server.address();
    let idle = TcpStream::connect(address).unwrap();
    let mut held = Client::connect(&server);
    held.send("GET", "/test-bucket/k", &[], "");
    assert!(rule.wait(1, PATIENCE));
    let mut blocked = Client::connect(&server);
    blocked.send("GET", "/test-bucket/k", &[], "");
    blocked.read_head().unwrap();
    drop(server);
    assert!(held.read_head().is_err());
    drop(idle);
    assert!(TcpStream::connect(address).is_err());
    let server = Server::start(Config { listen: address, public: true, ..Config::default() }).unwrap();
    assert_eq!(Client::connect(&server).get("/test-bucket/k").status(), 404);
}
