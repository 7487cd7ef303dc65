//! A cluster in simulated time: each node has the real [`Swarm`]; links are queues of fixed speed, the origin is one
//! more link with a delay. Events are taken in order of time, so a run is repeatable. Driven by the tests beside it and
//! by `cargo xtask cluster --simulate`; part of no release.
//!
//! Left out: TCP, processors, switches, and what readers ask for out of turn. A sender's queue has no end, and blocks
//! leave it one after the other, where the real one sends some at a time.

mod node;

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::answer::Question;
use super::bitmap::Bitmap;
use super::counts::Counts;
use super::id::{Name, ObjectId};
use super::membership::{A_ROUND, ROUND};
use super::placement::{self, Candidate, NodeKey};
use super::pursuit::{Outcome, Pursuit};
use super::swarm::{Settings, Swarm};
use crate::base::{BlockIndex, BlockSize, Layout};

/// Far more than any run should take, and what a connection to a node that is gone takes to fail.
const END: Duration = Duration::from_secs(6000);
const NO_ANSWER: Duration = Duration::from_millis(300);
/// How long warm nodes run before the load begins.
const LEAD: Duration = Duration::from_secs(2);

/// What a block takes on each part of its way, and how long a message is on its way.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// Out of a node.
    pub up: Duration,
    /// Into a node and its file.
    pub down: Duration,
    /// Out of the origin, which all nodes share.
    pub origin: Duration,
    /// From a request to the origin until its block comes, if nothing else does.
    pub first_byte: Duration,
    /// One way between nodes.
    pub delay: Duration,
}

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Nodes.
    pub nodes: usize,
    /// Blocks of the model.
    pub blocks: u32,
    /// Bytes of a block.
    pub block_size: BlockSize,
    /// Bounds of the schedule.
    pub settings: Settings,
    /// Speeds.
    pub links: Links,
    /// All nodes run before the load begins, and know each other.
    pub warm: bool,
    /// Nodes start evenly over this time.
    pub spread: Duration,
    /// Nodes that die, and when.
    pub deaths: Vec<(usize, Duration)>,
    /// Sends wrong bytes.
    pub liar: Option<usize>,
    /// One in so many nodes has a link that is so many times slower, and says so.
    pub slow: Option<(usize, u32)>,
    /// A node that starts long after the others.
    pub late: Option<(usize, Duration)>,
    /// No connection between nodes works, though they hear of each other at first.
    pub cut: bool,
    /// Each node begins at another place.
    pub scattered: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 1,
            blocks: 1,
            block_size: BlockSize::MIN,
            settings: Settings { look_ahead: 64 << 20, window: 256 << 20, ..Settings::default() },
            links: Links {
                up: Duration::from_millis(10),
                down: Duration::from_millis(10),
                origin: Duration::from_millis(5),
                first_byte: Duration::from_millis(50),
                delay: Duration::from_micros(200),
            },
            warm: false,
            spread: Duration::ZERO,
            deaths: Vec::new(),
            liar: None,
            slow: None,
            late: None,
            cut: false,
            scattered: false,
        }
    }
}

enum What {
    Start(usize),
    Begin(usize),
    Die(usize),
    News(usize),
    Step(usize, u64),
    Question {
        at: usize,
        from: usize,
        pursuit: u64,
        question: Question,
        wait: Duration,
    },
    Outcome {
        node: usize,
        pursuit: u64,
        of: usize,
        outcome: Outcome,
    },
    GiveUp {
        at: usize,
        block: BlockIndex,
        from: usize,
        pursuit: u64,
    },
    /// The first byte of a block leaves, and the last one at `last`; from the origin if from nobody.
    Flow {
        from: Option<usize>,
        to: usize,
        pursuit: u64,
        last: Instant,
    },
    /// The last byte has come.
    Came {
        from: Option<usize>,
        to: usize,
        pursuit: u64,
    },
}

/// An event and its time; the earliest is the greatest.
struct Due {
    when: Instant,
    number: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.when, other.number).cmp(&(self.when, self.number))
    }
}

struct Parked {
    from: usize,
    pursuit: u64,
    question: Question,
}

struct Node {
    swarm: Swarm,
    have: Bitmap,
    /// There, or on its way.
    taken: Bitmap,
    pursuits: HashMap<u64, Pursuit>,
    parked: HashMap<BlockIndex, Vec<Parked>>,
    wanted: VecDeque<BlockIndex>,
    /// When each block came, microseconds since the begin of the run.
    came: Vec<u32>,
    /// Blocks that may be this node's to read; empty if that may change.
    own: Vec<u32>,
    /// The first block that is not there.
    first: u32,
    /// The peer to ask next what it has, and those that did not answer.
    turn: usize,
    silent: HashSet<usize>,
    started: Option<Instant>,
    /// When its load began.
    began: Option<Instant>,
    finished: Option<Instant>,
    died: Option<Instant>,
    up: Instant,
    down: Instant,
}

