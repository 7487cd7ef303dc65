//! One accepted connection as a byte stream, plain or TLS.
//!
//! Plain connections send file content with sendfile(2), TLS ones copy it. The socket is shared with the server, which
//! shuts it down to end a blocked thread; it is closed when the last of both lets go.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Bytes copied at once where sendfile cannot be used.
const COPY_STEP: usize = 256 << 10;

/// No content type of a TLS record (RFC 8446, 5.1).
const GARBAGE: u8 = 0xee;

/// The socket as rustls wants to own it.
#[derive(Debug)]
pub(crate) struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Layer {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

/// A connection.
pub(crate) struct Stream {
    socket: Arc<TcpStream>,
    layer: Layer,
    copy: Vec<u8>,
}

impl Stream {
    /// Wraps an accepted socket; the TLS handshake happens with the first read.
    pub(crate) fn new(socket: Arc<TcpStream>, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let own = Socket(Arc::clone(&socket));
        let layer = match tls {
            None => Layer::Plain(own),
            Some(config) => {
                let session = ServerConnection::new(config).map_err(io::Error::other)?;
                Layer::Tls(Box::new(StreamOwned::new(session, own)))
            }
        };
        Ok(Self { socket, layer, copy: Vec::new() })
    }

    /// Sends `len` bytes of `file` from `offset`; gives how many went, at least one.
    pub(crate) fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        if let Layer::Plain(socket) = &self.layer {
            let mut at = i64::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
            loop {
                match sendfile64(&*socket.0, file, Some(&mut at), len) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(sent) => return Ok(sent),
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let mut copy = std::mem::take(&mut self.copy);
        copy.resize(len.min(COPY_STEP), 0);
        let result = file.read_exact_at(&mut copy, offset).and_then(|()| self.write_all(&copy));
        let len = copy.len();
        self.copy = copy;
        result.map(|()| len)
    }

    /// Makes the coming close a reset (TCP RST) instead of an orderly end.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&*self.socket, sockopt::Linger, &linger).map_err(io::Error::from)
    }

    /// Writes bytes straight to the socket that are no TLS record.
    pub(crate) fn garble(&self) -> io::Result<()> {
        (&*self.socket).write_all(&[GARBAGE; 64])
    }

    /// Whether the client, or the stopping server, has closed the connection.
    pub(crate) fn is_gone(&self) -> bool {
        let hangup = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut fds = [PollFd::new(self.socket.as_fd(), hangup)];
        // Only hang-ups and errors are asked for. nix has no name for POLLRDHUP and then gives `None`.
        poll(&mut fds, PollTimeout::ZERO).is_err() || fds[0].any() != Some(false)
    }

    /// Ends the connection in good order: TLS says goodbye, and the client sees the end of the stream.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Layer::Tls(tls) = &mut self.layer {
            tls.conn.send_close_notify();
            tls.flush()?;
        }
        self.socket.shutdown(Shutdown::Write)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.read(buffer),
            Layer::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.write(bytes),
            Layer::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.flush(),
            Layer::Tls(tls) => tls.flush(),
        }
    }
}
