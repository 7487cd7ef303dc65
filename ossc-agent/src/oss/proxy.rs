//! An HTTP proxy as the way to OSS: what the user gave, checked, and what the proxy must be told. To an http endpoint
//! each request goes to the proxy with the whole address in its first line (`endpoint`, RFC 9112 section 3.2.2); to an
//! https one through a tunnel (CONNECT, RFC 9110 section 9.3.6) that is asked for here, with TLS to OSS inside. Driven by
//! `dial`; access keys are asked for without it. Host and signature are those of OSS in either case.

use std::fmt;
use std::io;
use std::pin::pin;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::credentials::Secret;
use super::endpoint::Authority;
use super::error::{Error, printable};
use super::http::AGENT;

/// Stands for the address in messages: it may have a password.
const HIDDEN: &str = "***";

/// A proxy. Shown without user and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// Value of `Proxy-Authorization`.
    authorization: Option<Secret>,
}

/// The proxy does not make a tunnel.
#[derive(Debug, thiserror::Error)]
#[error("{proxy} answered {status} to CONNECT {to}{}", advice(*status))]
struct Refused {
    proxy: String,
    status: u16,
    to: String,
}

impl Proxy {
    /// Parses `[http://][user:password@]host:port[/]`. In user and password, what is not allowed in an address is
    /// percent-encoded.
    pub(super) fn parse(text: &Secret) -> Result<Self, Error> {
        let refuse = |reason| Error::setting("origin proxy", HIDDEN, reason);
        let text = text.expose().trim();
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(refuse("the scheme of a proxy must be http")),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let way = Authority::parse(&format!("http://{rest}"))
            .map_err(|_| refuse("expected http://[user:password@]host:port"))?;
        let authorization = user.map(basic).transpose().map_err(refuse)?;
        Ok(Self { host: way.host, port: way.port, authorization })
    }

    /// The `Proxy-Authorization` header's value, if the proxy wants one.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_ref().map(Secret::expose)
    }

    /// Turns a connection to the proxy into one to OSS.
    pub(super) async fn tunnel(&self, stream: TcpStream, to: &Authority) -> io::Result<TcpStream> {
        let to = to.host_and_port();
        let mut request =
            Request::builder().method(Method::CONNECT).uri(&to).header(HOST, &to).header(USER_AGENT, AGENT);
        if let Some(value) = self.authorization() {
            let mut value = HeaderValue::from_str(value).map_err(io::Error::other)?;
            value.set_sensitive(true);
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let mut exchange = pin!(async {
            let reply = sender.send_request(request).await.map_err(io::Error::other)?;
            if reply.status() != StatusCode::OK {
                let (proxy, status) = (self.to_string(), reply.status().as_u16());
                return Err(io::Error::other(Refused { proxy, status, to: to.clone() }));
            }
            hyper::upgrade::on(reply).await.map_err(io::Error::other)
        });
        // The connection makes the exchange move; how it ends is seen by the exchange as well.
        let upgraded = tokio::select! {
            biased;
            result = &mut exchange => result,
            _ = connection.with_upgrades() => exchange.await,
        }?;
        let parts = upgraded
            .downcast::<TokioIo<TcpStream>>()
            .map_err(|_| io::Error::other("the tunnel is of another kind than its connection"))?;
        if !parts.read_buf.is_empty() {
            // In TLS the client speaks first.
            return Err(io::Error::other("it sent bytes into the tunnel that nobody asked for"));
        }
        Ok(parts.io.into_inner())
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { write!(f, "proxy [{host}]:{port}") } else { write!(f, "proxy {host}:{port}") }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// What to do about a proxy's answer, with the separator before it.
pub(super) fn advice(status: u16) -> &'static str {
    match status {
        407 => "; check user and password in the origin proxy's address",
        403 => "; its rules forbid this host or port",
        502..=504 => "; it cannot reach OSS: check the endpoint, and the proxy's own way out",
        _ => "",
    }
}

/// Whether this is an answer of a proxy that will be the same next time.
pub(super) fn is_final(error: &io::Error) -> bool {
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>());
    refused.is_some_and(|refused| refused.status < 500 && !matches!(refused.status, 408 | 429))
}

/// Basic authentication (RFC 7617).
fn basic(user: &str) -> Result<Secret, &'static str> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let decode = |text: &str| Zeroizing::new(percent_decode_str(text).collect::<Vec<u8>>());
    let (name, password) = (decode(name), decode(password));
    if name.is_empty() || name.contains(&b':') {
        return Err("the name of the user is empty or has a colon");
    }
    let mut both = Zeroizing::new(Vec::with_capacity(name.len() + password.len() + 1));
    both.extend_from_slice(&name);
    both.push(b':');
    both.extend_from_slice(&password);
    let encoded = Zeroizing::new(STANDARD.encode(&*both));
    Ok(Secret::new(&Zeroizing::new(format!("Basic {}", *encoded))))
}

/// Who answered with this status, for messages: OSS gives each reply a request id, and one without comes from the proxy.
pub(super) fn answerer(proxy: Option<&Proxy>, request_id: Option<&str>) -> Option<String> {
    proxy.filter(|_| request_id.is_none()).map(|proxy| printable(&proxy.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_passwords_not_shown() {
        for (text, shown, authorization) in [
            ("http://127.0.0.1:65001", "proxy 127.0.0.1:65001", None),
            ("cache.example:3128", "proxy cache.example:3128", None),
            (
                "HTTP://Aladdin:open%20sesame@[::1]:8080/",
                "proxy [::1]:8080",
                Some("QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ),
            ("http://user@host:1", "proxy host:1", Some("dXNlcjo=")),
            ("http://u:p@w@host:1", "proxy host:1", Some("dTpwQHc=")),
        ] {
            let proxy = Proxy::parse(&Secret::new(text)).unwrap();
            let expected = authorization.map(|value| format!("Basic {value}"));
            assert_eq!((proxy.to_string().as_str(), proxy.authorization()), (shown, expected.as_deref()));
            assert_eq!(format!("{proxy:?}"), format!("Proxy({shown})"));
        }
        for text in [
            "",
            "https://u:hush@host:1",
            "socks5://host:1",
            "http://u:hush@host:1/path",
            "http://:hush@host:1",
        ] {
            let error = Proxy::parse(&Secret::new(text)).unwrap_err().to_string();
            assert!(!error.contains("hush") && error.contains("origin proxy"), "{error}");
        }
    }
}
