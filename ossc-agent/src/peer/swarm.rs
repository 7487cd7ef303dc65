//! What one node knows of the others, and everything it decides about them: which block comes from where
//! (`choose`, `pursuit`), and what others are answered (`answer`). Pure: time and news come in, decisions go out;
//! no socket, no file, no clock. The same code runs against simulated links.
//!
//! The rules, each found by simulation of 50 and 500 nodes: read your own share of the blocks first and everything
//! else from peers; look ahead by the frontier of the whole swarm, not by your own; take a block from anybody who
//! has it; wait only for a node that is reading the origin at that moment, so that two nodes never wait for each
//! other; and never let trouble turn into every node reading the whole model.

mod flights;
mod holders;
mod node;
mod settings;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

pub(super) use self::flights::Flight;
use self::flights::UnderWay;
use self::holders::Holders;
use self::node::{Node, Shared, forget, frontier};
pub use self::settings::Settings;
use super::bitmap::Bitmap;
use super::counts::{Counts, Traffic};
use super::health::{Breaker, EscapeBudget};
use super::id::{Name, ObjectId};
use super::placement::{self, Candidate, NodeKey, RANKS};
use super::ramp::Ramp;
use crate::base::{BlockIndex, FileId, Layout};

/// Between two looks at whether time alone has changed who owns blocks.
const RECHECK: Duration = Duration::from_millis(100);
/// Most nodes in the table, far more than gossip carries; a place in it is counted on from in steps of up to 64.
const NODES_MAX: u16 = 1 << 15;
/// Blocks with a wrong checksum after which nothing is taken from a node any more. One may be a broken network.
const STRIKES: u32 = 3;

/// A node's place in the table; 0 is this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(u16);

impl NodeIndex {
    /// This node.
    pub const ME: Self = Self(0);

    pub(super) fn index(self) -> usize {
        self.0.into()
    }
}

/// What a node said of itself.
#[derive(Debug, Clone)]
pub struct News {
    /// Its name.
    pub name: Name,
    /// Speed of its network, as a weight.
    pub weight: f64,
    /// How long it has been loading.
    pub age: Duration,
    /// It ends soon: it still serves, but is to own nothing.
    pub draining: bool,
    /// Blocks it has been asked for and has not sent yet.
    pub queue: u32,
    /// What it has, as words of bitmaps.
    pub haves: Vec<(ObjectId, Vec<u64>)>,
    /// What it is reading from the origin.
    pub reading: Vec<(ObjectId, BlockIndex)>,
    /// Its zone, if it has one.
    pub zone: Option<Name>,
}

/// A block of a file.
pub(super) type At = (FileId, BlockIndex);

/// The state of the exchange on this node.
#[derive(Debug)]
pub struct Swarm {
    pub(super) settings: Settings,
    pub(super) rng: fastrand::Rng,
    pub(super) nodes: Vec<Node>,
    by_name: HashMap<Name, NodeIndex>,
    pub(super) files: Vec<Shared>,
    by_object: HashMap<ObjectId, FileId>,
    /// Who owns blocks, and the same for the hash.
    pub(super) domain: Vec<NodeIndex>,
    candidates: Vec<Candidate>,
    /// This node's place among them in the order of their keys, which all nodes know alike.
    pub(super) own_place: u64,
    /// Counts changes of the domain.
    epoch: u32,
    checked: Option<Instant>,
    /// When the domain last changed.
    changed: Instant,
    in_flight: HashMap<At, UnderWay>,
    /// How far the foremost peer is, until that may have changed.
    furthest: Option<u64>,
    /// How many blocks may be read from the origin at a time.
    pub(super) ramp: Ramp,
    /// How long blocks take from their choice to their end, on average, and how many that is known of.
    typical: Duration,
    landed: u64,
    pub(super) origin_in_flight: u32,
    pub(super) peer_in_flight: u32,
    /// How many of those are guesses.
    pub(super) guesses: u32,
    /// Blocks that others asked this node to read because their owner cannot.
    pub(super) forced: HashSet<At>,
    /// Blocks that are taken from nobody but the origin.
    pub(super) origin_only: HashSet<At>,
    /// Blocks that peers are reading from the origin, as last heard.
    reading: HashMap<At, Vec<NodeIndex>>,
    pub(super) budget: EscapeBudget,
    pub(super) counts: Counts,
}