/// A run and what came of it.
pub struct Sim {
    setup: Setup,
    names: Vec<Name>,
    begin: Instant,
    now: Instant,
    nodes: Vec<Node>,
    events: BinaryHeap<Due>,
    count: u64,
    /// Nodes that have not finished and live.
    running: usize,
    origin: Instant,
    /// The foremost node's first missing block.
    furthest: u32,
    origin_reads: u32,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("setup", &self.setup).finish_non_exhaustive()
    }
}

fn object() -> ObjectId {
    ObjectId::from_bytes([9; 16])
}

impl Sim {
    /// Runs it to its end.
    ///
    /// # Panics
    /// When the load does not end, or a node loses count of its requests: that is what a run is for.
    #[must_use]
    pub fn run(setup: Setup) -> Self {
        let begin = Instant::now();
        let size = u64::from(setup.blocks) * setup.block_size.bytes();
        let layout = Layout::new(size, setup.block_size).expect("a model of at least one block");
        let name = |node: usize| format!("node-{node}").parse().expect("a name");
        let names: Vec<Name> = (0..setup.nodes).map(name).collect();
        let mut sim = Self {
            begin,
            now: begin,
            nodes: Vec::new(),
            names,
            events: BinaryHeap::new(),
            count: 0,
            running: setup.nodes,
            origin: begin,
            furthest: 0,
            origin_reads: 0,
            setup,
        };
        for node in 0..sim.setup.nodes {
            let me = (sim.names[node].clone(), sim.weight(node));
            let files = vec![(object(), layout)];
            sim.nodes.push(Node {
                swarm: Swarm::new(sim.setup.settings.clone(), me, files, node as u64, begin),
                have: Bitmap::new(sim.setup.blocks),
                taken: Bitmap::new(sim.setup.blocks),
                pursuits: HashMap::new(),
                parked: HashMap::new(),
                wanted: VecDeque::new(),
                came: vec![0; sim.setup.blocks as usize],
                own: Vec::new(),
                first: 0,
                turn: node + 1,
                silent: HashSet::new(),
                started: None,
                began: None,
                finished: None,
                died: None,
                up: begin,
                down: begin,
            });
        }
        sim.place();
        sim.schedule();
        while let Some(Due { when, what, .. }) = sim.events.pop() {
            assert!(
                when < begin + END,
                "the load does not end: {} of {} finished",
                sim.finished(),
                sim.nodes.len()
            );
            sim.now = when;
            sim.happen(what);
            if sim.running == 0 {
                break;
            }
        }
        for node in sim.nodes.iter().filter(|node| node.died.is_none()) {
            let places = (node.swarm.origin_in_flight, node.swarm.peer_in_flight);
            assert_eq!(places, (0, 0), "a place was not given back");
        }
        sim
    }

    /// Where owners stay the same all the time, nodes need not look for their own blocks among all of those far ahead.
    fn place(&mut self) {
        if !self.setup.warm || !self.setup.deaths.is_empty() || self.setup.liar.is_some() {
            return;
        }
        let candidate = |node| Candidate { key: NodeKey::of(&self.names[node]), weight: self.weight(node) };
        let candidates: Vec<_> = (0..self.nodes.len()).map(candidate).collect();
        for block in 0..self.setup.blocks {
            for node in placement::ranks(&candidates, object(), BlockIndex(block)).into_iter().flatten() {
                self.nodes[node].own.push(block);
            }
        }
    }

    fn schedule(&mut self) {
        let count = u32::try_from(self.setup.nodes).unwrap_or(u32::MAX);
        for (node, number) in (0..self.setup.nodes).zip(0..) {
            let even = self.setup.spread * number / count;
            let late = self.setup.late.filter(|(late, _)| *late == node);
            self.at(self.begin + late.map_or(even, |(_, at)| at), What::Start(node));
        }
        for (node, when) in self.setup.deaths.clone() {
            let lead = if self.setup.warm { LEAD } else { Duration::ZERO };
            self.at(self.begin + lead + when, What::Die(node));
        }
    }

