//! Several nodes on one machine that load the same model and share its blocks: one bucket, and for each node a model
//! directory, a state directory and an address of its own.
//!
//! Driven by the tests, which start an agent for each node. The addresses are of the loopback network and unique to
//! the test process, so that tests need no free port and do not meet each other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Context;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Config};

use crate::agent::Start;
use crate::origin::{ModelFile, Origin};
use crate::scratch::{FileSystem, Scratch};

/// Room for the copies of all nodes; only what is written takes space.
const FILE_SYSTEM_BYTES: u64 = 4 << 30;
/// Where agents ask each other.
const PORT: u16 = 7600;

/// Tells clusters of one test process apart.
static CLUSTERS: AtomicU8 = AtomicU8::new(1);

/// Places and bucket of one test.
#[derive(Debug)]
pub struct Cluster {
    disk: Scratch,
    states: Vec<Scratch>,
    origin: Origin,
    network: [u8; 2],
}

impl Cluster {
    /// `nodes` nodes and a server of this configuration.
    pub fn new(nodes: u8, config: Config, files: Vec<ModelFile>) -> anyhow::Result<Self> {
        let disk = Scratch::mounted(FileSystem::Ext4, FILE_SYSTEM_BYTES)?;
        let origin = Origin::start(config, files)?;
        let states = (0..nodes).map(|_| Scratch::directory()).collect::<anyhow::Result<_>>()?;
        let process = std::process::id().to_le_bytes();
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        // 127.0 is everybody's; the low bits of the process number and the cluster's number make the network.
        let network = [process[0] | 1, process[1].rotate_left(4) ^ number];
        let cluster = Self { disk, states, origin, network };
        for node in 0..nodes {
            let directory = cluster.model_dir(node);
            std::fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        }
        Ok(cluster)
    }

    /// The bucket.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The nodes' numbers.
    pub fn nodes(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.states.len()).unwrap_or(u8::MAX)
    }

    /// Where the model appears on a node.
    #[must_use]
    pub fn model_dir(&self, node: u8) -> PathBuf {
        self.disk.path().join(format!("node-{node}"))
    }

    /// Where a node is asked.
    #[must_use]
    pub fn address(&self, node: u8) -> SocketAddr {
        let [a, b] = self.network;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, a, b, node + 1)), PORT)
    }

    /// The agent of a node, which knows all others by a list and asks for no proof of who they are.
    #[must_use]
    pub fn start(&self, node: u8) -> Start {
        self.secured(node).argument("--insecure-peers")
    }

    /// The agent of a node without any word on how peers know each other.
    #[must_use]
    pub fn secured(&self, node: u8) -> Start {
        let seeds: Vec<_> = self.nodes().map(|node| self.address(node).to_string()).collect();
        self.without_peers(node)
            .variable("OSSC_PEERS_LISTEN", self.address(node).to_string())
            .variable("OSSC_PEERS", seeds.join(","))
    }

    /// The agent of a node that shares nothing.
    #[must_use]
    pub fn without_peers(&self, node: u8) -> Start {
        let server = self.origin.server();
        let state = self.states.get(usize::from(node)).map_or(self.disk.path(), Scratch::path);
        Start::new(state)
            .variable("OSS_ENDPOINT", server.endpoint())
            .variable("OSS_REGION", "cn-hangzhou")
            .variable("OSS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .variable("OSS_ACCESS_KEY_SECRET", ACCESS_KEY_SECRET)
            .variable("OSS_PATH", self.origin.path())
            .variable("MODEL_DIR", self.model_dir(node))
    }

    /// Compares every byte of every file of a node.
    pub fn check(&self, node: u8) -> anyhow::Result<()> {
        for (file, target) in self.origin.files().iter().zip(self.origin.targets(&self.model_dir(node))) {
            target.check_whole(file.size).with_context(|| format!("node {node}"))?;
        }
        Ok(())
    }
}
