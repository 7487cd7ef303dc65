//! TCP sockets with a chosen source address. `oss` calls this for each new connection and connects the
//! socket itself; nothing is unsafe here. A source address that no interface of this machine has fails at
//! once with EADDRNOTAVAIL, which the caller reports with the address.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// An unconnected, non-blocking TCP socket for `remote`, bound to `source` if given.
///
/// The port is left to connect(2) (`IP_BIND_ADDRESS_NO_PORT`, ip(7)), so that the ephemeral ports are counted
/// per destination and many connections of one source do not run out of them. `TCP_NODELAY` is set: a request
/// is one small write whose reply is waited for.
pub fn tcp_socket(remote: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_the_source_address() {
        let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let socket = tcp_socket(remote, Some("127.0.0.7".parse().unwrap())).unwrap();
        assert_eq!(socket.local_addr().unwrap().ip().to_string(), "127.0.0.7");
        assert!(socket.nodelay().unwrap());
    }

    #[test]
    fn refuses_an_address_of_another_machine() {
        let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let error = tcp_socket(remote, Some("192.0.2.1".parse().unwrap())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
