//! A client behind a proxy: a server with canned replies stands in its place, so that what it gets to see is known to
//! the byte. A real proxy has the end-to-end tests (`tests/e2e/tests/proxy.rs`).

use std::net::TcpListener;

use super::server::{Answer, Server};
use super::*;
use crate::base::ByteRange;

/// `user:pass@hush`, and as it is sent.
const USER: &str = "user:pass%40hush";
const BASIC: &str = "Basic dXNlcjpwYXNzQGh1c2g=";

fn client(endpoint: &str, proxy: &str) -> Client {
    let proxy = proxy.replace("http://", &format!("http://{USER}@"));
    Client::new(Config { proxy: Some(Secret::new(&proxy)), ..config(endpoint, "") }).unwrap()
}

/// What a person reads of an error.
fn told(error: &Error) -> String {
    crate::base::chain(error)
}

#[tokio::test]
async fn reads_requests_with_the_whole_address_and_the_hosts_own_signature() {
    let server = Server::start(|seen| {
        Answer::Send(if seen.head.starts_with("GET") {
            let range = "Content-Range: bytes 0-1/2\r\nContent-Length: 2";
            format!("HTTP/1.1 206 X\r\n{range}\r\nETag: {ETAG}\r\n\r\nab").into_bytes()
        } else {
            format!(
                "HTTP/1.1 200 X\r\nContent-Length: 2\r\nETag: {ETAG}\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n\r\n"
            )
            .into_bytes()
        })
    });
    // Nobody but a proxy could resolve this name.
    let client = client("http://oss.invalid:81", &server.url);
    assert_eq!(client.head(KEY).await.unwrap().size, 2);
    let mut connection = client.connection(Some("127.0.0.9".parse().unwrap()));
    let mut body = connection.get(&object(2), ByteRange::new(0, 2)).await.unwrap();
    assert_eq!(body.next(2).await.unwrap(), Some(&b"ab"[..]));
    let seen = server.seen();
    let first = |seen: &server::Seen| seen.head.lines().next().unwrap_or("").to_owned();
    let target = "http://examplebucket.oss.invalid:81/models/a%20b.gguf HTTP/1.1";
    assert_eq!(
        seen.iter().map(first).collect::<Vec<_>>(),
        [format!("HEAD {target}"), format!("GET {target}")]
    );
    for seen in &seen {
        assert_eq!(header(&seen.head, "host"), Some("examplebucket.oss.invalid:81"));
        assert_eq!(header(&seen.head, "proxy-authorization"), Some(BASIC));
        assert!(header(&seen.head, "authorization").unwrap().starts_with("OSS4-HMAC-SHA256 Credential=AK1/"));
    }
    assert_eq!(seen[1].peer.to_string(), "127.0.0.9", "the source stays bound");
    assert!(!format!("{client:?} {:?}", config("x", "")).contains("hush"));
}

#[tokio::test]
async fn is_named_by_what_it_answers_itself() {
    for (status, retryable, advice) in
        [(407, false, "check user and password"), (502, true, "cannot reach OSS")]
    {
        let server = Server::start(move |_| {
            Answer::Send(format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nbusy").into_bytes())
        });
        let client = client("http://oss.invalid", &server.url);
        let error = client.connection(None).get(&object(2), ByteRange::new(0, 2)).await.unwrap_err();
        let address = server.url.replace("http://", "proxy ");
        let told = told(&error);
        assert!(told.contains(&format!("{address} answered {status}")), "{told}");
        assert!(told.contains(advice) && !told.contains("hush"), "{told}");
        assert_eq!(error.is_retryable(), retryable);
    }
    // A 404 of a proxy says nothing about the object.
    let server = Server::start(|_| Answer::Send(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n".to_vec()));
    let error = client("http://oss.invalid", &server.url)
        .connection(None)
        .get(&object(2), ByteRange::new(0, 2))
        .await
        .unwrap_err();
    assert!(!error.is_changed(), "{error}");
    // What OSS answers has a request id, and is OSS's.
    let server = Server::start(|_| Answer::Send(error_reply(404, "NoSuchKey", "")));
    let error = client("http://oss.invalid", &server.url)
        .connection(None)
        .get(&object(2), ByteRange::new(0, 2))
        .await
        .unwrap_err();
    assert!(error.is_changed() && told(&error).contains("OSS answered 404 NoSuchKey"), "{error}");
}

#[tokio::test]
async fn is_named_by_what_it_says_to_connect() {
    for (status, retryable) in [(407, false), (403, false), (502, true)] {
        let server = Server::start(move |_| {
            Answer::Send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes())
        });
        let client = client("https://oss.invalid", &server.url);
        let error = client.connection(None).get(&object(2), ByteRange::new(0, 2)).await.unwrap_err();
        let address = server.url.replace("http://", "proxy ");
        let told = told(&error);
        let expected = format!("{address} answered {status} to CONNECT examplebucket.oss.invalid:443");
        assert!(told.contains(&expected) && !told.contains("hush"), "{told}");
        assert_eq!(error.is_retryable(), retryable, "{told}");
        let seen = server.seen();
        assert_eq!(header(&seen[0].head, "proxy-authorization"), Some(BASIC));
        assert_eq!(header(&seen[0].head, "authorization"), None, "what is for OSS goes into the tunnel");
    }
}

#[tokio::test]
async fn that_cannot_be_reached_or_speaks_out_of_turn_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for endpoint in ["http://oss.invalid", "https://oss.invalid"] {
        let client = client(endpoint, &format!("http://{address}"));
        let error = client.connection(None).get(&object(2), ByteRange::new(0, 2)).await.unwrap_err();
        assert!(
            told(&error).contains(&format!("proxy {address}")) && error.is_retryable(),
            "{}",
            told(&error)
        );
    }
    let server = Server::start(|_| Answer::Send(b"HTTP/1.1 200 X\r\n\r\nhello".to_vec()));
    let error = client("https://oss.invalid", &server.url)
        .connection(None)
        .get(&object(2), ByteRange::new(0, 2))
        .await
        .unwrap_err();
    assert!(told(&error).contains("nobody asked for"), "{}", told(&error));
}
