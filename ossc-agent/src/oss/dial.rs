//! New connections: name to addresses, address to socket, by way of a proxy if one is set, socket to TLS. Both the control requests (`http`)
//! and the data path (`connection`) dial here. Holds nothing of a runtime, so threads with runtimes of their
//! own share one dialer. Failures are plain I/O errors; the callers add the object they were dialling for.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader, Interest, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::deadline::within;
use super::endpoint::Authority;
use super::proxy;
use super::requests::Requests;
use crate::base::Nic;
use crate::sys;

/// Time for a name's lookup, then for a TCP connect, then for a proxy's tunnel, then for a TLS handshake (py SDK v2 `defaults.py`: connect timeout 10 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many of a name's addresses one dial tries before it gives up.
const MAX_ADDRESSES_TRIED: usize = 3;
/// Size of the ciphertext buffer under TLS, bytes. rustls reads 4 KiB at a time by itself
/// (`DeframerVecBuffer::prepare_read`), which would be a system call for each 4 KiB.
const TLS_READ_BUFFER: usize = 256 << 10;

/// Fewer bytes than this are received as they come.
const WORTH_WAITING_FOR: usize = 128 << 10;

/// Makes connections; shared by all threads of a client.
#[derive(Debug)]
pub(super) struct Dialer {
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Counts dials, so that successive ones start at different addresses of a name.
    turn: AtomicUsize,
    /// What [`Dialer::connect_from_any`] binds to in turn.
    sources: Vec<Nic>,
    /// Who hears of each request. Here because whoever sends one has a dialer.
    pub(super) requests: Arc<Requests>,
}

/// An open connection.
pub(super) enum Stream {
    /// http://
    Plain {
        socket: TcpStream,
        /// The most bytes the kernel ever had waiting, and so has room for.
        most_waiting: usize,
    },
    /// https://
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

impl Dialer {
    /// `tls` is needed only if an https address will be dialled.
    pub(super) fn new(
        tls: Option<Arc<rustls::ClientConfig>>,
        sources: Vec<Nic>,
        requests: Arc<Requests>,
    ) -> Self {
        Self { tls, turn: AtomicUsize::new(0), sources, requests }
    }

    /// Connects from the next of the configured source addresses, for a request that is not bound to one.
    pub(super) async fn connect_from_any(&self, to: &Authority) -> io::Result<(Stream, Option<&Nic>)> {
        let turn = self.turn.load(Ordering::Relaxed);
        let source = self.sources.get(turn % self.sources.len().max(1));
        Ok((self.connect(to, source).await?, source))
    }

    /// Connects, bound to `source` if given. Tries the addresses of a name in turn.
    pub(super) async fn connect(&self, to: &Authority, source: Option<&Nic>) -> io::Result<Stream> {
        let (host, port) = to.next_hop();
        let name = to.proxy.as_ref().map_or_else(|| host.to_owned(), ToString::to_string);
        let lookup = tokio::net::lookup_host((host, port));
        let found = within(CONNECT_TIMEOUT, lookup).await.map_err(|error| about(&name, &error))?;
        let found: Vec<SocketAddr> = found.collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let none = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut last = about(&format!("{name} has no address of the source's family"), &none);
        for address in rotate(&found, source, turn).into_iter().take(MAX_ADDRESSES_TRIED) {
            match self.connect_address(to, address, source).await {
                Ok(stream) => return Ok(stream),
                Err(error) if proxy::is_final(&error) => return Err(error),
                Err(error) if to.proxy.is_some() => last = about(&format!("by {name}, {address}"), &error),
                Err(error) => last = about(&address.to_string(), &error),
            }
        }
        Err(last)
    }

