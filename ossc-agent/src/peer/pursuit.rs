//! The way of one block: whom to ask, and whom next when that fails. Pure; part of [`Swarm`].
//!
//! Who has it, or else its owner; where they send us, at most twice; the nodes that stand in for the owner; and only
//! then the origin, if this node is one of those, or has waited long and has budget for it. A node that owns the
//! block asks those before it in the ranks whether one has it already, if their news is old, and reads it.

use std::time::{Duration, Instant};

use super::counts::Why;
use super::id::Name;
use super::swarm::{At, NodeIndex, Swarm};
use crate::base::{BlockIndex, FileId};

/// Most redirects followed in a row.
pub const MAX_HOPS: u8 = 2;
/// Before asking round again, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// A second node is asked no sooner and no later than this.
const LEAST_HEDGE: Duration = Duration::from_millis(50);
const MOST_HEDGE: Duration = Duration::from_secs(1);
/// How many times as long a block is waited for that somebody says to be reading.
const READING: u32 = 4;

/// Busy peers in a round after which no more are asked: where all are busy, questions only add to it.
const MOST_BUSY: u32 = 2;
/// How often an owner asks round for a block that nobody is known to have or to read.
const OWNER_ROUNDS: u32 = 2;

/// What a request may lead to at the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Read it from the origin if you do not have it.
    Owner,
    /// Send it if you have it.
    Holder,
}

/// One block on its way.
#[derive(Debug)]
pub struct Pursuit {
    at: At,
    /// A reader waits.
    urgent: bool,
    began: Instant,
    /// Asked in this round.
    tried: Vec<NodeIndex>,
    /// Where the last one sent us.
    hint: Option<(NodeIndex, u8)>,
    hops: u8,
    rounds: u32,
    /// Somebody in this round has it or is getting it: a second reader would only cost the origin.
    coming: bool,
    /// What the last busy peer asked us to wait, and how many were busy in this round.
    retry: Option<Duration>,
    busy: u32,
}

impl Pursuit {
    /// The file and block.
    #[must_use]
    pub fn at(&self) -> (FileId, BlockIndex) {
        self.at
    }

    /// Whether a reader waits for it.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask this node.
    Ask {
        /// Whom.
        node: NodeIndex,
        /// What for.
        role: Role,
        /// Redirects so far.
        hop: u8,
        /// How long it may hold the request.
        wait: Duration,
    },
    /// Read it from the origin; others may wait for that from now on.
    Origin,
    /// Nobody can be asked now.
    Wait(Duration),
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The block, and its checksum agreed.
    Got,
    /// It does not have it and is not reading it.
    NotHere,
    /// It is still reading it.
    NotYet,
    /// Ask that one.
    Redirected(Name),
    /// Too many requests.
    Busy(Duration),
    /// No connection, no reply in time, or a broken one.
    Failed,
    /// The block came far more slowly than others do.
    Crawled,
    /// The bytes were not those of their checksum.
    Corrupt,
}

impl Swarm {
    /// Begins with a block that was claimed or chosen.
    #[must_use]
    pub fn pursue(&self, at: (FileId, BlockIndex), urgent: bool, now: Instant) -> Pursuit {
        Pursuit {
            at,
            urgent,
            began: now,
            tried: Vec::new(),
            hint: None,
            hops: 0,
            rounds: 0,
            coming: false,
            retry: None,
            busy: 0,
        }
    }

