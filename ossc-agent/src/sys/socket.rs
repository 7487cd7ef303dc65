//! TCP sockets with a chosen source, and when they count as readable. `oss` makes each new connection's socket here
//! and connects it itself. A source address that no interface of this machine has fails at once with EADDRNOTAVAIL,
//! an interface that there is not with ENODEV; the caller reports either with what was asked for.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::base::Nic;

/// Length of an int socket option.
const INT_LEN: libc::socklen_t = 4;
const _: () = assert!(size_of::<libc::c_int>() == INT_LEN as usize);

/// An unconnected, non-blocking TCP socket for `remote`, bound to `source` if given: to its address, or to the
/// interface itself (`SO_BINDTODEVICE`, socket(7)), which then takes all of its packets.
///
/// The port is left to connect(2) (`IP_BIND_ADDRESS_NO_PORT`, ip(7)), so that the ephemeral ports are counted
/// per destination and many connections of one source do not run out of them. `TCP_NODELAY` is set: a request
/// is one small write whose reply is waited for.
pub fn tcp_socket(remote: SocketAddr, source: Option<&Nic>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match source {
        Some(Nic::Address(address)) => {
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(*address, 0).into())?;
        }
        Some(Nic::Interface(name)) => socket.bind_device(Some(name.as_bytes()))?,
        None => {}
    }
    Ok(socket.into())
}

/// How many bytes have arrived and were not taken yet (FIONREAD, tcp(7)).
pub fn arrived(socket: &impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which `count` is.
    let outcome = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(outcome)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Makes the socket readable, for poll(2) and epoll(7), only with so many bytes there: `SO_RCVLOWAT`, socket(7).
/// The kernel still says readable when the connection ends or its buffer has no more room (`tcp_epollin_ready()`
/// in net/ipv4/tcp_input.c), and looks anew at what is there with each call (`tcp_set_rcvlowat()`).
pub fn set_low_water(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes.max(1)).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads one int, which `bytes` is.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            INT_LEN,
        )
    };
    Errno::result(outcome)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn binds_the_source_address() {
        let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let socket = tcp_socket(remote, Some(&"127.0.0.7".parse().unwrap())).unwrap();
        assert_eq!(socket.local_addr().unwrap().ip().to_string(), "127.0.0.7");
        assert!(socket.nodelay().unwrap());
    }

    #[test]
    fn is_readable_only_with_enough_bytes_or_at_the_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let readable = |timeout: u16| {
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).unwrap() == 1
        };
        set_low_water(&socket, 1000).unwrap();
        peer.write_all(&[1; 999]).unwrap();
        // Waiting shows nothing but the absence of an event; that the bytes are there is asked, not waited for.
        while arrived(&socket).unwrap() < 999 {}
        assert!(!readable(0));
        peer.write_all(&[1]).unwrap();
        assert!(readable(10_000));
        set_low_water(&socket, 1001).unwrap();
        assert!(!readable(0));
        drop(peer);
        assert!(readable(10_000));
    }

    #[test]
    fn refuses_an_address_of_another_machine() {
        let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let error = tcp_socket(remote, Some(&"192.0.2.1".parse().unwrap())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let error = tcp_socket(remote, Some(&"no-such-nic".parse().unwrap())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENODEV as i32));
    }
}