impl Swarm {
    /// Alone, for these files in the order they are loaded. `seed` makes its random choices repeatable.
    #[must_use]
    pub fn new(
        mut settings: Settings,
        (name, weight): (Name, f64),
        files: Vec<(ObjectId, Layout)>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut start = 0;
        let by_object = (0..).zip(&files).map(|(number, (object, _))| (*object, FileId(number))).collect();
        let files: Vec<_> = files
            .into_iter()
            .map(|(object, layout)| {
                let blocks = layout.block_count() as usize;
                let file = Shared {
                    object,
                    layout,
                    start,
                    holders: Holders::new(layout.block_count()),
                    ranks: vec![(0, [None; RANKS]); blocks],
                };
                start += layout.size();
                file
            })
            .collect();
        let block = files.iter().map(|file| file.layout.block_size().bytes()).max().unwrap_or(0);
        settings.fit(start, block);
        let ramp = Ramp::new(settings.origin_slots);
        let mut swarm = Self {
            settings,
            rng: fastrand::Rng::with_seed(seed),
            nodes: Vec::new(),
            by_name: HashMap::new(),
            files,
            by_object,
            domain: Vec::new(),
            candidates: Vec::new(),
            own_place: 0,
            epoch: 0,
            checked: None,
            changed: now,
            in_flight: HashMap::new(),
            furthest: None,
            ramp,
            typical: Duration::ZERO,
            landed: 0,
            origin_in_flight: 0,
            peer_in_flight: 0,
            guesses: 0,
            forced: HashSet::new(),
            origin_only: HashSet::new(),
            reading: HashMap::new(),
            budget: EscapeBudget::new(start, block, now),
            counts: Counts::default(),
        };
        swarm.node(&name, weight, now);
        swarm.refresh(now);
        swarm
    }

    /// A node's entry, made if it is new. None if there are absurdly many.
    fn node(&mut self, name: &Name, weight: f64, started: Instant) -> Option<NodeIndex> {
        if let Some(node) = self.by_name.get(name) {
            return Some(*node);
        }
        let node = NodeIndex(u16::try_from(self.nodes.len()).ok().filter(|node| *node < NODES_MAX)?);
        self.nodes.push(Node {
            name: name.clone(),
            key: NodeKey::of(name),
            weight,
            started,
            alive: node == NodeIndex::ME,
            draining: false,
            quarantined: false,
            strikes: 0,
            breaker: Breaker::default(),
            heard: None,
            complete: false,
            have: vec![None; self.files.len()],
            reading: Vec::new(),
            frontier: 0,
            asked: 0,
            answers: Duration::ZERO,
            silent: false,
            queue: 0,
            traffic: Traffic::default(),
        });
        self.by_name.insert(name.clone(), node);
        Some(node)
    }

    /// A peer told what it has. None for news of this node itself.
    pub fn heard(&mut self, mut news: News, now: Instant) -> Option<NodeIndex> {
        let started = now.checked_sub(news.age).unwrap_or(now);
        let node = self.node(&news.name, news.weight, started)?;
        if node == NodeIndex::ME {
            return None;
        }
        let entry = self.nodes.get_mut(node.index())?;
        let was_gone = !entry.alive;
        // A restarted node has another age; small differences are the network's.
        if was_gone || entry.started + self.settings.join_delay < started {
            entry.started = started;
        }
        if entry.weight != news.weight || entry.draining != news.draining || was_gone {
            self.checked = None;
        }
        (entry.weight, entry.draining, entry.queue) = (news.weight, news.draining, news.queue);
        (entry.alive, entry.silent, entry.heard) = (true, false, Some(now));
        entry.breaker.answered();
        let mut old = std::mem::replace(&mut entry.have, vec![None; self.files.len()]);
        let told = news.haves.len();
        for (object, words) in news.haves {
            let Some(file) = self.by_object.get(&object).map(|file| file.index()) else { continue };
            let Some(shared) = self.files.get_mut(file) else { continue };
            if entry.have.get(file).is_some_and(Option::is_some) {
                // Said twice.
                continue;
            }
            let blocks = shared.layout.block_count();
            let new = Bitmap::from_words(blocks, words);
            shared.change(node, Some(&new), old.get_mut(file).and_then(Option::take).as_ref());
            if let Some(slot) = entry.have.get_mut(file) {
                *slot = Some(new);
            }
        }
        // What it had and does not mention any more.
        for (shared, gone) in self.files.iter_mut().zip(&old) {
            if let Some(gone) = gone {
                shared.change(node, None, Some(gone));
            }
        }
        let full = entry.have.iter().flatten().filter(|have| have.first_missing().is_none()).count();
        entry.complete = told > 0 && full == told;
        if news.zone != self.settings.zone {
            // Nothing is taken from other zones, and no block is placed there.
            forget(&mut self.files, (node, entry));
            news.reading.clear();
        }
        entry.frontier = frontier(&self.files, &entry.have);
        self.furthest = None;
        self.stops_reading(node);
        for (object, block) in news.reading {
            let Some(file) = self.by_object.get(&object).copied() else { continue };
            if self.len((file, block)) > 0
                && let Some(entry) = self.nodes.get_mut(node.index())
            {
                entry.reading.push((file, block));
                self.reading.entry((file, block)).or_default().push(node);
            }
        }
        Some(node)
    }

