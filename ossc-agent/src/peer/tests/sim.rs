//! A cluster in simulated time: each node has the real [`Swarm`]; links are queues of fixed speed, the origin is one
//! more link with a delay. Events are taken in order of time, so a run is repeatable.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::base::{BlockIndex, BlockSize, FileId, Layout};
use crate::peer::answer::{Answer, Question};
use crate::peer::bitmap::Bitmap;
use crate::peer::id::{Name, ObjectId};
use crate::peer::pursuit::{Outcome, Pursuit, Step};
use crate::peer::swarm::{Flight, News, NodeIndex, Settings, Swarm};

const FILE: FileId = FileId(0);
/// One way.
const DELAY: Duration = Duration::from_micros(200);
/// To the origin's first byte.
const FIRST_BYTE: Duration = Duration::from_millis(50);
/// What a node's link takes for a block, in and out.
const BLOCK_TIME: Duration = Duration::from_millis(10);
/// Between two tellings of what a node has.
const NEWS: Duration = Duration::from_millis(250);
/// Far more than any run should take.
const END: Duration = Duration::from_secs(600);

/// What is simulated.
#[derive(Debug, Clone, Default)]
pub(super) struct Setup {
    pub(super) nodes: usize,
    pub(super) blocks: u32,
    /// Nodes start evenly over this time.
    pub(super) spread: Duration,
    pub(super) deaths: Vec<(usize, Duration)>,
    /// Sends wrong bytes.
    pub(super) liar: Option<usize>,
    /// A node and how many times slower its link is.
    pub(super) slow: Option<(usize, u32)>,
    /// A node that starts long after the others.
    pub(super) late: Option<(usize, Duration)>,
    /// No connection between nodes works, though they hear of each other at first.
    pub(super) cut: bool,
    /// What a node's link takes for a block, if not [`BLOCK_TIME`]; the origin's takes half of it.
    pub(super) block_time: Option<Duration>,
    /// Each node begins at another place.
    pub(super) scattered: bool,
}

enum Event {
    Start(usize),
    Die(usize),
    News(usize),
    Step(usize, u64),
    Question { at: usize, from: usize, pursuit: u64, question: Question, wait: Duration },
    Outcome { node: usize, pursuit: u64, of: NodeIndex, outcome: Outcome },
    GiveUp { at: usize, block: BlockIndex, from: usize, pursuit: u64 },
    Arrived { node: usize, pursuit: u64 },
}

struct Parked {
    from: usize,
    pursuit: u64,
}

struct Node {
    swarm: Swarm,
    have: Bitmap,
    in_flight: HashSet<BlockIndex>,
    pursuits: HashMap<u64, Pursuit>,
    parked: HashMap<BlockIndex, Vec<Parked>>,
    wanted: VecDeque<BlockIndex>,
    started: Option<Instant>,
    finished: Option<Instant>,
    dead: bool,
    up: Instant,
    down: Instant,
}

/// A run and what came of it.
pub(super) struct Sim {
    setup: Setup,
    begin: Instant,
    now: Instant,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    what: HashMap<u64, Event>,
    count: u64,
    origin: Instant,
    pub(super) origin_reads: u32,
}

fn object() -> ObjectId {
    ObjectId::from_bytes([9; 16])
}

fn name(node: usize) -> Name {
    format!("node-{node}").parse().unwrap()
}

