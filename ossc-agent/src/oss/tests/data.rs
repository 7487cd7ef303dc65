//! Ranged GETs over the wire: what is asked, what is refused, what happens to the connection. The object's bytes
//! are computed from their offset, so that a byte in the wrong place shows. Waits of the client are ended by
//! events of the server or by paused time, never by sleeping.

use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use super::server::{Answer, Seen, Server};
use super::*;
use crate::base::ByteRange;

const SIZE: u64 = 3 << 20;

/// The byte of the test object at an offset.
fn byte_at(offset: u64) -> u8 {
    u8::try_from(offset.wrapping_mul(0x9E37_79B9) >> 7 & 0xFF).unwrap()
}

fn bytes_of(range: ByteRange) -> Vec<u8> {
    (range.start()..range.end()).map(byte_at).collect()
}

/// The range a request asks for.
fn asked(seen: &Seen) -> ByteRange {
    let (first, last) =
        header(&seen.head, "range").and_then(|v| v.strip_prefix("bytes=")?.split_once('-')).unwrap();
    ByteRange::new(first.parse().unwrap(), last.parse::<u64>().unwrap() + 1)
}

/// Head of the right reply to a request.
fn head_for(range: ByteRange) -> String {
    format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {}-{}/{SIZE}\r\n\
         ETag: {ETAG}\r\nx-oss-request-id: RID\r\nx-oss-hash-crc64ecma: 11051210869376104954\r\n\r\n",
        range.len(),
        range.start(),
        range.end() - 1
    )
}

/// The right reply.
fn reply_for(range: ByteRange) -> Vec<u8> {
    [head_for(range).into_bytes(), bytes_of(range)].concat()
}

fn honest(seen: &Seen) -> Answer {
    Answer::Send(reply_for(asked(seen)))
}

fn connect(server: &Server) -> Connection {
    Client::new(config(&server.url, "models/")).unwrap().connection(None)
}

