//! New connections: name to addresses, address to socket, socket to TLS. Both the control requests (`http`)
//! and the data path (`connection`) dial here. Holds nothing of a runtime, so threads with runtimes of their
//! own share one dialer. Failures are plain I/O errors; the callers add the object they were dialling for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::deadline::within;
use super::endpoint::Authority;
use crate::sys;

/// Time for a name's lookup, then for a TCP connect, then for a TLS handshake (py SDK v2 `defaults.py`: connect timeout 10 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many of a name's addresses one dial tries before it gives up.
const MAX_ADDRESSES_TRIED: usize = 3;
/// Size of the ciphertext buffer under TLS, bytes. rustls reads 4 KiB at a time by itself
/// (`DeframerVecBuffer::prepare_read`), which would be a system call for each 4 KiB.
const TLS_READ_BUFFER: usize = 256 << 10;

/// Makes connections; shared by all threads of a client.
#[derive(Debug)]
pub(super) struct Dialer {
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Counts dials, so that successive ones start at different addresses of a name.
    turn: AtomicUsize,
    /// What [`Dialer::connect_from_any`] binds to in turn.
    sources: Vec<IpAddr>,
}

/// An open connection.
pub(super) enum Stream {
    /// http://
    Plain(TcpStream),
    /// https://
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

impl Dialer {
    /// `tls` is needed only if an https address will be dialled.
    pub(super) fn new(tls: Option<Arc<rustls::ClientConfig>>, sources: Vec<IpAddr>) -> Self {
        Self { tls, turn: AtomicUsize::new(0), sources }
    }

    /// Connects from the next of the configured source addresses, for a request that is not bound to one.
    pub(super) async fn connect_from_any(&self, to: &Authority) -> io::Result<Stream> {
        let turn = self.turn.load(Ordering::Relaxed);
        let source = self.sources.get(turn % self.sources.len().max(1)).copied();
        self.connect(to, source).await
    }

    /// Connects, bound to `source` if given. Tries the addresses of a name in turn.
    pub(super) async fn connect(&self, to: &Authority, source: Option<IpAddr>) -> io::Result<Stream> {
        let lookup = tokio::net::lookup_host((to.host.as_str(), to.port));
        let found = within(CONNECT_TIMEOUT, lookup).await.map_err(|error| about(&to.host, &error))?;
        let found: Vec<SocketAddr> = found.collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let none = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut last = about(&format!("{} has no address of the source's family", to.host), &none);
        for address in rotate(&found, source, turn).into_iter().take(MAX_ADDRESSES_TRIED) {
            match self.connect_address(to, address, source).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = about(&address.to_string(), &error),
            }
        }
        Err(last)
    }

    async fn connect_address(
        &self,
        to: &Authority,
        address: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<Stream> {
        let socket = sys::socket::tcp_socket(address, source).map_err(|error| match source {
            Some(source) => about(&format!("from source address {source}"), &error),
            None => error,
        })?;
        let stream = within(CONNECT_TIMEOUT, TcpSocket::from_std_stream(socket).connect(address)).await?;
        if !to.tls {
            return Ok(Stream::Plain(stream));
        }
        let config = self.tls.clone().ok_or_else(|| io::Error::other("TLS is not set up"))?;
        let name = ServerName::try_from(to.host.clone()).map_err(io::Error::other)?;
        let buffered = BufReader::with_capacity(TLS_READ_BUFFER, stream);
        let stream = within(CONNECT_TIMEOUT, TlsConnector::from(config).connect(name, buffered)).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// The same error, saying what it is about.
fn about(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The addresses to try, in order: those of the source's family, the resolver's preferred family (that of its
/// first answer) before the other, and within it a different first one at each turn.
fn rotate(found: &[SocketAddr], source: Option<IpAddr>, turn: usize) -> Vec<SocketAddr> {
    let usable = |address: &&SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    let found: Vec<SocketAddr> = found.iter().filter(usable).copied().collect();
    let Some(first) = found.first() else { return found };
    let (mut order, others): (Vec<_>, Vec<_>) =
        found.iter().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    let start = turn % order.len();
    order.rotate_left(start);
    order.extend(others);
    order
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_within_the_preferred_family() {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = parse(&["10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "10.0.0.3:80"]);
        assert_eq!(
            rotate(&found, None, 0),
            parse(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "[::1]:80"])
        );
        assert_eq!(
            rotate(&found, None, 4),
            parse(&["10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80", "[::1]:80"])
        );
        assert_eq!(rotate(&found, Some("::2".parse().unwrap()), 7), parse(&["[::1]:80"]));
        assert_eq!(rotate(&[], None, 3), []);
    }
}
