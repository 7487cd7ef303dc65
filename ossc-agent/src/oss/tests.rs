//! The client against small servers with canned replies: `control` for listings and metadata, `data` for ranged
//! GETs, `tls` for https, `proxy` for those behind one, `outside` for bytes nobody foresaw. `server` is the server, also for the tests of the
//! credential sources.

mod control;
mod data;
mod outside;
mod proxy;
pub(super) mod server;
mod tls;

use super::*;
use crate::base::{ETag, Object};

const BUCKET: &str = "examplebucket";
const KEY: &str = "models/a b.gguf";
const ETAG: &str = "\"5B3C1A2E053D763E1B002CC607C5A0FE-26\"";

fn config(endpoint: &str, prefix: &str) -> Config {
    Config {
        endpoint: endpoint.to_owned(),
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        region: Some("cn-hangzhou".to_owned()),
        cname: false,
        proxy: None,
        ca_file: None,
        credentials: CredentialSource::Static(keys("AK1")),
        request_timeout: config::DEFAULT_REQUEST_TIMEOUT,
        sources: Vec::new(),
    }
}

fn keys(id: &str) -> Credentials {
    Credentials {
        access_key_id: id.to_owned(),
        access_key_secret: Secret::new("SECRET"),
        security_token: None,
        expiration: None,
    }
}

fn object(size: u64) -> Object {
    Object {
        key: KEY.to_owned(),
        name: "a b.gguf".to_owned(),
        size,
        etag: ETag::new(ETAG),
        modified: std::time::SystemTime::UNIX_EPOCH,
        crc64: None,
    }
}

/// An error reply of OSS with the headers all replies have, and `Date`.
fn error_reply(status: u16, code: &str, date: &str) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
    format!(
        "HTTP/1.1 {status} X\r\nDate: {date}\r\nx-oss-request-id: RID\r\nx-oss-ec: 0001\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The value of a header in a request's head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name).map(|(_, value)| value))
}

#[test]
fn handles_cross_threads_and_secrets_stay_inside() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync + Clone>() {}
    sendable::<Connection>();
    shareable::<Client>();
    let client = Client::new(config("http://127.0.0.1:9", "")).unwrap();
    let shown = format!("{client:?} {:?} {:?}", client.connection(None), config("http://127.0.0.1:9", ""));
    assert!(shown.contains("AK1") && !shown.contains("SECRET"), "{shown}");
}