async fn read(connection: &mut Connection, range: ByteRange) -> Result<Vec<u8>, Error> {
    let mut body = connection.get(&object(SIZE), range).await?;
    let mut all = Vec::new();
    while let Some(bytes) = body.next(usize::MAX).await? {
        all.extend_from_slice(bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn one_connection_and_one_signature_serve_many_ranges() {
    let server = Server::start(honest);
    let mut connection = connect(&server);
    for range in [ByteRange::new(0, 10), ByteRange::new(100, SIZE), ByteRange::new(SIZE - 1, SIZE)] {
        assert_eq!(read(&mut connection, range).await.unwrap(), bytes_of(range), "{range}");
    }
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.connection == 0), "one connection");
    let head = &seen[0].head;
    assert!(head.starts_with("GET /examplebucket/models/a%20b.gguf HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(head, "range"), Some("bytes=0-9"));
    assert_eq!(header(head, "if-match"), Some(ETAG));
    assert_eq!(header(head, "x-oss-range-behavior"), Some("standard"));
    assert_eq!(header(head, "accept-encoding"), Some("identity"));
    let authorization = header(head, "authorization");
    assert!(authorization.is_some_and(|text| text.starts_with("OSS4-HMAC-SHA256 Credential=AK1/")));
    assert!(seen.iter().all(|seen| header(&seen.head, "authorization") == authorization));
}

#[tokio::test]
async fn without_region_signs_v1_and_anonymous_not_at_all() {
    let server = Server::start(honest);
    let range = ByteRange::new(5, 9);
    let v1 = Config { region: None, ..config(&server.url, "") };
    let anonymous = Config { credentials: CredentialSource::Anonymous, ..config(&server.url, "") };
    for config in [v1, anonymous] {
        let mut connection = Client::new(config).unwrap().connection(None);
        assert_eq!(read(&mut connection, range).await.unwrap(), bytes_of(range));
    }
    let seen = server.seen();
    assert!(header(&seen[0].head, "authorization").is_some_and(|text| text.starts_with("OSS AK1:")));
    assert_eq!(header(&seen[1].head, "authorization"), None);
    assert_eq!(header(&seen[1].head, "x-oss-date"), None);
}

#[tokio::test]
async fn lends_pieces_of_the_size_asked_for() {
    let server = Server::start(honest);
    let mut connection = connect(&server);
    let range = ByteRange::new(7, SIZE);
    let mut body = connection.get(&object(SIZE), range).await.unwrap();
    assert_eq!(body.object_crc64(), Some(11_051_210_869_376_104_954));
    let mut offset = range.start();
    for max in [1, 4096, 100_000, 1 << 20, 1 << 20, 1 << 20, 1 << 20] {
        let piece = body.next(max).await.unwrap().unwrap().to_vec();
        let end = offset + piece.len() as u64;
        assert!(piece.len() <= max && !piece.is_empty());
        assert_eq!(piece, bytes_of(ByteRange::new(offset, end)), "{offset}..{end}");
        offset = end;
        if offset == SIZE {
            break;
        }
    }
    assert_eq!(offset, SIZE);
    assert_eq!(body.next(1).await.unwrap(), None);
    assert_eq!(body.next(1).await.unwrap(), None);
}

#[tokio::test]
async fn fills_the_buffer_before_it_lends() {
    let server = Server::start(honest);
    let mut connection = connect(&server);
    let mut body = connection.get(&object(SIZE), ByteRange::new(0, SIZE)).await.unwrap();
    let mut sizes = Vec::new();
    while let Some(bytes) = body.next(16 << 20).await.unwrap() {
        sizes.push(bytes.len());
    }
    assert_eq!(sizes, [1 << 20; 3]);
}

#[tokio::test]
async fn refuses_every_reply_that_is_not_what_was_asked() {
    let range = ByteRange::new(100, 200);
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nETag: {ETAG}\r\n\r\n");
    let right = head_for(range);
    let cases = [
        ("whole object", whole, "status 200"),
        ("other start", right.replace("bytes 100-", "bytes 0-"), "Content-Range"),
        ("other end", right.replace("-199/", "-198/"), "Content-Range"),
        ("other total", right.replace(&format!("/{SIZE}"), "/300"), "Content-Range"),
        ("no range", right.replace("Content-Range", "X-Range"), "Content-Range 'none'"),
        ("other length", right.replace("Content-Length: 100", "Content-Length: 99"), "Content-Length"),
        ("no length", right.replace("Content-Length", "X-Length"), "Content-Length"),
        ("two lengths", right.replace("ETag", "Content-Length: 7\r\nETag"), "two different"),
        ("signed length", right.replace("Content-Length: 100", "Content-Length: +100"), "bad Content-Length"),
        ("no etag", right.replace("ETag", "X-Tag"), "ETag"),
        ("chunked", right.replace("ETag", "Transfer-Encoding: chunked\r\nETag"), "Transfer-Encoding"),
        ("gzip", right.replace("ETag", "Content-Encoding: gzip\r\nETag"), "Content-Encoding"),
        ("no http", "SSH-2.0-server\r\n\r\n".to_owned(), "no HTTP reply"),
        ("endless head", right.replace("\r\n\r\n", &format!("\r\nX: {}", "y".repeat(20_000))), "longer than"),
    ];
    for (name, head, reason) in cases {
        let reply = [head.into_bytes(), bytes_of(range)].concat();
        let server = Server::start(move |_| Answer::Send(reply.clone()));
        let mut connection = connect(&server);
        let error = connection.get(&object(SIZE), range).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }) && error.is_retryable(), "{name}: {error:?}");
        assert!(error.to_string().contains(reason), "{name}: {error}");
        assert!(error.to_string().contains("oss://examplebucket/models/a b.gguf"), "{name}: {error}");
        connection.get(&object(SIZE), range).await.unwrap_err();
        assert_eq!(server.seen()[1].connection, 1, "{name}: such a connection is not used again");
    }
}

