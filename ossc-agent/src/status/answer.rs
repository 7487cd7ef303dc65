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
use tokio::sync::oneshot;

use super::exposition;
use super::view::View;
use crate::base::{FileId, coloured};
use crate::store::{File, Freed};

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
    /// Empties a file.
    pub evict: UnboundedSender<Evict>,
    /// What this machine is called, by which it may be asked for besides its addresses.
    pub host: String,
}

/// A file that an operator wants the memory and space of.
#[derive(Debug)]
pub struct Evict {
    /// The file.
    pub file: FileId,
    /// What came of it, or what went wrong.
    pub reply: oneshot::Sender<Result<Freed, String>>,
}

/// What came of an eviction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// Files that are empty now.
    pub files: u64,
    /// Bytes that they gave up.
    pub freed_bytes: u64,
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
        ("/cancel" | "/evict" | "/prefetch", false)
            if door == Door::Socket && head.method == Method::POST =>
        {
            let body = match Limited::new(body, MAX_BODY).collect().await {
                Ok(body) => body.to_bytes(),
                Err(_) => return plain(StatusCode::BAD_REQUEST, "The body is too long, or broke off."),
            };
            match head.uri.path() {
                "/cancel" => cancel(served),
                "/evict" => evict(served, &body).await,
                _ => prefetch(served, &body),
            }
        }
        ("/" | "/status.json" | "/metrics" | "/cancel" | "/evict" | "/prefetch", _) => {
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
    let Meant { path, files } = match meant(served, path) {
        Ok(meant) => meant,
        Err((status, text)) => return plain(status, &text),
    };
    let mut done = Prefetched::default();
    // Each goes before all others, so the first one comes last.
    for file in files.iter().rev() {
        done.files += 1;
        done.missing_bytes += served.view.parts().fetcher.plan_first(file.id());
    }
    tracing::info!(path, files = done.files, "to be fetched next, as an operator asks");
    json(&done)
}

async fn evict(served: &Served, path: &[u8]) -> Response<Full<Bytes>> {
    let Meant { path, files } = match meant(served, path) {
        Ok(meant) => meant,
        Err((status, text)) => return plain(status, &text),
    };
    tracing::info!(path, "to be evicted, as an operator asks");
    let dormant = served.view.parts().fetcher.dormant();
    let (mut done, mut kept) = (Evicted::default(), Vec::new());
    for file in files.iter().filter(|file| file.layout().size() > 0 && !dormant.contains(&file.id())) {
        let (reply, outcome) = oneshot::channel();
        let sent = served.evict.send(Evict { file: file.id(), reply });
        let outcome = match sent {
            Ok(()) => outcome.await.unwrap_or_else(|_| Err("the load ends".to_owned())),
            Err(_) => Err("the load ends".to_owned()),
        };
        let why = match outcome {
            Ok(Freed::Bytes(bytes)) => {
                done.files += 1;
                done.freed_bytes += bytes;
                continue;
            }
            Ok(Freed::InUse) => "a program has it open or mapped (`fuser -v` names it)".to_owned(),
            Ok(Freed::NotNow) => "it is not complete".to_owned(),
            Err(error) => error,
        };
        kept.push(format!("{}: {why}", file.object().name));
    }
    if kept.is_empty() {
        return json(&done);
    }
    let text = format!("{} files were evicted; not so\n{}", done.files, kept.join("\n"));
    plain(StatusCode::CONFLICT, &text)
}

/// Files that a request is about.
struct Meant<'a> {
    path: &'a str,
    files: Vec<&'a Arc<File>>,
}

/// The files that a path means, or why there are none.
fn meant<'a>(served: &'a Served, path: &'a [u8]) -> Result<Meant<'a>, (StatusCode, String)> {
    let Ok(path) = std::str::from_utf8(path) else {
        let text = "The path is not UTF-8, which names of objects are.".to_owned();
        return Err((StatusCode::BAD_REQUEST, text));
    };
    let files = served.view.parts().store.files().iter();
    let files: Vec<_> = files.filter(|file| is_at_or_below(&file.object().name, path)).collect();
    if files.is_empty() {
        let text = format!("The model has no file '{path}', and none below it.");
        return Err((StatusCode::NOT_FOUND, text));
    }
    Ok(Meant { path, files })
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
    let mut page = reply(StatusCode::OK, "text/html; charset=utf-8", coloured(PAGE));
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
    fn the_page_has_its_colours() {
        assert!(coloured(PAGE).contains("--missing: #"));
    }

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
