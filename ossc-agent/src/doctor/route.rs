//! Whether packets from a source address leave by the NIC that has it. Without a rule for each address the
//! kernel routes by destination alone, so that every connection leaves by the first NIC whatever address it
//! was bound to (docs/networking.md has the rules).

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_indextoname;

use super::report::Check;

/// The route from `source` to the first of the endpoint's addresses of its family.
pub(super) fn check(source: IpAddr, endpoint: &[SocketAddr]) -> Check {
    let name = format!("source {source}");
    let Some(owner) = interface_of(source) else {
        return Check::fail(name, "no NIC of this machine has it", "give addresses that `ip address` shows");
    };
    let Some(target) = endpoint.iter().find(|to| to.is_ipv4() == source.is_ipv4()) else {
        let advice = "give an IPv4 source, or an endpoint with IPv6";
        return Check::fail(name, "the endpoint has no address of this family", advice);
    };
    match leaves_by(source, target.ip()) {
        Ok(interface) => judge(name, &owner, &interface, &speed(&owner)),
        Err(error) => Check::fail(
            name,
            format!("{owner} has it, but there is no route from it to {}: {error}", target.ip()),
            "add a route for this address; see docs/networking.md",
        ),
    }
}

fn judge(name: String, owner: &str, leaves_by: &str, speed: &str) -> Check {
    // An address of this machine itself is reached by lo, whoever has it.
    if leaves_by == owner || leaves_by == "lo" {
        return Check::ok(name, format!("leaves by {owner}{speed}"));
    }
    Check::fail(
        name,
        format!("{owner} has it, but packets from it leave by {leaves_by}"),
        format!("add a rule `ip rule add from {owner}'s address lookup TABLE`; see docs/networking.md"),
    )
}

/// The NIC that has an address.
fn interface_of(address: IpAddr) -> Option<String> {
    let is_it = |found: &nix::sys::socket::SockaddrStorage| match address {
        IpAddr::V4(v4) => found.as_sockaddr_in().is_some_and(|found| found.ip() == v4),
        IpAddr::V6(v6) => found.as_sockaddr_in6().is_some_and(|found| found.ip() == v6),
    };
    let mut all = getifaddrs().ok()?;
    all.find(|entry| entry.address.as_ref().is_some_and(is_it)).map(|entry| entry.interface_name)
}

/// Its speed, where the driver tells one; virtual ones do not.
fn speed(interface: &str) -> String {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/speed")).unwrap_or_default();
    match text.trim().parse::<u32>() {
        Ok(mbits) if mbits < u32::MAX => format!(", {mbits} Mbit/s"),
        _ => String::new(),
    }
}

/// Asks the kernel for the route of a packet (RTM_GETROUTE, rtnetlink(7)), and names the NIC it leaves by.
fn leaves_by(source: IpAddr, target: IpAddr) -> io::Result<String> {
    let mut message = RouteMessage::default();
    let (family, bits) =
        if source.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    message.header.address_family = family;
    message.header.source_prefix_length = bits;
    message.header.destination_prefix_length = bits;
    message.attributes.push(RouteAttribute::Source(route_address(source)));
    message.attributes.push(RouteAttribute::Destination(route_address(target)));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(header, RouteNetlinkMessage::GetRoute(message).into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply).map_err(io::Error::other)?;
    match reply.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            let index = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let index = index.ok_or_else(|| io::Error::other("the route names no NIC"))?;
            Ok(if_indextoname(index)?.to_string_lossy().into_owned())
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("the kernel answered {other:?}"))),
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_kernel_tells_the_way() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(interface_of(here).as_deref(), Some("lo"));
        assert_eq!(leaves_by(here, here).unwrap(), "lo");
        let endpoint = [SocketAddr::new(here, 80)];
        assert_eq!(check(here, &endpoint).verdict, Verdict::Ok);
        assert_eq!(check("192.0.2.7".parse().unwrap(), &endpoint).verdict, Verdict::Fail);
        assert_eq!(check("::1".parse().unwrap(), &endpoint).verdict, Verdict::Fail, "another family");
    }

    /// Two NICs in a network namespace of this thread, which ends with it.
    #[test]
    fn without_a_rule_the_second_nic_is_never_used() {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let ip = |line: &str| {
            let status = Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "ip {line}");
        };
        for (nic, address) in [("a0", "198.51.100.1/25"), ("b0", "198.51.100.129/25")] {
            ip(&format!("link add {nic} type veth peer name {nic}-peer"));
            ip(&format!("address add {address} dev {nic}"));
            ip(&format!("link set {nic} up"));
            ip(&format!("link set {nic}-peer up"));
        }
        ip("route add default dev a0");
        let endpoint = [SocketAddr::new("203.0.113.9".parse().unwrap(), 443)];
        let look = |source: &str| check(source.parse().unwrap(), &endpoint);
        assert_eq!(look("198.51.100.1").verdict, Verdict::Ok);
        let wrong = look("198.51.100.129");
        assert_eq!((wrong.verdict, wrong.seen.contains("leave by a0")), (Verdict::Fail, true), "{wrong:?}");
        ip("route add default dev b0 table 101");
        ip("rule add from 198.51.100.129 lookup 101");
        assert_eq!(look("198.51.100.129").verdict, Verdict::Ok, "{:?}", look("198.51.100.129"));
    }
}