    /// What to do next. After `Ask`, [`Self::outcome`] is told what came of it; after `Origin` the block counts as
    /// being read until [`Self::land`].
    pub fn next_step(&mut self, pursuit: &mut Pursuit, now: Instant) -> Step {
        let at = pursuit.at;
        if self.origin_only.contains(&at) {
            return self.origin(at, Why::Again, now);
        }
        if !self.is_sharing(now) {
            return self.origin(at, Why::Alone, now);
        }
        let hint = pursuit.hint.take().filter(|(node, _)| self.can_ask(pursuit, *node, now));
        if let Some((node, hop)) = hint {
            return self.ask(pursuit, node, Role::Owner, hop);
        }
        if pursuit.busy >= MOST_BUSY && !self.is_blocked(pursuit, now) {
            return self.pause(pursuit);
        }
        pursuit.hops = 0;
        let ranks = self.ranks(at);
        let owner = ranks.into_iter().flatten().find(|node| self.is_usable(*node, now));
        let reader = self.readers(at, now).find(|node| self.can_ask(pursuit, *node, now));
        if let Some(reader) = reader.filter(|_| !self.forced.contains(&at)) {
            return self.ask(pursuit, reader, Role::Owner, 0);
        }
        if self.forced.contains(&at) || owner == Some(NodeIndex::ME) {
            return match self.pick(pursuit, now).or_else(|| self.unsure(pursuit, ranks, now)) {
                Some(node) => self.ask(pursuit, node, Role::Holder, 0),
                None if pursuit.coming && !self.is_up_to_me(pursuit, now) => self.pause(pursuit),
                None if ranks.first() == Some(&Some(NodeIndex::ME)) => self.origin(at, Why::Own, now),
                None => self.origin(at, Why::StandIn, now),
            };
        }
        let holder = self.pick(pursuit, now);
        if let Some(owner) = owner.filter(|owner| self.can_ask(pursuit, *owner, now))
            && (holder.is_none() || self.has(owner, at) && !self.is_crowded(owner))
        {
            return self.ask(pursuit, owner, Role::Owner, 0);
        }
        if let Some(holder) = holder {
            return self.ask(pursuit, holder, Role::Holder, 0);
        }
        let stand_in = !pursuit.coming;
        for node in ranks.into_iter().flatten().filter(|_| stand_in) {
            if node == NodeIndex::ME {
                return self.origin(at, Why::StandIn, now);
            }
            if self.can_ask(pursuit, node, now) {
                return self.ask(pursuit, node, Role::Owner, 0);
            }
        }
        let bytes = self.len(at);
        if self.is_blocked(pursuit, now) && self.budget.take(bytes, now) {
            return self.origin(at, Why::Escape, now);
        }
        self.pause(pursuit)
    }

    /// Whether the owner of a block has waited long enough for others: those it has asked may wait for it themselves.
    fn is_up_to_me(&self, pursuit: &Pursuit, now: Instant) -> bool {
        let is_read = self.readers(pursuit.at, now).next().is_some();
        pursuit.rounds >= OWNER_ROUNDS && !is_read || self.is_blocked(pursuit, now)
    }

    fn is_blocked(&self, pursuit: &Pursuit, now: Instant) -> bool {
        // Who is known to read it gets more time: a second reader would only make the origin slower.
        let times = if self.readers(pursuit.at, now).next().is_some() { READING } else { 1 };
        now.saturating_duration_since(pursuit.began) >= self.patience() * times
    }

    /// Begins another round after a while.
    #[expect(clippy::unused_self, reason = "reads as the other steps do")]
    fn pause(&self, pursuit: &mut Pursuit) -> Step {
        pursuit.tried.clear();
        (pursuit.coming, pursuit.busy) = (false, 0);
        let pause = PAUSE.saturating_mul(1 << pursuit.rounds.min(4)).min(MAX_PAUSE);
        pursuit.rounds += 1;
        Step::Wait(pursuit.retry.take().map_or(pause, |retry| retry.max(pause).min(MAX_PAUSE)))
    }

    /// What came of the last `Ask`. True if the node is not asked any more, ever.
    pub fn outcome(
        &mut self,
        pursuit: &mut Pursuit,
        node: NodeIndex,
        outcome: &Outcome,
        now: Instant,
    ) -> bool {
        let (file, block) = pursuit.at;
        let bytes = self.len(pursuit.at);
        self.counts.answered(outcome, bytes);
        if let Some(entry) = self.nodes.get_mut(node.index()) {
            entry.asked = entry.asked.saturating_sub(1);
            if *outcome == Outcome::Got {
                entry.traffic.received.add(bytes);
            }
            match outcome {
                Outcome::Failed | Outcome::Crawled | Outcome::Corrupt => {}
                Outcome::Got => entry.breaker.succeeded(),
                _ => entry.breaker.answered(),
            }
        }
        match outcome {
            Outcome::Got => {}
            Outcome::NotYet => pursuit.coming = true,
            Outcome::NotHere => {
                self.lacks(node, (file, block));
                self.is_not_reading(node, (file, block));
            }
            Outcome::Redirected(name) => {
                pursuit.coming = true;
                let hop = pursuit.hops + 1;
                pursuit.hint = self.find(name).filter(|_| hop <= MAX_HOPS).map(|node| (node, hop));
            }
            Outcome::Busy(retry) => {
                (pursuit.coming, pursuit.retry) = (true, Some(*retry));
                pursuit.busy += 1;
            }
            Outcome::Failed => self.failed(node, now),
            Outcome::Crawled => self.crawled(node, now),
            Outcome::Corrupt => return self.struck(node, now),
        }
        false
    }

