//! What one simulated node does with what its [`Swarm`] decides. Part of [`Sim`].
//!
//! [`Swarm`]: crate::peer::swarm::Swarm

use std::time::Duration;

use super::{NO_ANSWER, Node, Parked, Sim, What, object};
use crate::base::{BlockIndex, FileId};
use crate::peer::answer::{Answer, Question};
use crate::peer::bitmap::{Bitmap, ones};
use crate::peer::pursuit::{Outcome, Step};
use crate::peer::swarm::{Flight, News};

const FILE: FileId = FileId(0);

/// Blocks that are not in the bitmap, of those before `end`.
fn missing(taken: &Bitmap, first: u32, end: u32) -> impl Iterator<Item = BlockIndex> + '_ {
    let words = taken.words().iter().zip((0u32..).step_by(64)).skip((first / 64) as usize);
    let blocks = words.flat_map(|(word, start)| ones(!word).map(move |bit| start + bit));
    blocks.take_while(move |block| *block < end).map(BlockIndex)
}

impl Sim {
    /// One node tells another what it has.
    pub(super) fn tell(&mut self, from: usize, to: usize) {
        let node = &self.nodes[from];
        let news = News {
            name: self.names[from].clone(),
            weight: self.weight(from),
            age: node.started.map_or(Duration::ZERO, |started| self.now - started),
            draining: false,
            queue: self.queue(from),
            haves: vec![(object(), node.have.words().to_vec())],
            reading: node.swarm.own_reading(),
            zone: None,
        };
        self.nodes[to].swarm.heard(news, self.now);
    }

    /// Takes as many blocks as there are places.
    pub(super) fn work(&mut self, node: usize) {
        if self.nodes[node].began.is_none() {
            return;
        }
        let (now, blocks) = (self.now, self.setup.blocks);
        let settings = &self.setup.settings;
        // As in `choose`.
        let least = 4 * self.nodes.len() as u64;
        let ahead = (settings.look_ahead.max(settings.window) / self.setup.block_size.bytes()).max(least);
        let end = u64::from(self.furthest).saturating_add(ahead + 1).min(u64::from(blocks));
        let scattered = self.setup.scattered;
        let end = if scattered { blocks } else { u32::try_from(end).unwrap_or(blocks) };
        let window = (settings.window / self.setup.block_size.bytes()).max(least);
        let window = u32::try_from(window + 1).unwrap_or(blocks);
        loop {
            let Node { swarm, taken, wanted, pursuits, first, own, .. } = &mut self.nodes[node];
            let begin = if scattered { u32::try_from(node).unwrap_or(0) * 97 % blocks } else { *first };
            // Farther ahead only own blocks are of interest.
            let near = if own.is_empty() { end } else { begin.saturating_add(window).min(end) };
            let chosen = {
                let asked = wanted.iter().copied().filter(|block| !taken.has(*block));
                let missing = missing(taken, begin, near).filter(|block| block.0 >= begin);
                let far = own.get(own.partition_point(|block| *block < near)..).unwrap_or_default();
                let far = far.iter().copied().take_while(|block| *block < end).map(BlockIndex);
                let far = far.filter(|block| !taken.has(*block));
                let before = scattered.then(|| self::missing(taken, 0, begin)).into_iter().flatten();
                let mut order = asked.chain(missing).chain(far).chain(before);
                if swarm.is_sharing(now) {
                    swarm.choose(&mut order.map(|block| (FILE, block)), now)
                } else if swarm.origin_in_flight < self.setup.settings.origin_slots * 2 {
                    // Alone, all connections are to the origin.
                    order.next().map(|block| {
                        swarm.take_off((FILE, block), Flight::Origin, now);
                        (FILE, block)
                    })
                } else {
                    None
                }
            };
            let Some(at) = chosen else { return };
            taken.set(at.1);
            wanted.retain(|block| *block != at.1);
            self.count += 1;
            let number = self.count;
            pursuits.insert(number, swarm.pursue(at, false, now));
            self.step(node, number);
        }
    }

    pub(super) fn step(&mut self, node: usize, number: u64) {
        let now = self.now;
        let Node { swarm, pursuits, .. } = &mut self.nodes[node];
        let Some(pursuit) = pursuits.get_mut(&number) else { return };
        let block = pursuit.at().1;
        match swarm.next_step(pursuit, now) {
            Step::Wait(pause) => self.at(now + pause, What::Step(node, number)),
            Step::Origin => {
                self.origin_reads += 1;
                let links = self.setup.links;
                let first = self.origin.max(now);
                self.origin = first + links.origin;
                let last = self.origin + links.first_byte;
                self.at(first + links.first_byte, What::Flow { from: None, to: node, pursuit: number, last });
            }
            Step::Ask { node: peer, role, hop, wait } => {
                let to = swarm.name(peer).and_then(|name| name.as_str().strip_prefix("node-")?.parse().ok());
                let to = to.unwrap_or(node);
                if self.is_up(to) && !self.setup.cut {
                    let from = self.names[node].clone();
                    let question = Question { from, object: object(), block, role, hop, urgent: false };
                    let event = What::Question { at: to, from: node, pursuit: number, question, wait };
                    self.at(now + self.setup.links.delay, event);
                } else {
                    let event = What::Outcome { node, pursuit: number, of: to, outcome: Outcome::Failed };
                    self.at(now + NO_ANSWER, event);
                }
            }
        }
    }

