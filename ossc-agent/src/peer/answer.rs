//! What a peer is answered that asks for a block. Pure; part of [`Swarm`].
//!
//! Whoever has the block sends it, or names another holder when the queue is long. Who is reading it from the origin
//! lets the peer wait. Who is only asking others for it says "later" at once: two nodes that wait for each other
//! would wait for ever. Who is to own it, or to stand in for its owner, begins to read.

use std::time::Instant;

use super::id::{Name, ObjectId};
use super::pursuit::{MAX_HOPS, Role};
use super::swarm::{Flight, NodeIndex, Swarm};
use crate::base::{BlockIndex, FileId};

/// A request for a block, checked for form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who asks.
    pub from: Name,
    /// What object.
    pub object: ObjectId,
    /// Which block.
    pub block: BlockIndex,
    /// What we may do for it.
    pub role: Role,
    /// How often it was sent on.
    pub hop: u8,
    /// A reader waits for it.
    pub urgent: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Here it is.
    Send(FileId),
    /// Let the peer wait until it is there.
    Park(FileId),
    /// Begin to read it, and let the peer wait.
    Read(FileId),
    /// It is on its way here from another peer: ask again, and nobody in our place.
    Later,
    /// Ask that one.
    Redirect(Name),
    /// Too much to send; ask again, others will have it soon.
    Busy,
    /// Not here.
    NotHere,
    /// No such object or block.
    Unknown,
}

impl Swarm {
    /// Answers a question; `is_ready` says whether the block is in the file, `queue` how many blocks are waiting to
    /// be sent.
    pub fn answer(
        &mut self,
        question: &Question,
        is_ready: impl FnOnce(FileId) -> bool,
        queue: u32,
        now: Instant,
    ) -> Answer {
        let Some(file) = self.file(question.object) else { return Answer::Unknown };
        let at = (file, question.block);
        if self.len(at) == 0 {
            return Answer::Unknown;
        }
        self.refresh(now);
        let asker = self.find(&question.from);
        if is_ready(file) {
            let other = if queue > self.settings.long_queue && question.hop < MAX_HOPS {
                self.other_holder(at, asker, now)
            } else {
                None
            };
            let deep = queue >= self.settings.deep_queue && !question.urgent;
            let here = if deep { Answer::Busy } else { Answer::Send(file) };
            return other.map_or(here, Answer::Redirect);
        }
        match self.flight(at) {
            Some(Flight::Origin) => return Answer::Park(file),
            // Who waits for the asker has nothing to offer it.
            Some(Flight::Peer) if asker.is_some_and(|asker| self.waits_for(at, asker)) => {
                return Answer::NotHere;
            }
            Some(Flight::Peer) => return Answer::Later,
            None => {}
        }
        if question.role == Role::Holder || self.is_draining() {
            return Answer::NotHere;
        }
        let ranks = self.ranks(at);
        if ranks.contains(&Some(NodeIndex::ME)) {
            self.forced.insert(at);
            return Answer::Read(file);
        }
        let owner = ranks.into_iter().flatten().find(|node| self.is_usable(*node, now));
        match owner.filter(|owner| Some(*owner) != asker && question.hop < MAX_HOPS) {
            Some(owner) => self.name(owner).cloned().map_or(Answer::NotHere, Answer::Redirect),
            None => Answer::NotHere,
        }
    }

    /// A block was sent to a peer: it can be asked for it from now on, long before it says so itself.
    pub(super) fn served(&mut self, to: &Name, (file, block): (FileId, BlockIndex)) {
        let node = self.find(to).filter(|node| *node != NodeIndex::ME);
        let Some(node) = node else { return };
        let bytes = self.len((file, block));
        let mut entry = self.nodes.get_mut(node.index());
        if let Some(entry) = &mut entry {
            entry.traffic.served.add(bytes);
        }
        if let Some(have) = entry.and_then(|entry| entry.have.get_mut(file.index())?.as_mut())
            && have.set(block)
            && let Some(file) = self.files.get_mut(file.index())
        {
            file.holders.put(block, node, true);
        }
    }

    /// The less loaded of two random other holders, if it has less to do than we.
    fn other_holder(
        &mut self,
        at: (FileId, BlockIndex),
        asker: Option<NodeIndex>,
        now: Instant,
    ) -> Option<Name> {
        let two = self.two_holders(at, now, |node| Some(node) == asker);
        let load = |node: &NodeIndex| self.nodes.get(node.index()).map_or(u32::MAX, |node| node.queue);
        let best = two.into_iter().flatten().min_by_key(load)?;
        (load(&best) <= self.settings.long_queue).then(|| self.name(best).cloned()).flatten()
    }
}
