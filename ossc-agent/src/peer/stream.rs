//! A connection between two agents, plain or TLS, and reading a head from it. Nothing here knows what is said on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::wire::{MAX_HEAD, Malformed};

/// An open connection.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
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

/// Bytes received and not used yet.
#[derive(Debug, Default)]
pub(super) struct Received(Vec<u8>);

/// How much is read at once while a head is awaited; the start of a body comes along.
const PIECE: usize = 4 << 10;

impl Received {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what there is, at most `max` bytes.
    pub(super) fn take(&mut self, max: usize) -> Vec<u8> {
        let rest = self.0.split_off(max.min(self.0.len()));
        std::mem::replace(&mut self.0, rest)
    }

    /// Receives until `parse` finds a head. Ok(None) if the peer ended the connection before the first byte.
    pub(super) async fn head<T>(
        &mut self,
        stream: &mut Stream,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Malformed>,
    ) -> io::Result<Option<T>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            if !self.0.is_empty()
                && let Some((head, length)) = parse(&self.0).map_err(invalid)?
            {
                self.0.drain(..length);
                return Ok(Some(head));
            }
            if self.0.len() >= MAX_HEAD {
                return Err(invalid(Malformed(format!("a head of more than {MAX_HEAD} bytes"))));
            }
            self.0.reserve(PIECE);
            if stream.read_buf(&mut self.0).await? == 0 {
                return if self.0.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// A small body of a known length.
    pub(super) async fn body(&mut self, stream: &mut Stream, length: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut body = self.take(length);
        let missing = length - body.len();
        body.reserve_exact(missing);
        let mut rest = stream.take(missing as u64);
        if rest.read_to_end(&mut body).await? < missing {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    }
}

/// The future's result, or `TimedOut` after `limit`.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