    pub(super) fn question(
        &mut self,
        at: usize,
        from: usize,
        pursuit: u64,
        question: &Question,
        wait: Duration,
    ) {
        let queue = self.queue(at);
        let has = self.nodes[at].have.has(question.block);
        let answer = self.nodes[at].swarm.answer(question, |_| has, queue, self.now);
        match answer {
            Answer::Send(_) => self.send(at, from, pursuit),
            Answer::Redirect(name) => self.answer(at, from, pursuit, Outcome::Redirected(name)),
            Answer::Later => self.answer(at, from, pursuit, Outcome::NotYet),
            Answer::Busy => self.answer(at, from, pursuit, Outcome::Busy(Duration::from_millis(50))),
            Answer::NotHere | Answer::Unknown => self.answer(at, from, pursuit, Outcome::NotHere),
            Answer::Park(_) | Answer::Read(_) => {
                let node = &mut self.nodes[at];
                node.parked.entry(question.block).or_default().push(Parked {
                    from,
                    pursuit,
                    question: question.clone(),
                });
                if matches!(answer, Answer::Read(_)) {
                    node.wanted.push_back(question.block);
                }
                let event = What::GiveUp { at, block: question.block, from, pursuit };
                self.at(self.now + wait, event);
                self.work(at);
            }
        }
    }

    /// Blocks that wait to be sent.
    pub(super) fn queue(&self, node: usize) -> u32 {
        let left = self.nodes[node].up.saturating_duration_since(self.now).as_nanos();
        let each = self.on_link(node, self.setup.links.up).as_nanos().max(1);
        u32::try_from(left / each).unwrap_or(u32::MAX)
    }

    pub(super) fn answer(&mut self, at: usize, to: usize, pursuit: u64, outcome: Outcome) {
        self.at(self.now + self.setup.links.delay, What::Outcome { node: to, pursuit, of: at, outcome });
    }

    fn send(&mut self, at: usize, to: usize, pursuit: u64) {
        let first = self.nodes[at].up.max(self.now);
        let last = first + self.on_link(at, self.setup.links.up);
        self.nodes[at].up = last;
        let delay = self.setup.links.delay;
        self.at(first + delay, What::Flow { from: Some(at), to, pursuit, last: last + delay });
    }

    pub(super) fn came(&mut self, from: Option<usize>, to: usize, pursuit: u64) {
        let Some(from) = from else {
            if let Some(pursuit) = self.nodes[to].pursuits.remove(&pursuit) {
                self.ready(to, pursuit.at().1);
            }
            return;
        };
        let outcome = match self.setup.liar {
            _ if self.nodes[from].died.is_some() => Outcome::Failed,
            Some(liar) if liar == from => Outcome::Corrupt,
            _ => Outcome::Got,
        };
        if let Some(pursuit) = self.nodes[to].pursuits.get(&pursuit).filter(|_| outcome == Outcome::Got) {
            let at = pursuit.at();
            self.nodes[from].swarm.served(&self.names[to], at);
        }
        self.outcome(to, pursuit, from, &outcome);
    }

    pub(super) fn outcome(&mut self, node: usize, number: u64, of: usize, outcome: &Outcome) {
        let (now, queue) = (self.now, self.queue(of));
        let Node { swarm, pursuits, .. } = &mut self.nodes[node];
        let Some(pursuit) = pursuits.get_mut(&number) else { return };
        let Some(peer) = swarm.find(&self.names[of]) else { return };
        if *outcome != Outcome::Failed {
            swarm.queue_is(peer, queue);
        }
        swarm.outcome(pursuit, peer, outcome, now);
        if *outcome == Outcome::Got {
            let block = pursuit.at().1;
            pursuits.remove(&number);
            self.ready(node, block);
        } else {
            self.step(node, number);
        }
    }

    fn ready(&mut self, node: usize, block: BlockIndex) {
        let (now, blocks) = (self.now, self.setup.blocks);
        let entry = &mut self.nodes[node];
        assert!(entry.have.set(block), "a block came twice");
        let came = (now - self.begin).as_micros();
        entry.came[block.0 as usize] = u32::try_from(came).unwrap_or(u32::MAX);
        entry.swarm.land((FILE, block), now);
        while entry.first < blocks && entry.have.has(BlockIndex(entry.first)) {
            entry.first += 1;
        }
        if entry.first == blocks {
            entry.finished = Some(now);
            self.running -= 1;
        }
        self.furthest = self.furthest.max(entry.first);
        for parked in entry.parked.remove(&block).unwrap_or_default() {
            self.question(node, parked.from, parked.pursuit, &parked.question, Duration::ZERO);
        }
        self.work(node);
    }
}