    fn stops_reading(&mut self, node: NodeIndex) {
        let entry = self.nodes.get_mut(node.index());
        for at in entry.map(|entry| std::mem::take(&mut entry.reading)).unwrap_or_default() {
            self.is_not_reading(node, at);
        }
    }

    /// A peer has gone, as far as the membership knows.
    pub fn lost(&mut self, name: &Name) {
        let Some(node) = self.find(name).filter(|node| *node != NodeIndex::ME) else { return };
        self.stops_reading(node);
        let Some(entry) = self.nodes.get_mut(node.index()) else { return };
        if std::mem::replace(&mut entry.alive, false) {
            forget(&mut self.files, (node, entry));
            (self.checked, self.furthest) = (None, None);
        }
    }

    /// A peer did not say what it has when it was asked: it is asked for nothing else until it does.
    pub(super) fn unanswered(&mut self, name: &Name) {
        if let Some(node) = self.find(name)
            && let Some(entry) = self.nodes.get_mut(node.index())
        {
            entry.silent = true;
        }
    }

    /// A request to a peer failed.
    pub(super) fn failed(&mut self, node: NodeIndex, now: Instant) {
        if let Some(entry) = self.nodes.get_mut(node.index()) {
            entry.breaker.failed(now);
            self.checked = None;
        }
    }

    /// A block of a peer came far too slowly.
    pub(super) fn crawled(&mut self, node: NodeIndex, now: Instant) {
        if let Some(entry) = self.nodes.get_mut(node.index()) {
            entry.breaker.crawled(now);
            self.checked = None;
        }
    }

    /// A peer sent wrong bytes. True if nothing is taken from it any more.
    pub(super) fn struck(&mut self, node: NodeIndex, now: Instant) -> bool {
        let Some(entry) = self.nodes.get_mut(node.index()) else { return false };
        entry.strikes += 1;
        if entry.strikes < STRIKES {
            self.failed(node, now);
            return false;
        }
        self.quarantine(node)
    }

    /// Takes nothing from this node any more. True if that is news.
    pub(super) fn quarantine(&mut self, node: NodeIndex) -> bool {
        let Some(entry) = self.nodes.get_mut(node.index()) else { return false };
        forget(&mut self.files, (node, entry));
        (self.checked, self.furthest) = (None, None);
        !std::mem::replace(&mut entry.quarantined, true)
    }

    /// This node ends soon: it owns nothing any more.
    pub fn drain(&mut self) {
        if let Some(me) = self.nodes.first_mut() {
            me.draining = true;
        }
        self.checked = None;
    }