    /// How long an answer of a node is waited for before another one is asked: three times what its answers take.
    pub(super) fn hedge_after(&self, node: NodeIndex) -> Duration {
        let answers = self.nodes.get(node.index()).map_or(Duration::ZERO, |node| node.answers);
        (answers * 3).clamp(LEAST_HEDGE, MOST_HEDGE)
    }

    /// A second node to ask, if a reader waits and another one has the block. It counts as asked.
    pub(super) fn hedge(&mut self, pursuit: &mut Pursuit, now: Instant) -> Option<NodeIndex> {
        if !pursuit.urgent && !self.is_urged(pursuit.at) {
            return None;
        }
        let node = self.pick(pursuit, now)?;
        self.counts.hedged += 1;
        let hops = pursuit.hops;
        self.ask(pursuit, node, Role::Holder, 0);
        pursuit.hops = hops;
        Some(node)
    }

    /// What a node would answer does not matter any more.
    pub(super) fn abandoned(&mut self, node: NodeIndex) {
        if let Some(node) = self.nodes.get_mut(node.index()) {
            node.asked = node.asked.saturating_sub(1);
        }
    }

    /// A node's answer took so long that brings a block. Moves the estimate of the median by an eighth.
    pub(super) fn answered_after(&mut self, node: NodeIndex, took: Duration) {
        let Some(node) = self.nodes.get_mut(node.index()) else { return };
        node.answers = match node.answers {
            Duration::ZERO => took,
            answers if took > answers => answers + answers / 8,
            answers => (answers - answers / 8).max(took),
        };
    }

    /// A node told its queue with a reply.
    pub fn queue_is(&mut self, node: NodeIndex, queue: u32) {
        if let Some(node) = self.nodes.get_mut(node.index()) {
            node.queue = queue;
        }
    }

    fn origin(&mut self, at: At, why: Why, now: Instant) -> Step {
        self.counts.read_origin(why, self.len(at));
        self.forced.remove(&at);
        self.read_begins(at, now);
        Step::Origin
    }

    fn ask(&mut self, pursuit: &mut Pursuit, node: NodeIndex, role: Role, hop: u8) -> Step {
        pursuit.tried.push(node);
        pursuit.hops = hop;
        self.asks(pursuit.at, node);
        if let Some(node) = self.nodes.get_mut(node.index()) {
            node.asked += 1;
            node.traffic.asked += 1;
        }
        self.counts.asked(role);
        // Who is not reading it answers at once.
        Step::Ask { node, role, hop, wait: self.settings.park }
    }

    fn can_ask(&self, pursuit: &Pursuit, node: NodeIndex, now: Instant) -> bool {
        node != NodeIndex::ME && !pursuit.tried.contains(&node) && self.is_usable(node, now)
    }

    fn is_crowded(&self, node: NodeIndex) -> bool {
        self.nodes
            .get(node.index())
            .is_some_and(|node| node.queue > self.settings.long_queue || node.asked >= self.settings.per_peer)
    }

    /// The less loaded of two random holders.
    fn pick(&mut self, pursuit: &Pursuit, now: Instant) -> Option<NodeIndex> {
        let two = self.two_holders(pursuit.at, now, |node| pursuit.tried.contains(&node));
        let load = |node: &NodeIndex| self.nodes.get(node.index()).map_or(0, |node| node.asked + node.queue);
        two.into_iter().flatten().min_by_key(load)
    }

    /// The next rank whose news is too old to say that it lacks the block.
    fn unsure(
        &self,
        pursuit: &Pursuit,
        ranks: [Option<NodeIndex>; super::placement::RANKS],
        now: Instant,
    ) -> Option<NodeIndex> {
        ranks.into_iter().flatten().filter(|node| self.can_ask(pursuit, *node, now)).find(|node| {
            let heard = self.nodes.get(node.index()).and_then(|node| node.heard);
            let fresh = if self.is_settled(now) { self.settings.fresh } else { Duration::ZERO };
            heard.is_none_or(|heard| now.saturating_duration_since(heard) > fresh)
        })
    }

    /// A node does not have what its bitmap said.
    fn lacks(&mut self, node: NodeIndex, (file, block): At) {
        let have =
            self.nodes.get_mut(node.index()).and_then(|node| node.have.get_mut(file.index())?.as_mut());
        if have.is_some_and(|have| have.unset(block))
            && let Some(file) = self.files.get_mut(file.index())
        {
            file.holders.put(block, node, false);
        }
    }
}