impl Sim {
    pub(super) fn run(setup: Setup) -> Self {
        let begin = Instant::now();
        let layout = Layout::new(u64::from(setup.blocks) * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
        let weight = |node| match setup.slow {
            Some((slow, times)) if slow == node => 1.0 / f64::from(times),
            _ => 1.0,
        };
        let node = |node: usize| {
            let settings = Settings { look_ahead: 64 << 20, window: 256 << 20, ..Settings::default() };
            let files = vec![(object(), layout)];
            Node {
                swarm: Swarm::new(settings, (name(node), weight(node)), files, node as u64, begin),
                have: Bitmap::new(setup.blocks),
                in_flight: HashSet::new(),
                pursuits: HashMap::new(),
                parked: HashMap::new(),
                wanted: VecDeque::new(),
                started: None,
                finished: None,
                dead: false,
                up: begin,
                down: begin,
            }
        };
        let nodes = (0..setup.nodes).map(node).collect();
        let mut sim = Self {
            begin,
            now: begin,
            nodes,
            events: BinaryHeap::new(),
            what: HashMap::new(),
            count: 0,
            origin: begin,
            origin_reads: 0,
            setup,
        };
        for node in 0..sim.setup.nodes {
            let even =
                sim.setup.spread * u32::try_from(node).unwrap() / u32::try_from(sim.setup.nodes).unwrap();
            let start = sim.setup.late.filter(|(late, _)| *late == node).map_or(even, |(_, at)| at);
            sim.at(begin + start, Event::Start(node));
        }
        for (node, when) in sim.setup.deaths.clone() {
            sim.at(begin + when, Event::Die(node));
        }
        while let Some(Reverse((when, number))) = sim.events.pop() {
            assert!(
                when < begin + END,
                "the load does not end: {} of {} finished",
                sim.finished(),
                sim.nodes.len()
            );
            sim.now = when;
            let event = sim.what.remove(&number).unwrap();
            sim.happen(event);
            if sim.nodes.iter().all(|node| node.dead || node.finished.is_some()) {
                break;
            }
        }
        for node in sim.nodes.iter().filter(|node| !node.dead) {
            assert_eq!(
                (node.swarm.origin_in_flight, node.swarm.peer_in_flight),
                (0, 0),
                "a place was not given back"
            );
        }
        sim
    }

    pub(super) fn finished(&self) -> usize {
        self.nodes.iter().filter(|node| node.finished.is_some()).count()
    }

    /// How long nodes took on average, each from its start.
    pub(super) fn mean_finish(&self) -> Duration {
        self.mean_finish_without(usize::MAX)
    }

    pub(super) fn mean_finish_without(&self, left_out: usize) -> Duration {
        let took = |node: &Node| node.finished.unwrap() - node.started.unwrap();
        let counted =
            self.nodes.iter().enumerate().filter(|(number, node)| *number != left_out && !node.dead);
        let all: Vec<_> = counted.map(|(_, node)| took(node)).collect();
        all.iter().sum::<Duration>() / u32::try_from(all.len()).unwrap()
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count)));
        self.what.insert(self.count, event);
    }

    fn usual(&self) -> Duration {
        self.setup.block_time.unwrap_or(BLOCK_TIME)
    }

    fn block_time(&self, node: usize) -> Duration {
        match self.setup.slow {
            Some((slow, times)) if slow == node => self.usual() * times,
            _ => self.usual(),
        }
    }

    fn is_up(&self, node: usize) -> bool {
        !self.nodes[node].dead && self.nodes[node].started.is_some()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(node) => {
                self.nodes[node].started = Some(self.now);
                // What it asks at its start, both ways.
                let up = (0..self.nodes.len()).filter(|other| *other != node && self.is_up(*other));
                for other in up.collect::<Vec<_>>() {
                    self.tell(other, node);
                    self.tell(node, other);
                }
                self.at(self.now + NEWS, Event::News(node));
                self.work(node);
            }
            Event::Die(node) => self.nodes[node].dead = true,
            Event::News(node) if self.is_up(node) => {
                for other in (0..self.nodes.len()).filter(|other| *other != node).collect::<Vec<_>>() {
                    if self.is_up(other) && !self.setup.cut {
                        self.tell(other, node);
                    } else if self.now > self.begin + Duration::from_secs(5) {
                        self.nodes[node].swarm.lost(&name(other));
                    }
                }
                self.at(self.now + NEWS, Event::News(node));
                self.work(node);
            }
            Event::Step(node, pursuit) if self.is_up(node) => self.step(node, pursuit),
            Event::Question { at, from, pursuit, question, wait } if self.is_up(at) => {
                self.question(at, from, pursuit, &question, wait);
            }
            Event::Outcome { node, pursuit, of, outcome } if self.is_up(node) => {
                self.outcome(node, pursuit, of, &outcome);
            }
            Event::GiveUp { at, block, from, pursuit } if self.is_up(at) => {
                let parked = self.nodes[at].parked.entry(block).or_default();
                let before = parked.len();
                parked.retain(|parked| (parked.from, parked.pursuit) != (from, pursuit));
                if parked.len() < before {
                    self.answer(at, from, pursuit, Outcome::NotYet);
                }
            }
            // Nobody answers: the asker's time runs out.
            Event::Question { at, from, pursuit, .. } | Event::GiveUp { at, from, pursuit, .. } => {
                if let Some(of) = self.nodes[from].swarm.find(&name(at)) {
                    let event = Event::Outcome { node: from, pursuit, of, outcome: Outcome::Failed };
                    self.at(self.now + Duration::from_millis(300), event);
                }
            }
            Event::Arrived { node, pursuit } if self.is_up(node) => {
                let block = self.nodes[node].pursuits.remove(&pursuit).unwrap().at().1;
                self.ready(node, block);
            }
            _ => {}
        }
    }

    /// One node tells another what it has.
    fn tell(&mut self, from: usize, to: usize) {
        let now = self.now;
        let (news, number) = {
            let node = &self.nodes[from];
            let news = News {
                name: name(from),
                weight: match self.setup.slow {
                    Some((slow, times)) if slow == from => 1.0 / f64::from(times),
                    _ => 1.0,
                },
                age: now - node.started.unwrap(),
                draining: false,
                queue: 0,
                haves: vec![(object(), node.have.words().to_vec())],
                reading: node.swarm.own_reading(),
            };
            (news, to)
        };
        self.nodes[number].swarm.heard(news, now);
    }

    /// Takes as many blocks as there are places.
    fn work(&mut self, node: usize) {
        let now = self.now;
        loop {
            let blocks = self.setup.blocks;
            let scattered = self.setup.scattered;
            let Node { swarm, have, in_flight, wanted, pursuits, .. } = &mut self.nodes[node];
            let first = if scattered { u32::try_from(node).unwrap() * 97 % blocks } else { 0 };
            let order = wanted.iter().copied().chain((0..blocks).map(|at| BlockIndex((first + at) % blocks)));
            let mut missing = order.filter(|block| !have.has(*block) && !in_flight.contains(block));
            let taken = if swarm.is_sharing(now) {
                swarm.choose(&mut missing.map(|block| (FILE, block)), now)
            } else if swarm.origin_in_flight < 16 {
                missing.next().map(|block| {
                    swarm.take_off((FILE, block), Flight::Origin, now);
                    (FILE, block)
                })
            } else {
                None
            };
            let Some(at) = taken else { return };
            in_flight.insert(at.1);
            wanted.retain(|block| *block != at.1);
            self.count += 1;
            let number = self.count;
            pursuits.insert(number, swarm.pursue(at, false, now));
            self.step(node, number);
        }
    }

    fn step(&mut self, node: usize, number: u64) {
        let now = self.now;
        let Node { swarm, pursuits, .. } = &mut self.nodes[node];
        let pursuit = pursuits.get_mut(&number).unwrap();
        let block = pursuit.at().1;
        match swarm.next_step(pursuit, now) {
            Step::Wait(pause) => self.at(now + pause, Event::Step(node, number)),
            Step::Origin => {
                self.origin_reads += 1;
                self.origin = self.origin.max(now) + self.usual() / 2;
                let took = self.block_time(node);
                let down = &mut self.nodes[node].down;
                *down = (*down).max(self.origin + FIRST_BYTE) + took;
                let when = *down;
                self.at(when, Event::Arrived { node, pursuit: number });
            }
            Step::Ask { node: peer, role, hop, wait } => {
                let to = swarm.name(peer).unwrap().as_str().trim_start_matches("node-").parse().unwrap();
                let question =
                    Question { from: name(node), object: object(), block, role, hop, urgent: false };
                if self.is_up(to) && !self.setup.cut {
                    let event = Event::Question { at: to, from: node, pursuit: number, question, wait };
                    self.at(now + DELAY, event);
                } else {
                    let event = Event::Outcome { node, pursuit: number, of: peer, outcome: Outcome::Failed };
                    self.at(now + Duration::from_millis(300), event);
                }
            }
        }
    }

    fn question(&mut self, at: usize, from: usize, pursuit: u64, question: &Question, wait: Duration) {
        let now = self.now;
        let queue = u32::try_from(self.nodes_queue(at)).unwrap();
        let has = self.nodes[at].have.has(question.block);
        let answer = self.nodes[at].swarm.answer(question, |_| has, queue, now);
        match answer {
            Answer::Send(_) => self.send(at, from, pursuit),
            Answer::Redirect(name) => self.answer(at, from, pursuit, Outcome::Redirected(name)),
            Answer::Later => self.answer(at, from, pursuit, Outcome::NotYet),
            Answer::NotHere | Answer::Unknown => self.answer(at, from, pursuit, Outcome::NotHere),
            Answer::Park(_) | Answer::Read(_) => {
                let node = &mut self.nodes[at];
                node.parked.entry(question.block).or_default().push(Parked { from, pursuit });
                if matches!(answer, Answer::Read(_)) {
                    node.wanted.push_back(question.block);
                }
                let event = Event::GiveUp { at, block: question.block, from, pursuit };
                self.at(now + wait, event);
                self.work(at);
            }
        }
    }

    /// Blocks that wait to be sent.
    fn nodes_queue(&self, node: usize) -> u128 {
        self.nodes[node].up.saturating_duration_since(self.now).as_millis() / self.usual().as_millis()
    }

    fn answer(&mut self, at: usize, to: usize, pursuit: u64, outcome: Outcome) {
        if let Some(of) = self.nodes[to].swarm.find(&name(at)) {
            self.at(self.now + DELAY, Event::Outcome { node: to, pursuit, of, outcome });
        }
    }

    fn send(&mut self, at: usize, to: usize, pursuit: u64) {
        let slower = self.block_time(at).max(self.block_time(to));
        let begin = self.now.max(self.nodes[at].up).max(self.nodes[to].down);
        self.nodes[at].up = self.nodes[at].up.max(self.now) + self.block_time(at);
        self.nodes[to].down = self.nodes[to].down.max(self.now) + self.block_time(to);
        let of = self.nodes[to].swarm.find(&name(at)).unwrap();
        let dies =
            self.setup.deaths.iter().any(|(node, when)| *node == at && self.begin + *when < begin + slower);
        let outcome = match self.setup.liar {
            Some(liar) if liar == at => Outcome::Corrupt,
            _ if dies => Outcome::Failed,
            _ => Outcome::Got,
        };
        self.at(begin + slower, Event::Outcome { node: to, pursuit, of, outcome });
    }

    fn outcome(&mut self, node: usize, number: u64, of: NodeIndex, outcome: &Outcome) {
        let now = self.now;
        let Node { swarm, pursuits, .. } = &mut self.nodes[node];
        let Some(pursuit) = pursuits.get_mut(&number) else { return };
        swarm.outcome(pursuit, of, outcome, now);
        if *outcome == Outcome::Got {
            let block = pursuit.at().1;
            pursuits.remove(&number);
            self.ready(node, block);
        } else {
            self.step(node, number);
        }
    }

    fn ready(&mut self, node: usize, block: BlockIndex) {
        let entry = &mut self.nodes[node];
        assert!(entry.have.set(block), "a block came twice");
        entry.swarm.land((FILE, block), self.now);
        entry.in_flight.remove(&block);
        if entry.have.first_missing().is_none() {
            entry.finished = Some(self.now);
        }
        for parked in entry.parked.remove(&block).unwrap_or_default() {
            self.send(node, parked.from, parked.pursuit);
        }
        self.work(node);
    }
}
