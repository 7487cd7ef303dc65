//! What a node read from the origin and why, what came from peers, and how often each of their answers was given.
//! Counted by [`super::swarm::Swarm`], where it is decided; the agent logs it once, at the end of a load.

use super::id::Name;
use super::pursuit::{Outcome, Role};
use super::swarm::Swarm;

/// Why a block was read from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// This node owns it.
    Own,
    /// Its owner cannot be asked, or somebody who could not ask it asked this node.
    StandIn,
    /// Peers did not give it for long.
    Escape,
    /// There are no peers.
    Alone,
    /// What peers sent was wrong.
    Again,
}

/// Blocks and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: u64) {
        self.blocks += 1;
        self.bytes += bytes;
    }
}

/// The numbers of one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Read from the origin because this node owns them.
    pub own: Tally,
    /// Read from the origin in place of their owner.
    pub stand_in: Tally,
    /// Read from the origin because peers did not give them for long.
    pub escape: Tally,
    /// Read from the origin without peers.
    pub alone: Tally,
    /// Read from the origin because peers sent something else.
    pub again: Tally,
    /// Came from peers.
    pub peers: Tally,
    /// Requests to owners.
    pub asked_owner: u64,
    /// Requests to others who have the block.
    pub asked_holder: u64,
    /// Second requests for a block that a reader waits for.
    pub hedged: u64,
    /// Answers that named another node.
    pub redirected: u64,
    /// Answers "still reading".
    pub not_yet: u64,
    /// Answers "not here".
    pub not_here: u64,
    /// Answers "too many".
    pub busy: u64,
    /// No answer, or a broken one.
    pub failed: u64,
    /// Blocks with a wrong checksum.
    pub corrupt: u64,
    /// Sent to peers. Counted by the server.
    pub served: Tally,
}

/// What went between this node and another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Traffic {
    /// Requests to it.
    pub(super) asked: u64,
    /// Blocks that came from it.
    pub(super) received: Tally,
    /// Blocks that it was sent.
    pub(super) served: Tally,
}

/// Another node, and what went between it and this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partner {
    /// Its name.
    pub name: Name,
    /// It is there now, and has blocks of this model.
    pub is_there: bool,
    /// Nothing is taken from it any more because it sent wrong bytes.
    pub is_quarantined: bool,
    /// Requests to it.
    pub asked: u64,
    /// Blocks that came from it.
    pub received: Tally,
    /// Blocks that it was sent.
    pub served: Tally,
}

impl Swarm {
    /// All nodes but this one.
    pub(super) fn partners(&self) -> Vec<Partner> {
        let others = self.nodes.iter().skip(1);
        let partner = others.map(|node| Partner {
            name: node.name.clone(),
            is_there: node.shares(),
            is_quarantined: node.quarantined,
            asked: node.traffic.asked,
            received: node.traffic.received,
            served: node.traffic.served,
        });
        partner.collect()
    }
}

impl Counts {
    pub(super) fn read_origin(&mut self, why: Why, bytes: u64) {
        let tally = match why {
            Why::Own => &mut self.own,
            Why::StandIn => &mut self.stand_in,
            Why::Escape => &mut self.escape,
            Why::Alone => &mut self.alone,
            Why::Again => &mut self.again,
        };
        tally.add(bytes);
    }

    pub(super) fn asked(&mut self, role: Role) {
        match role {
            Role::Owner => self.asked_owner += 1,
            Role::Holder => self.asked_holder += 1,
        }
    }

    pub(super) fn answered(&mut self, outcome: &Outcome, bytes: u64) {
        let count = match outcome {
            Outcome::Got => return self.peers.add(bytes),
            Outcome::NotHere => &mut self.not_here,
            Outcome::NotYet => &mut self.not_yet,
            Outcome::Redirected(_) => &mut self.redirected,
            Outcome::Busy(_) => &mut self.busy,
            Outcome::Failed | Outcome::Crawled => &mut self.failed,
            Outcome::Corrupt => &mut self.corrupt,
        };
        *count += 1;
    }

    /// Logs them.
    pub(super) fn log(&self) {
        tracing::info!(
            own = self.own.bytes,
            stand_in = self.stand_in.bytes,
            escape = self.escape.bytes,
            alone = self.alone.bytes,
            again = self.again.bytes,
            peers = self.peers.bytes,
            served = self.served.bytes,
            asked_owner = self.asked_owner,
            asked_holder = self.asked_holder,
            hedged = self.hedged,
            redirected = self.redirected,
            not_yet = self.not_yet,
            not_here = self.not_here,
            busy = self.busy,
            failed = self.failed,
            corrupt = self.corrupt,
            "where the bytes came from"
        );
    }
}
