//! What is answered to whom. Over the TCP port there is only looking; whoever calls the server by a foreign name is
//! refused there, so that no web page can have a browser look in its place (DNS rebinding). Pure but for what a request
//! asks to be done.

use std::net::IpAddr;
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use super::exposition;
use super::view::View;
use crate::base::FileId;

/// Longest body of a request, bytes: a path (PATH_MAX, limits.h) with room.
const MAX_BODY: usize = 8 << 10;
/// The page; all it needs is in it.
const PAGE: &str = include_str!("page/page.html");
/// It may run its own script and ask its own server, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// The socket, which is root's.
    Socket,
    /// The TCP port, which may be anybody's.
    Port,
}

/// What is served.
#[derive(Debug)]
pub struct Served {
    /// The load.
    pub view: Arc<View>,
    /// Ends the load; None with a COMMAND, whose end ends it.
    pub cancel: Option<UnboundedSender<()>>,
    /// What this machine is called, by which it may be asked for besides its addresses.
    pub host: String,
}

/// What came of a prefetch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefetched {
    /// Files that are meant.
    pub files: u64,
    /// Bytes of them that were missing.
    pub missing_bytes: u64,
}

/// Answers one request.
pub(super) async fn answer<B>(served: &Served, door: Door, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if door == Door::Port && !is_ours(request.headers(), &served.host) {
        let text = "This server answers to its addresses, localhost and its host's name.";
        return plain(StatusCode::MISDIRECTED_REQUEST, text);
    }
    let (head, body) = request.into_parts();
    let is_look = matches!(head.method, Method::GET | Method::HEAD);
    match (head.uri.path(), is_look) {
        ("/", true) => page(),
        ("/status.json", true) => json(&served.view.snapshot(true)),
        ("/metrics", true) => match exposition::text(&served.view) {
            Ok(text) => reply(StatusCode::OK, exposition::CONTENT_TYPE, text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        ("/cancel" | "/prefetch", false) if door == Door::Socket && head.method == Method::POST => {
            let body = match Limited::new(body, MAX_BODY).collect().await {
                Ok(body) => body.to_bytes(),
                Err(_) => return plain(StatusCode::BAD_REQUEST, "The body is too long, or broke off."),
            };
            if head.uri.path() == "/cancel" { cancel(served) } else { prefetch(served, &body) }
        }
        ("/" | "/status.json" | "/metrics" | "/cancel" | "/prefetch", _) => {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "Not this way.");
            let allowed = if door == Door::Socket { "GET, HEAD, POST" } else { "GET, HEAD" };
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            refusal
        }
        _ => plain(StatusCode::NOT_FOUND, "There are /, /status.json and /metrics."),
    }
}

fn cancel(served: &Served) -> Response<Full<Bytes>> {
    match &served.cancel {
        Some(cancel) if cancel.send(()).is_ok() => plain(StatusCode::ACCEPTED, "The load ends."),
        Some(_) => plain(StatusCode::CONFLICT, "The load ends already."),
        None => plain(StatusCode::CONFLICT, "The agent ends with the command that it started: end that one."),
    }
}

fn prefetch(served: &Served, path: &[u8]) -> Response<Full<Bytes>> {
    let Ok(path) = std::str::from_utf8(path) else {
        return plain(StatusCode::BAD_REQUEST, "The path is not UTF-8, which names of objects are.");
    };
    let parts = served.view.parts();
    let files = parts.store.files();
    let meant: Vec<FileId> =
        files.iter().filter(|file| is_at_or_below(&file.object().name, path)).map(|file| file.id()).collect();
    if meant.is_empty() {
        return plain(StatusCode::NOT_FOUND, &format!("The model has no file '{path}', and none below it."));
    }
    let mut done = Prefetched::default();
    // Each goes before all others, so the first one comes last.
    for file in meant.into_iter().rev() {
        done.files += 1;
        done.missing_bytes += parts.fetcher.plan_first(file);
    }
    tracing::info!(path, files = done.files, "to be fetched next, as an operator asks");
    json(&done)
}

/// Whether a file of this name is what `path` names, or is below it. The empty path names everything.
fn is_at_or_below(name: &str, path: &str) -> bool {
    let plain = |part: &Component<'_>| !matches!(part, Component::CurDir);
    let path: Vec<_> = Path::new(path).components().filter(plain).collect();
    let name: Vec<_> = Path::new(name).components().collect();
    name.starts_with(&path)
}

/// Whether the request names this machine in a way that no foreign name server can have a browser do.
fn is_ours(headers: &HeaderMap, own: &str) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(Ok(host)), None) = (hosts.next().map(|host| host.to_str()), hosts.next()) else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(own)
}

fn page() -> Response<Full<Bytes>> {
    let mut page = reply(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    page
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(text) => reply(StatusCode::OK, "application/json", text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_refused() {
        let ours = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            is_ours(&headers, "node7")
        };
        for host in [
            "127.0.0.1:9",
            "127.0.0.1",
            "[::1]:9",
            "[::1]",
            "localhost:9",
            "LOCALHOST",
            "node7:9",
            "10.1.2.3:9",
        ] {
            assert!(ours(&[host]), "{host}");
        }
        for host in [
            "evil.example:9",
            "evil.example",
            "127.0.0.1.evil.example",
            "",
            ":9",
            "[evil.example]:9",
            "node7.evil.example",
        ] {
            assert!(!ours(&[host]), "{host}");
        }
        assert!(!ours(&[]));
        assert!(!ours(&["localhost", "evil.example"]));
    }

    #[test]
    fn a_path_means_a_file_or_what_is_below() {
        for (name, path) in
            [("a/b.bin", "a/b.bin"), ("a/b.bin", "a"), ("a/b.bin", "a/"), ("a/b.bin", ""), ("a", "./a")]
        {
            assert!(is_at_or_below(name, path), "{name} {path}");
        }
        for (name, path) in [("a/b.bin", "a/b"), ("a", "a/b"), ("ab", "a"), ("a", "../a"), ("a", "/a")] {
            assert!(!is_at_or_below(name, path), "{name} {path}");
        }
    }
}
