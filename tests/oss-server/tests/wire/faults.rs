//! What each fault looks like to a client.

use std::time::Duration;

use oss_server::{End, Entry, Fault, Object, Operation, Rule, Server, synthetic};

use crate::client::{Client, PATIENCE, public_server};

const SIZE: u64 = 1 << 20;
const K: &str = "/test-bucket/k";

/// A public server with one computed object, and a connection to it.
fn with_object() -> (Server, Client) {
    let server = public_server();
    server.put("k", Object::synthetic(1, SIZE));
    let client = Client::connect(&server);
    (server, client)
}

fn right(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    synthetic::fill(1, offset, &mut bytes);
    bytes
}

#[test]
fn errors_of_every_code() {
    let (server, mut client) = with_object();
    for (status, code) in [
        (503, "ServiceUnavailable"),
        (503, "QpsLimitExceeded"),
        (503, "TotalQpsLimitExceeded"),
        (503, "MetaOperationQpsLimitExceeded"),
        (503, "DownloadTrafficRateLimitExceeded"),
        (503, "ActiveRequestLimitExceeded"),
        (500, "InternalError"),
        (403, "SecurityTokenExpired"),
        (403, "RequestTimeTooSkewed"),
        (403, "InvalidObjectState"),
        (400, "RequestTimeout"),
    ] {
        let rule = Rule::new(Fault::Error { status, code: code.to_owned() });
        let rule = server.faults().add(rule);
        for method in ["GET", "HEAD"] {
            let reply = client.request(method, K, &[]);
            assert_eq!((reply.status(), reply.code().as_str()), (status, code));
        }
        rule.remove();
    }
    assert_eq!(client.request("HEAD", K, &[]).status(), 200);
}

#[test]
fn the_range_can_be_ignored_or_misnamed() {
    let (server, mut client) = with_object();
    server.faults().add(Rule::new(Fault::FullBody).nth(1));
    server.faults().add(Rule::new(Fault::WrongRange { shift: 100 }).nth(2));
    let whole = client.get_range(K, "bytes=10-19");
    assert_eq!((whole.status(), whole.body.len(), whole.head.header("content-range")), (200, 1 << 20, None));
    let shifted = client.get_range(K, "bytes=10-19");
    assert_eq!(shifted.head.header("content-range"), Some("bytes 110-119/1048576"));
    assert_eq!(shifted.body, right(10, 10));
    assert_eq!(client.get_range(K, "bytes=10-19").head.header("content-range"), Some("bytes 10-19/1048576"));
}

#[test]
fn a_short_body_ends_exactly_there() {
    let (server, mut client) = with_object();
    for after in [0, 1, 70_000] {
        let rule = server.faults().add(Rule::new(Fault::Short { after }));
        client.send("GET", K, &[], "");
        assert_eq!(client.read_head().unwrap().length(), 1 << 20);
        let (body, error) = client.read_to_end();
        assert!(error.is_none(), "{error:?}");
        assert!(body == right(0, usize::try_from(after).unwrap()));
        rule.remove();
        client = Client::connect(&server);
    }
    assert!(server.log().wait_idle(PATIENCE));
    assert!(server.log().entries().iter().all(|entry| entry.end == End::Cut));
    let sent: Vec<u64> = server.log().entries().iter().map(|entry| entry.sent).collect();
    assert_eq!(sent, [0, 1, 70_000]);
}

#[test]
fn a_reset_is_a_reset() {
    let (server, mut client) = with_object();
    server.faults().add(Rule::new(Fault::Reset { after: 1000 }));
    client.send("GET", K, &[], "");
    // The reset may overtake any part of the reply.
    let (bytes, error) = client.read_to_end();
    assert_eq!(error.map(|error| error.kind()), Some(std::io::ErrorKind::ConnectionReset));
    assert!(bytes.len() < 2000);
    assert!(server.log().wait(PATIENCE, |entries| entries[0].end == End::Reset));
}

