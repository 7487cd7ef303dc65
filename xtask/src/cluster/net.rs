//! The network of a cluster: a namespace for each node and one for the origin, all joined by a router in a namespace of
//! its own, with a token bucket at both ends of each link. Dropped, all of it goes away; what an earlier run left that
//! was killed is removed first.
//!
//! A router and not a bridge: behind a bridge every node is every other's neighbour, and the kernel has one table of
//! neighbours for all namespaces, 1024 at most (`net.ipv4.neigh.default.gc_thresh3`). 50 nodes would be 2500, and
//! what finds no place there is dropped without a word. Here each node has one neighbour, as in a cloud's network.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cmd;

/// Begins the names of all namespaces; the process number follows.
const NAME: &str = "ossc-cluster-";
/// Where ip(8) keeps named namespaces.
const NAMESPACES: &str = "/run/netns";

/// All of the cluster's addresses.
const ALL: &str = "10.77.0.0/16";
/// The router, on each of its links.
const ROUTER: &str = "169.254.1.1";
/// The third byte of the addresses of each half.
const HALVES: [u8; 2] = [0, 2];

/// The namespaces of one run.
#[derive(Debug)]
pub(crate) struct Network {
    /// All of them, the router's first.
    names: Vec<String>,
    nodes: u8,
}

impl Network {
    /// Where the origin is.
    pub(crate) const ORIGIN: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);

    /// Makes it; speeds in Mbit/s.
    pub(crate) fn make(nodes: u8, link: u32, origin: u32) -> Result<Self> {
        remove_stale()?;
        let mut network = Self { names: Vec::new(), nodes };
        let hub = network.add("hub")?;
        set(&hub, "ip_forward", "1")?;
        // Nobody is told that a node is gone.
        ip(&["-n", &hub, "route", "add", "blackhole", ALL])?;
        network.join("origin", Self::ORIGIN, origin)?;
        for node in 0..nodes {
            network.join(&node.to_string(), Self::address(node, nodes), link)?;
        }
        Ok(network)
    }

    /// Where a node is: each half of the nodes has a network of its own.
    pub(crate) fn address(node: u8, nodes: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, if node < nodes / 2 { HALVES[0] } else { HALVES[1] }, node + 1)
    }

    /// Gives a node's link another speed, Mbit/s.
    pub(crate) fn set_speed(&self, node: u8, speed: u32) -> Result<()> {
        shape(&name("hub"), &format!("p-{node}"), speed)?;
        shape(&self.node(node), "eth0", speed)
    }

    /// Takes a node off the network, and nobody is told.
    pub(crate) fn unplug(&self, node: u8) -> Result<()> {
        ip(&["-n", &name("hub"), "link", "set", &format!("p-{node}"), "down"])
    }

    /// From now on nothing goes from the node to another one.
    pub(crate) fn isolate(&self, node: u8) -> Result<()> {
        HALVES.iter().try_for_each(|half| self.blackhole("add", node, *half))
    }

    /// Parts the halves, or joins them again.
    pub(crate) fn part(&self, apart: bool) -> Result<()> {
        let what = if apart { "add" } else { "del" };
        (0..self.nodes).try_for_each(|node| {
            let other = if node < self.nodes / 2 { HALVES[1] } else { HALVES[0] };
            self.blackhole(what, node, other)
        })
    }

    fn blackhole(&self, what: &str, node: u8, half: u8) -> Result<()> {
        ip(&["-n", &self.node(node), "route", what, "blackhole", &format!("10.77.{half}.0/24")])
    }

    /// The origin's namespace.
    pub(crate) fn origin(&self) -> String {
        name("origin")
    }

    /// A node's namespace.
    pub(crate) fn node(&self, node: u8) -> String {
        name(&node.to_string())
    }

    fn add(&mut self, what: &str) -> Result<String> {
        let name = name(what);
        ip(&["netns", "add", &name])?;
        self.names.push(name.clone());
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        // Not what this machine chose, so that runs compare; others may not be allowed in a namespace.
        set(&name, "tcp_congestion_control", "reno")?;
        Ok(name)
    }

    fn join(&mut self, what: &str, address: Ipv4Addr, speed: u32) -> Result<()> {
        let (hub, port) = (name("hub"), format!("p-{what}"));
        let inside = self.add(what)?;
        ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &inside])?;
        ip(&["-n", &hub, "addr", "add", &format!("{ROUTER}/32"), "dev", &port])?;
        ip(&["-n", &hub, "link", "set", &port, "up"])?;
        ip(&["-n", &hub, "route", "add", &format!("{address}/32"), "dev", &port])?;
        ip(&["-n", &inside, "addr", "add", &format!("{address}/32"), "dev", "eth0"])?;
        ip(&["-n", &inside, "link", "set", "eth0", "up"])?;
        ip(&["-n", &inside, "route", "add", ALL, "via", ROUTER, "dev", "eth0", "onlink"])?;
        for (namespace, device) in [(&hub, port.as_str()), (&inside, "eth0")] {
            shape(namespace, device, speed)?;
        }
        Ok(())
    }
}

/// Limits what goes out of a device.
fn shape(namespace: &str, device: &str, speed: u32) -> Result<()> {
    let rate = format!("{speed}mbit");
    // Room for 4 ms of the rate, and never less than some large segments.
    let burst = (u64::from(speed) * 500).max(128 << 10).to_string();
    let arguments = [
        "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate, "burst", &burst,
        "latency", "50ms",
    ];
    cmd::quietly(Command::new("tc").args(arguments))
}

/// Sets a parameter of a namespace's network, `net.ipv4.NAME`.
fn set(namespace: &str, name: &str, value: &str) -> Result<()> {
    ip(&["netns", "exec", namespace, "sh", "-c", &format!("echo {value} > /proc/sys/net/ipv4/{name}")])
}

fn name(what: &str) -> String {
    format!("{NAME}{}-{what}", std::process::id())
}

fn ip(arguments: &[&str]) -> Result<()> {
    cmd::quietly(Command::new("ip").args(arguments))
}

/// Removes the namespaces of runs that were killed.
fn remove_stale() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return Ok(()) };
    for entry in entries {
        let name = entry.context("cannot list the network namespaces")?.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some((pid, _)) = name.strip_prefix(NAME).and_then(|rest| rest.split_once('-')) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            ip(&["netns", "delete", name])?;
        }
    }
    Ok(())
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.names.iter().rev() {
            if let Err(error) = ip(&["netns", "delete", name]) {
                eprintln!("xtask: the network namespace {name} is still there: {error:#}");
            }
        }
    }
}
