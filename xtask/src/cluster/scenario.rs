//! What happens to a cluster while it loads, and how much worse than one node it may be then. Pure.

use std::fmt;

/// One way to load a model on many nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// All of the others, one after the other
    All,
    /// One node, without peers: what the others are compared with
    #[value(skip)]
    Single,
    /// All nodes run and know each other; all begin in the same moment
    Warm,
    /// As `warm`, and on each node a reader reads the model in order from the beginning
    Readers,
    /// Nodes start one after the other over a third of the load time
    Spread,
    /// Nodes start within two seconds
    Cold,
    /// A quarter of the load gone, two nodes are killed
    Kill,
    /// A quarter of the load gone, two nodes are stopped, and stay on the network
    Stop,
    /// A quarter of the load gone, two nodes lose their link
    Unplug,
    /// A tenth of the nodes has a quarter of the speed, and says so
    Slow,
    /// As `warm`, but blocks come from their owners only: it must be worse
    OwnersOnly,
    /// One node sends wrong bytes
    Liar,
    /// Half of the nodes cannot reach the other half for five seconds
    Partition,
    /// No node can reach another one
    NoPeers,
}

/// The most that is allowed; None where the run only shows something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gate {
    /// Mean time of the nodes that matter, in times of the single node.
    pub(crate) mean: f64,
    /// Bytes that the server sent, in models.
    pub(crate) origin: f64,
}

impl Scenario {
    /// Replaces `all` by what it stands for.
    pub(crate) fn expand(chosen: &[Self]) -> Vec<Self> {
        let all = [
            Self::Warm,
            Self::Readers,
            Self::Spread,
            Self::Cold,
            Self::Kill,
            Self::Stop,
            Self::Unplug,
            Self::Slow,
            Self::OwnersOnly,
            Self::Liar,
            Self::Partition,
            Self::NoPeers,
        ];
        let one = |scenario: &Self| if *scenario == Self::All { all.to_vec() } else { vec![*scenario] };
        chosen.iter().flat_map(one).collect()
    }

    /// What it must keep within.
    pub(crate) fn gate(self, nodes: u8) -> Option<Gate> {
        let (mean, origin) = match self {
            Self::Warm | Self::Readers => (1.15, 1.02),
            Self::Spread => (1.10, 1.08),
            Self::Cold => (1.20, 1.15),
            Self::Kill | Self::Stop | Self::Unplug => (1.20, 1.05),
            // What the liar reads is lost to all others, and read again: its share.
            Self::Liar => (1.20, 1.03 + 1.0 / f64::from(nodes)),
            Self::Slow => (1.15, 1.02),
            Self::Partition => (1.40, 1.30),
            // Each reads all of it, over the one link of the origin.
            Self::NoPeers => (f64::INFINITY, 1.01 * f64::from(nodes)),
            Self::All | Self::Single | Self::OwnersOnly => return None,
        };
        Some(Gate { mean, origin })
    }

    /// Whether agents start before the load does.
    pub(crate) fn is_warm(self) -> bool {
        !matches!(self, Self::Spread | Self::Cold)
    }

    /// Nodes that die.
    pub(crate) fn victims(self, nodes: u8) -> Vec<u8> {
        match self {
            Self::Kill | Self::Stop | Self::Unplug => {
                vec![1, nodes - 1].into_iter().take(usize::from(nodes / 2)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Nodes with slow links.
    pub(crate) fn slow(self, nodes: u8) -> std::ops::Range<u8> {
        match self {
            Self::Slow => 0..(nodes / 10).max(1),
            _ => 0..0,
        }
    }

    /// The node that lies.
    pub(crate) fn liar(self) -> Option<u8> {
        (self == Self::Liar).then_some(1)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Single => "one node alone",
            Self::Warm => "warm, same moment",
            Self::Readers => "warm, with readers in order",
            Self::Spread => "starts spread over 1/3 of the time",
            Self::Cold => "cold, within 2 s",
            Self::Kill => "2 killed at 25 %",
            Self::Stop => "2 stopped at 25 %",
            Self::Unplug => "2 unplugged at 25 %",
            Self::Slow => "1 in 10 at a quarter of the speed",
            Self::OwnersOnly => "warm, owners only",
            Self::Liar => "one sends wrong bytes",
            Self::Partition => "halves apart for 5 s",
            Self::NoPeers => "no peer reachable",
        })
    }
}