#[tokio::test]
async fn another_etag_is_another_object() {
    let server = Server::start(|seen| {
        let text = head_for(asked(seen)).replace("5B3C", "FFFF");
        Answer::Send([text.into_bytes(), bytes_of(asked(seen))].concat())
    });
    let error = connect(&server).get(&object(SIZE), ByteRange::new(0, 5)).await.unwrap_err();
    assert!(error.is_changed() && !error.is_retryable(), "{error:?}");
    assert_eq!(error.errno(), Errno::ESTALE);
}

#[tokio::test]
async fn more_bytes_than_the_range_are_refused() {
    let server = Server::start(|seen| Answer::Send([reply_for(asked(seen)), b"more".to_vec()].concat()));
    let mut connection = connect(&server);
    match read(&mut connection, ByteRange::new(0, 5)).await {
        Err(Error::Protocol { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn bad_ranges_are_not_sent() {
    let server = Server::start(honest);
    let mut connection = connect(&server);
    for range in [ByteRange::new(5, 5), ByteRange::new(0, SIZE + 1)] {
        let error = connection.get(&object(SIZE), range).await.unwrap_err();
        assert!(matches!(error, Error::Range { .. }) && !error.is_retryable(), "{error:?}");
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn a_short_body_is_an_error_and_the_next_get_connects_anew() {
    let server = Server::start(|seen| match seen.connection {
        0 => {
            let mut reply = reply_for(asked(seen));
            reply.truncate(reply.len() - 3);
            Answer::SendAndClose(reply)
        }
        _ => honest(seen),
    });
    let mut connection = connect(&server);
    let range = ByteRange::new(0, SIZE);
    let mut body = connection.get(&object(SIZE), range).await.unwrap();
    assert_eq!(body.next(1 << 20).await.unwrap().unwrap(), bytes_of(ByteRange::new(0, 1 << 20)));
    body.next(1 << 20).await.unwrap();
    let error = body.next(1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::ShortBody { missing: 3, .. }) && error.is_retryable(), "{error:?}");
    assert!(body.next(1).await.is_err(), "an error is final");
    assert_eq!(read(&mut connection, range).await.unwrap(), bytes_of(range));
}

#[tokio::test]
async fn a_body_dropped_before_its_end_closes_the_connection() {
    let server = Server::start(honest);
    let mut connection = connect(&server);
    let mut body = connection.get(&object(SIZE), ByteRange::new(0, SIZE)).await.unwrap();
    body.next(10).await.unwrap();
    drop(body);
    let range = ByteRange::new(50, 60);
    assert_eq!(read(&mut connection, range).await.unwrap(), bytes_of(range));
    assert_eq!(server.seen()[1].connection, 1);
}

#[tokio::test]
async fn a_dropped_wait_for_bytes_loses_none() {
    let server = Server::start(|seen| {
        let reply = reply_for(asked(seen));
        let (first, second) = reply.split_at(reply.len() - 500_000);
        Answer::SendInParts(first.to_vec(), second.to_vec())
    });
    let mut connection = connect(&server);
    let range = ByteRange::new(0, 1_000_000);
    let mut body = connection.get(&object(SIZE), range).await.unwrap();
    assert_eq!(body.next(400_000).await.unwrap().unwrap(), bytes_of(ByteRange::new(0, 400_000)));
    // The rest cannot be complete, so this wait goes on until it is dropped.
    tokio::select! {
        biased;
        _ = body.next(600_000) => panic!("complete too early"),
        () = tokio::task::yield_now() => {}
    }
    server.go_on();
    assert_eq!(body.next(600_000).await.unwrap().unwrap(), bytes_of(ByteRange::new(400_000, 1_000_000)));
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    // Closed after the first reply, and closed on receipt of the second request.
    let after = Server::start(|seen| match seen.connection {
        0 => Answer::SendAndClose(reply_for(asked(seen))),
        _ => honest(seen),
    });
    let on_receipt = Server::start(|seen| match (seen.connection, seen.turn) {
        (0, 1) => Answer::SendAndClose(Vec::new()),
        _ => honest(seen),
    });
    for server in [after, on_receipt] {
        let mut connection = connect(&server);
        for range in [ByteRange::new(0, 10), ByteRange::new(10, 20)] {
            assert_eq!(read(&mut connection, range).await.unwrap(), bytes_of(range));
        }
        assert_eq!(server.seen().last().unwrap().connection, 1);
    }
}

#[tokio::test]
async fn a_new_connection_closed_without_reply_is_an_error() {
    let server = Server::start(|_| Answer::SendAndClose(Vec::new()));
    let error = connect(&server).get(&object(SIZE), ByteRange::new(0, 5)).await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }) && error.is_retryable(), "{error:?}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn connection_close_is_honoured_and_interim_replies_are_skipped() {
    let server = Server::start(|seen| {
        let closing = head_for(asked(seen)).replace("ETag", "Connection: close\r\nETag");
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".to_vec();
        Answer::Send([interim, closing.into_bytes(), bytes_of(asked(seen))].concat())
    });
    let mut connection = connect(&server);
    for range in [ByteRange::new(0, 10), ByteRange::new(10, 20)] {
        assert_eq!(read(&mut connection, range).await.unwrap(), bytes_of(range));
    }
    assert_eq!(server.seen()[1].connection, 1);
}

#[tokio::test]
async fn error_replies_say_what_oss_said_and_keep_the_connection() {
    for (status, code, errno, changed) in [
        (412, "PreconditionFailed", Errno::ESTALE, true),
        (404, "NoSuchKey", Errno::ENOENT, true),
        (403, "AccessDenied", Errno::EACCES, false),
        (503, "DownloadTrafficRateLimitExceeded", Errno::EIO, false),
    ] {
        let server = Server::start(move |_| Answer::Send(error_reply(status, code, "")));
        let mut connection = connect(&server);
        for _ in 0..2 {
            let error = connection.get(&object(SIZE), ByteRange::new(0, 5)).await.unwrap_err();
            let service = error.service().unwrap();
            assert_eq!((service.status, service.code.as_str()), (status, code));
            assert_eq!((service.request_id.as_str(), service.ec.as_str()), ("RID", "0001"));
            assert_eq!((error.errno(), error.is_changed()), (errno, changed), "{error}");
            assert_eq!(error.is_slow_down(), status == 503);
        }
        // Beside the HEAD that asks what is there now.
        let gets: Vec<_> = server.seen().into_iter().filter(|seen| seen.head.starts_with("GET")).collect();
        assert_eq!(gets[1].connection, 0, "{code}: the connection is used again");
    }
}

#[tokio::test]
async fn a_replaced_object_is_told_with_both_versions() {
    let server = Server::start(|seen| {
        Answer::Send(if seen.head.starts_with("HEAD") {
            let headers =
                "ETag: \"NEW\"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\nContent-Length: 5";
            format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").into_bytes()
        } else {
            error_reply(412, "PreconditionFailed", "")
        })
    });
    let error = connect(&server).get(&object(SIZE), ByteRange::new(0, 5)).await.unwrap_err();
    let text = error.to_string();
    assert!(error.is_changed() && text.contains(ETAG) && text.contains("\"NEW\""), "{text}");
}

#[tokio::test]
async fn an_error_body_of_unknown_length_leaves_the_status() {
    let reply = "HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n";
    let server = Server::start(|_| Answer::Send(reply.into()));
    let mut connection = connect(&server);
    for _ in 0..2 {
        let error = connection.get(&object(SIZE), ByteRange::new(0, 5)).await.unwrap_err();
        assert_eq!(error.service().map(|service| service.status), Some(502));
        assert!(error.is_retryable());
    }
    assert_eq!(server.seen()[1].connection, 1);
}

#[tokio::test]
async fn a_skewed_clock_is_corrected_for_all_connections() {
    let two_hours_ahead = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(7200));
    let server = Server::start(move |seen| match (seen.connection, seen.turn) {
        (0, 0) => Answer::Send(error_reply(403, "RequestTimeTooSkewed", &two_hours_ahead)),
        _ => honest(seen),
    });
    let client = Client::new(config(&server.url, "")).unwrap();
    for _ in 0..2 {
        let range = ByteRange::new(0, 10);
        assert_eq!(read(&mut client.connection(None), range).await.unwrap(), bytes_of(range));
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    let dates: Vec<&str> = seen.iter().map(|seen| header(&seen.head, "x-oss-date").unwrap()).collect();
    assert!(dates[0] < dates[1] && dates[1] <= dates[2], "{dates:?}");
}

#[tokio::test]
async fn a_clock_that_stays_wrong_is_reported_after_one_correction() {
    let server = Server::start(|_| {
        Answer::Send(error_reply(403, "RequestTimeTooSkewed", &httpdate::fmt_http_date(SystemTime::now())))
    });
    let error = connect(&server).get(&object(SIZE), ByteRange::new(0, 5)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn rejected_keys_are_read_again_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    let write = |path: &std::path::Path, id: &str| {
        std::fs::write(
            path,
            format!("{{\"AccessKeyId\":\"{id}\",\"AccessKeySecret\":\"s\",\"SecurityToken\":\"t\"}}"),
        )
    };
    write(&path, "OLD").unwrap();
    let server = Server::start({
        let path = path.clone();
        move |seen| match header(&seen.head, "authorization").is_some_and(|text| text.contains("=OLD/")) {
            true => {
                // Whoever keeps the file fresh has done so by now; not so for the second object.
                write(&path, if seen.head.contains("never") { "OLD" } else { "NEW" }).unwrap();
                Answer::Send(error_reply(403, "SecurityTokenExpired", ""))
            }
            false => honest(seen),
        }
    });
    let config = Config { credentials: CredentialSource::File(path.clone()), ..config(&server.url, "") };
    let range = ByteRange::new(0, 5);
    let mut connection = Client::new(config.clone()).unwrap().connection(None);
    assert_eq!(read(&mut connection, range).await.unwrap(), bytes_of(range));
    assert_eq!(server.seen().len(), 2);
    assert_eq!(header(&server.seen()[1].head, "x-oss-security-token"), Some("t"));

    write(&path, "OLD").unwrap();
    let mut connection = Client::new(config).unwrap().connection(None);
    let never = Object { key: "never".to_owned(), ..object(SIZE) };
    let error = connection.get(&never, range).await.unwrap_err();
    assert!(error.is_expired_credentials(), "{error}");
    assert_eq!(server.seen().len(), 3, "the same keys are not tried twice");
}

#[tokio::test]
async fn connects_from_the_source_address() {
    let server = Server::start(honest);
    let source = "127.0.0.9".parse().unwrap();
    let mut connection = Client::new(config(&server.url, "")).unwrap().connection(Some(source));
    read(&mut connection, ByteRange::new(0, 5)).await.unwrap();
    assert_eq!(server.seen()[0].peer, source);
}

#[test]
fn one_client_serves_threads_with_runtimes_of_their_own() {
    let server = Server::start(honest);
    let client = Client::new(config(&server.url, "")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = client.clone();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let mut connection = client.connection(None);
                let range = ByteRange::new(thread, SIZE - thread);
                assert_eq!(runtime.block_on(read(&mut connection, range)).unwrap(), bytes_of(range));
            });
        }
    });
}

#[tokio::test]
async fn silence_ends_in_an_error() {
    let server = Server::start(|seen| {
        let mut reply = reply_for(asked(seen));
        reply.truncate(2 << 20);
        Answer::SendInParts(reply, Vec::new())
    });
    let mut connection = connect(&server);
    let mut body = connection.get(&object(SIZE), ByteRange::new(0, SIZE)).await.unwrap();
    body.next(1 << 20).await.unwrap();
    // From here on time stands still until there is nothing else to wait for.
    tokio::time::pause();
    let error = body.next(1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }) && error.is_retryable(), "{error:?}");
}