    /// Whether [`Self::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.nodes.first().is_some_and(|me| me.draining)
    }

    /// Whether there is anybody to share with.
    pub fn is_sharing(&mut self, now: Instant) -> bool {
        self.refresh(now);
        self.nodes.iter().skip(1).any(|node| node.shares() && !node.breaker.has_given_up())
    }

    /// Peers that are there and share, and peers that nothing is taken from any more.
    pub(super) fn census(&self) -> (u64, u64) {
        let count =
            |which: fn(&Node) -> bool| self.nodes.iter().skip(1).filter(|node| which(node)).count() as u64;
        (count(Node::shares), count(|node| node.quarantined))
    }

    /// This node's part of what all may read from the origin together: by weight, among those that are there and that lack
    /// blocks, of other models too.
    #[must_use]
    pub fn origin_part(&self) -> f64 {
        let me = self.nodes.first().map_or(1.0, |me| me.weight);
        let others = self.nodes.iter().skip(1).filter(|node| node.alive && !node.complete);
        let part = me / (me + others.map(|node| node.weight).sum::<f64>());
        if part > 0.0 { part } else { 1.0 }
    }

    /// A peer by its name.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<NodeIndex> {
        self.by_name.get(name).copied()
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, node: NodeIndex) -> Option<&Name> {
        self.nodes.get(node.index()).map(|node| &node.name)
    }

    /// The file of an object.
    #[must_use]
    pub fn file(&self, object: ObjectId) -> Option<FileId> {
        self.by_object.get(&object).copied()
    }

    /// The object of a file.
    #[must_use]
    pub fn object(&self, file: FileId) -> Option<ObjectId> {
        self.files.get(file.index()).map(|file| file.object)
    }

    /// Works out who owns blocks, if that may have changed.
    pub(super) fn refresh(&mut self, now: Instant) {
        if self.checked.is_some_and(|checked| now < checked + RECHECK) {
            return;
        }
        self.checked = Some(now);
        let oldest = self.nodes.iter().filter(|node| node.owns()).map(|node| node.started).min();
        let delay = self.settings.join_delay;
        // Those who began together begin at once; who joins them is waited for until all have heard of it.
        let settled = |node: &Node| {
            oldest.is_none_or(|oldest| node.started < oldest + delay) || now >= node.started + delay
        };
        let domain: Vec<_> = (0..)
            .map(NodeIndex)
            .zip(&self.nodes)
            .filter(|(_, node)| node.owns() && settled(node))
            .map(|(index, _)| index)
            .collect();
        let candidate = |node: &NodeIndex| {
            self.nodes.get(node.index()).map(|node| Candidate { key: node.key, weight: node.weight })
        };
        let candidates: Vec<_> = domain.iter().filter_map(candidate).collect();
        if candidates != self.candidates || domain != self.domain {
            let own = self.nodes.get(NodeIndex::ME.index()).map(|node| node.key);
            self.own_place = candidates.iter().filter(|other| Some(other.key) < own).count() as u64;
            (self.domain, self.candidates) = (domain, candidates);
            self.epoch += 1;
            self.changed = now;
        }
    }

    /// Whether owners have been the same for so long that everybody knows what their predecessors were reading.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.changed) > self.settings.fresh * 2
    }

    /// Who is to read a block, the owner first.
    pub(super) fn ranks(&mut self, (file, block): At) -> [Option<NodeIndex>; RANKS] {
        let Some(shared) = self.files.get_mut(file.index()) else { return [None; RANKS] };
        let Some((epoch, ranks)) = shared.ranks.get_mut(block.0 as usize) else { return [None; RANKS] };
        if *epoch != self.epoch {
            let found = placement::ranks(&self.candidates, shared.object, block);
            *ranks = found.map(|rank| rank.and_then(|at| self.domain.get(at).copied()));
            *epoch = self.epoch;
        }
        *ranks
    }

    /// Whether a node can be asked now; this one always can.
    pub(super) fn is_usable(&self, node: NodeIndex, now: Instant) -> bool {
        node == NodeIndex::ME
            || self
                .nodes
                .get(node.index())
                .is_some_and(|node| node.shares() && !node.silent && node.breaker.is_closed(now))
    }

    /// Peers that are reading the block from the origin and can be asked.
    pub(super) fn readers(&self, at: At, now: Instant) -> impl Iterator<Item = NodeIndex> + '_ {
        let nodes = self.reading.get(&at).map_or(&[][..], Vec::as_slice);
        nodes.iter().copied().filter(move |node| self.is_usable(*node, now))
    }

    /// A peer turned out not to be reading the block.
    pub(super) fn is_not_reading(&mut self, node: NodeIndex, at: At) {
        if let Some(nodes) = self.reading.get_mut(&at) {
            nodes.retain(|other| *other != node);
            if nodes.is_empty() {
                self.reading.remove(&at);
            }
        }
    }

    /// Bytes before a block, over all files.
    pub(super) fn position(&self, (file, block): At) -> u64 {
        let file = self.files.get(file.index());
        file.map_or(0, |file| file.start + u64::from(block.0) * file.layout.block_size().bytes())
    }

    /// Bytes of a file's blocks, but for the last one.
    pub(super) fn block_bytes(&self, file: FileId) -> u64 {
        self.files.get(file.index()).map_or(1, |file| file.layout.block_size().bytes())
    }

    /// Bytes of a block.
    pub(super) fn len(&self, (file, block): At) -> u64 {
        self.files.get(file.index()).map_or(0, |file| file.layout.range_of(block).len())
    }

    /// How far the foremost peer is.
    pub(super) fn frontier(&mut self) -> u64 {
        let peers = self.nodes.iter().skip(1).filter(|node| node.shares());
        *self.furthest.get_or_insert_with(|| peers.map(|node| node.frontier).max().unwrap_or(0))
    }
}