    /// How many nodes have everything.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.nodes.iter().filter(|node| node.finished.is_some()).count()
    }

    /// Blocks read from the origin.
    #[must_use]
    pub fn origin_reads(&self) -> u32 {
        self.origin_reads
    }

    /// What each node took, from its start; those that died are left out, and slow ones.
    #[must_use]
    pub fn took(&self) -> Vec<Duration> {
        let took = |node: &Node| Some(node.finished? - node.began?);
        let even = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(number, node)| !self.is_slow(*number) && node.died.is_none());
        even.filter_map(|(_, node)| took(node)).collect()
    }

    /// Until a reader of the first so many blocks had read them that reads in order, as fast as a node takes blocks in.
    #[must_use]
    pub fn read_until(&self, blocks: u32) -> Vec<Duration> {
        let even = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(number, node)| !self.is_slow(*number) && node.died.is_none());
        let read = |node: &Node| {
            let began = node.began?;
            let mut at = began;
            for came in node.came.iter().take(blocks as usize) {
                at = (at + self.setup.links.down).max(self.begin + Duration::from_micros((*came).into()));
            }
            Some(at - began)
        };
        even.filter_map(|(_, node)| read(node)).collect()
    }

    /// What all nodes counted.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        self.nodes.iter().map(|node| node.swarm.counts).collect()
    }

    fn is_slow(&self, node: usize) -> bool {
        self.setup.slow.is_some_and(|(every, _)| node % every == every - 1)
    }

    fn weight(&self, node: usize) -> f64 {
        match self.setup.slow {
            Some((_, times)) if self.is_slow(node) => 1.0 / f64::from(times),
            _ => 1.0,
        }
    }

    /// What a block takes on a node's link.
    fn on_link(&self, node: usize, usual: Duration) -> Duration {
        match self.setup.slow {
            Some((_, times)) if self.is_slow(node) => usual * times,
            _ => usual,
        }
    }

    fn at(&mut self, when: Instant, what: What) {
        self.count += 1;
        self.events.push(Due { when, number: self.count, what });
    }

    fn is_up(&self, node: usize) -> bool {
        self.nodes[node].died.is_none() && self.nodes[node].started.is_some()
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Start(node) => self.start(node),
            What::Begin(node) => {
                // What settling takes counts.
                let since = if self.setup.warm { Some(self.now) } else { self.nodes[node].started };
                self.nodes[node].began = since;
                self.work(node);
            }
            What::Die(node) => {
                self.running -= usize::from(self.nodes[node].finished.is_none());
                self.nodes[node].died = Some(self.now);
            }
            What::News(node) if self.is_up(node) => self.ask_round(node),
            What::Step(node, pursuit) if self.is_up(node) => self.step(node, pursuit),
            What::Question { at, from, pursuit, question, wait } if self.is_up(at) => {
                self.question(at, from, pursuit, &question, wait);
            }
            What::Outcome { node, pursuit, of, outcome } if self.is_up(node) => {
                self.outcome(node, pursuit, of, &outcome);
            }
            What::GiveUp { at, block, from, pursuit } if self.is_up(at) => {
                let parked = self.nodes[at].parked.entry(block).or_default();
                let before = parked.len();
                parked.retain(|parked| (parked.from, parked.pursuit) != (from, pursuit));
                if parked.len() < before {
                    self.answer(at, from, pursuit, Outcome::NotYet);
                }
            }
            // Nobody answers: the asker's time runs out.
            What::Question { at, from, pursuit, .. } | What::GiveUp { at, from, pursuit, .. } => {
                let outcome = What::Outcome { node: from, pursuit, of: at, outcome: Outcome::Failed };
                self.at(self.now + NO_ANSWER, outcome);
            }
            What::Flow { from, to, pursuit, last } => {
                let took = self.on_link(to, self.setup.links.down);
                let down = &mut self.nodes[to].down;
                *down = (*down).max(self.now) + took;
                let when = last.max(*down);
                self.at(when, What::Came { from, to, pursuit });
            }
            What::Came { from, to, pursuit } if self.is_up(to) => self.came(from, to, pursuit),
            _ => {}
        }
    }

    fn start(&mut self, node: usize) {
        self.nodes[node].started = Some(self.now);
        // What it asks at its start, both ways.
        let others: Vec<_> =
            (0..self.nodes.len()).filter(|other| *other != node && self.is_up(*other)).collect();
        for other in others {
            self.tell(other, node);
            self.tell(node, other);
        }
        // Not all in the same moment.
        let phase = ROUND * u32::try_from(node * 7 % 64).unwrap_or(0) / 64;
        self.at(self.now + ROUND + phase, What::News(node));
        // When those have answered that were there.
        let settled = if self.setup.warm { LEAD } else { self.setup.links.delay * 2 };
        self.at(self.now + settled, What::Begin(node));
    }

    /// Asks the next peers in turn what they have.
    fn ask_round(&mut self, node: usize) {
        let nodes = self.nodes.len();
        for _ in 0..A_ROUND.min(nodes - 1) {
            let other = self.nodes[node].turn % nodes;
            self.nodes[node].turn += 1;
            if other == node {
                continue;
            }
            if self.is_up(other) && !self.setup.cut {
                self.tell(other, node);
                self.nodes[node].silent.remove(&other);
            } else if !self.nodes[node].silent.insert(other) {
                self.nodes[node].swarm.lost(&self.names[other]);
            } else {
                self.nodes[node].swarm.unanswered(&self.names[other]);
            }
        }
        self.at(self.now + ROUND, What::News(node));
        self.work(node);
    }
}