#[test]
fn a_stall_holds_until_it_is_released() {
    let (server, mut client) = with_object();
    for after in [None, Some(0), Some(5000)] {
        let rule = server.faults().add(Rule::new(Fault::Stall { after, time: None }));
        client.send("GET", K, &[], "");
        assert!(rule.wait(1, PATIENCE));
        if let Some(after) = after {
            client.read_head().unwrap();
            assert!(
                client.read(usize::try_from(after).unwrap()).unwrap()
                    == right(0, usize::try_from(after).unwrap())
            );
        }
        let sent = after.unwrap_or(0);
        let held = |entry: &Entry| entry.end == End::Running && entry.sent == sent;
        assert!(server.log().wait(PATIENCE, |entries| entries.last().is_some_and(held)));
        rule.remove();
        if after.is_none() {
            client.read_head().unwrap();
        }
        let rest = 1 << 20;
        let offset = after.unwrap_or(0);
        let len = rest - usize::try_from(offset).unwrap();
        assert!(client.read(len).unwrap() == right(offset, len));
    }
}

#[test]
fn a_stall_ends_after_its_time_or_when_the_client_leaves() {
    let (server, mut client) = with_object();
    let time = Duration::from_millis(30);
    server.faults().add(Rule::new(Fault::Stall { after: None, time: Some(time) }).nth(1));
    server.faults().add(Rule::new(Fault::Stall { after: Some(10), time: None }).nth(2));
    client.get_range(K, "bytes=0-9");
    assert!(server.log().wait_idle(PATIENCE));
    let entry = server.log().entries().remove(0);
    assert!(entry.ended.unwrap() - entry.started >= time);
    client.send("GET", K, &[], "");
    client.read_head().unwrap();
    drop(client);
    assert!(
        server.log().wait(PATIENCE, |entries| entries.get(1).is_some_and(|entry| entry.end == End::Gone))
    );
}

#[test]
fn a_replaced_object_fails_the_condition() {
    let (server, mut client) = with_object();
    let etag = server.etag("k").unwrap();
    server.faults().add(Rule::new(Fault::Replaced).range(512 << 10..SIZE));
    assert_eq!(client.request("GET", K, &[("If-Match", &etag), ("Range", "bytes=0-9")]).status(), 206);
    let reply = client.request("GET", K, &[("If-Match", &etag), ("Range", "bytes=600000-600009")]);
    assert_eq!((reply.status(), reply.code().as_str()), (412, "PreconditionFailed"));
    let reply = client.get_range(K, "bytes=600000-600009");
    assert_eq!(reply.status(), 206);
    assert_ne!(reply.head.header("etag"), Some(etag.as_str()));
}

#[test]
fn a_flipped_byte_is_the_only_difference() {
    let (server, mut client) = with_object();
    server.put("t", Object::tiled(1, SIZE));
    server.faults().add(Rule::new(Fault::Flip { offset: 300_001 }));
    let mut expected = right(0, 1 << 20);
    expected[300_001] = !expected[300_001];
    assert!(client.get(K).body == expected);
    assert!(client.get_range(K, "bytes=300000-300009").body == expected[300_000..300_010]);
    assert!(client.get_range(K, "bytes=300002-300009").body == expected[300_002..300_010]);
    assert_eq!(synthetic::check_tiled(1, 0, &client.get("/test-bucket/t").body), Some(300_001));
}

#[test]
fn connections_can_be_closed_instead_of_and_after_a_reply() {
    let (server, mut client) = with_object();
    server.faults().add(Rule::new(Fault::CloseAfter).nth(1));
    server.faults().add(Rule::new(Fault::Close).nth(2));
    let reply = client.get_range(K, "bytes=0-9");
    assert_eq!(reply.head.header("connection"), Some("keep-alive"));
    let (rest, error) = client.read_to_end();
    assert!(rest.is_empty() && error.is_none());
    let mut client = Client::connect(&server);
    client.send("GET", K, &[], "");
    let (rest, error) = client.read_to_end();
    assert!(rest.is_empty() && error.is_none());
    assert!(server.log().wait_idle(PATIENCE));
    let entry = server.log().entries().pop().unwrap();
    assert_eq!((entry.status, entry.end), (0, End::Cut));
    let mut client = Client::connect(&server);
    let reply = client.request("GET", K, &[("Connection", "close")]);
    assert_eq!(reply.head.header("connection"), Some("close"));
    assert!(client.read_to_end().1.is_none());
}