    async fn connect_address(
        &self,
        to: &Authority,
        address: SocketAddr,
        source: Option<&Nic>,
    ) -> io::Result<Stream> {
        let socket = sys::socket::tcp_socket(address, source).map_err(|error| match source {
            Some(source) => about(&format!("from source {source}"), &error),
            None => error,
        })?;
        let mut stream = within(CONNECT_TIMEOUT, TcpSocket::from_std_stream(socket).connect(address)).await?;
        if !to.tls {
            return Ok(Stream::Plain { socket: stream, most_waiting: 0 });
        }
        if let Some(proxy) = &to.proxy {
            stream = within(CONNECT_TIMEOUT, proxy.tunnel(stream, to)).await?;
        }
        let config = self.tls.clone().ok_or_else(|| io::Error::other("TLS is not set up"))?;
        let name = ServerName::try_from(to.host.clone()).map_err(io::Error::other)?;
        let buffered = BufReader::with_capacity(TLS_READ_BUFFER, stream);
        let stream = within(CONNECT_TIMEOUT, TlsConnector::from(config).connect(name, buffered)).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

impl Stream {
    /// Lets the next bytes wake us however few they are.
    pub(super) fn wake_at_once(&self) -> io::Result<()> {
        match self {
            Self::Plain { socket, .. } => sys::socket::set_low_water(socket, 1),
            Self::Tls(_) => Ok(()),
        }
    }

    /// Waits for something to receive, and so that it is worth it: `bytes`, or half of what the kernel is known to
    /// have room for. One wake-up for a piece instead of one for each packet. Waiting for more than that would stop
    /// a sender whose window is not so large yet. Under TLS, where packets are not the body's bytes, returns at once.
    pub(super) async fn wait_for(&mut self, bytes: usize) -> io::Result<()> {
        let Self::Plain { socket, most_waiting } = self else { return Ok(()) };
        let waiting = sys::socket::arrived(socket)?;
        if waiting >= bytes {
            return Ok(());
        }
        *most_waiting = waiting.max(*most_waiting);
        let worth = bytes.min(*most_waiting / 2);
        if worth < WORTH_WAITING_FOR {
            // As they come; so it is learned what there is room for.
            return if waiting > 0 { Ok(()) } else { next_event(socket, 1).await };
        }
        if waiting >= worth { Ok(()) } else { next_event(socket, worth).await }
    }

    /// How many bytes the kernel has that were not received yet.
    pub(super) fn arrived(&self) -> usize {
        sys::socket::arrived(self.socket()).unwrap_or(0)
    }

    /// The address that it comes from.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.socket().local_addr().ok()
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain { socket, .. } => socket,
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
        }
    }

    /// Receives what is there, waiting for it only if there is nothing; 0 at the end.
    pub(super) async fn receive(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain { socket, .. } => loop {
                // Not by the socket's readiness, which says nothing of what came before the last event.
                match recv(socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                    Ok(count) => return Ok(count),
                    Err(Errno::EAGAIN) => next_event(socket, 1).await?,
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            },
            Self::Tls(stream) => stream.read(room).await,
        }
    }
}

/// Waits until so many bytes are there, the kernel has no more room, or the connection has ended.
async fn next_event(socket: &TcpStream, bytes: usize) -> io::Result<()> {
    // The last event is used up: forget it, then let the kernel look anew at what is there.
    let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    socket.try_io(Interest::READABLE, forget).unwrap_or_default();
    sys::socket::set_low_water(socket, bytes)?;
    socket.readable().await
}

/// The same error, saying what it is about.
fn about(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The addresses to try, in order: those of the source's family, the resolver's preferred family (that of its
/// first answer) before the other, and within it a different first one at each turn.
fn rotate(found: &[SocketAddr], source: Option<&Nic>, turn: usize) -> Vec<SocketAddr> {
    let usable = |address: &&SocketAddr| match source {
        Some(Nic::Address(source)) => source.is_ipv4() == address.is_ipv4(),
        Some(Nic::Interface(_)) | None => true,
    };
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
            Self::Plain { socket, .. } => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { socket, .. } => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { socket, .. } => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { socket, .. } => Pin::new(socket).poll_shutdown(cx),
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
        assert_eq!(rotate(&found, Some(&"::2".parse().unwrap()), 7), parse(&["[::1]:80"]));
        assert_eq!(rotate(&[], None, 3), []);
    }
}