#[test]
fn too_many_bytes_are_declared_or_not() {
    let (server, mut client) = with_object();
    server.faults().add(Rule::new(Fault::Excess { bytes: 5, declared: true }).nth(1));
    server.faults().add(Rule::new(Fault::Excess { bytes: 5, declared: false }).nth(2));
    let declared = client.get_range(K, "bytes=0-9");
    assert_eq!((declared.head.length(), &declared.body[..10]), (15, right(0, 10).as_slice()));
    assert_eq!(declared.head.header("content-range"), Some("bytes 0-9/1048576"));
    let hidden = client.get_range(K, "bytes=0-9");
    assert_eq!(hidden.body, right(0, 10));
    assert_eq!(client.read(5).unwrap(), [0xa5; 5]);
}

#[test]
fn a_listing_can_change_between_its_pages() {
    let server = public_server();
    for key in ["a", "b", "c", "d"] {
        server.put(key, Object::bytes("x"));
    }
    let second_page = || Rule::new(Fault::Delete { key: "c".to_owned() }).operation(Operation::List).nth(2);
    server.faults().add(second_page());
    server
        .faults()
        .add(Rule::new(Fault::Put { key: "e".to_owned(), size: 10 }).operation(Operation::List).nth(2));
    server.set_page_limit(Some(2));
    let mut client = Client::connect(&server);
    let first = client.get("/test-bucket/?list-type=2&encoding-type=url");
    assert!(first.text().contains("<Key>b</Key>") && !first.text().contains("<Key>c</Key>"));
    let (_, rest) = first.text().split_once("<NextContinuationToken>").unwrap();
    let token = rest.split_once('<').unwrap().0;
    let second = client.get(&format!("/test-bucket/?list-type=2&continuation-token={token}"));
    let keys: Vec<&str> =
        second.text().split("<Key>").skip(1).map(|rest| rest.split_once('<').unwrap().0).collect();
    assert_eq!(keys, ["d", "e"]);
    assert_eq!(client.get("/test-bucket/e").body.len(), 10);
}

#[test]
fn a_skewed_reply_is_dated_so() {
    let (server, mut client) = with_object();
    server.faults().add(Rule::new(Fault::Skew { seconds: 100_000 }).nth(2));
    let date = |client: &mut Client| {
        let head = client.request("HEAD", K, &[]).head;
        httpdate::parse_http_date(head.header("date").unwrap()).unwrap()
    };
    let first = date(&mut client);
    assert!(date(&mut client) >= first + Duration::from_secs(100_000));
    server.set_clock_offset(-5000);
    assert!(date(&mut client) < first);
}

#[test]
fn a_document_and_headers_take_the_place_of_the_right_ones() {
    let (server, mut client) = with_object();
    let document = Fault::Document { status: 200, text: "<Lie/>".to_owned() };
    server.faults().add(Rule::new(document).nth(1));
    let lie = Fault::Header { name: "etag".to_owned(), value: "\"OTHER\"".to_owned() };
    server.faults().add(Rule::new(lie).nth(2));
    let reply = client.request("GET", K, &[]);
    assert_eq!((reply.status(), reply.body.as_slice()), (200, b"<Lie/>".as_slice()));
    let reply = client.get_range(K, "bytes=10-19");
    assert_eq!((reply.head.header("etag"), reply.body), (Some("\"OTHER\""), right(10, 10)));
    assert_ne!(client.get_range(K, "bytes=10-19").head.header("etag"), Some("\"OTHER\""));
}

#[test]
fn a_server_that_refuses_comes_back_at_its_address() {
    let config =
        oss_server::Config { listen: ([127, 99, 9, 9], 0).into(), public: true, ..Default::default() };
    let server = Server::start(config).unwrap();
    server.put("k", Object::synthetic(1, SIZE));
    assert_eq!(Client::connect(&server).request("HEAD", K, &[]).status(), 200);
    server.set_refusing(true).unwrap();
    let refused = std::net::TcpStream::connect(server.address()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    server.set_refusing(false).unwrap();
    assert_eq!(Client::connect(&server).request("HEAD", K, &[]).status(), 200);
}
