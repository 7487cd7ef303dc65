//! Which block a free connection fetches next, and from which side. Pure; part of [`Swarm`].
//!
//! Demand is handed out as it comes. Everything else: the own share first, in order, up to a bound before the
//! swarm's frontier; then what peers have or are reading, in order, within a window behind the own frontier. In
//! each group of as many blocks as there are nodes every node begins at another place, so that not all of them
//! ask the same peer for the same block.

use std::time::Instant;

use super::swarm::{At, Flight, NodeIndex, Swarm};
use crate::base::{BlockIndex, FileId};

/// Most wanted blocks looked at for one choice: a window of 4 GiB in blocks of 2 MiB, and as much again.
const SCAN: usize = 4096;

/// More nodes than have all been asked in the last two seconds what they have.
const MANY: u64 = 64;

/// The best block of a peer so far.
struct Best {
    group: u64,
    turn: u64,
    at: At,
    /// Nobody is known to have it.
    guess: bool,
}

impl Swarm {
    /// Takes a block that a reader waits for. False if it is to wait for a free place: some connections are always
    /// left for reading the origin, so that peers that wait for this node get their blocks.
    pub fn claim(&mut self, at: (FileId, BlockIndex), now: Instant) -> bool {
        self.refresh(now);
        if self.is_mine(at, now) {
            self.take_off(at, Flight::Origin, now);
        } else if self.peer_in_flight < self.settings.peer_slots {
            self.take_off(at, Flight::Peer, now);
        } else {
            return false;
        }
        true
    }

    /// Chooses among blocks in the order they are wanted, and takes one.
    pub fn choose(
        &mut self,
        wanted: &mut dyn Iterator<Item = (FileId, BlockIndex)>,
        now: Instant,
    ) -> Option<(FileId, BlockIndex)> {
        self.refresh(now);
        let origin_free = self.origin_in_flight < self.ramp.slots();
        let mut peer_free = self.peer_in_flight < self.settings.peer_slots;
        if !origin_free && !peer_free {
            return None;
        }
        let nodes = self.domain.len().max(1) as u64;
        let own_turn = self.own_place;
        // Among many nodes news are old. But all read their own blocks in order, so how far this one is with them
        // tells how far the others are.
        let mut read_until = if nodes > MANY { self.first_reading() } else { 0 };
        let mut limits = None;
        let mut best: Option<Best> = None;
        for at in wanted.take(SCAN) {
            let position = self.position(at);
            let (own_limit, peer_limit) = *limits.get_or_insert_with(|| {
                // Of a small model, too, each node has some blocks of its own to read, and others to ask for.
                let least = 4 * nodes * self.len(at);
                (
                    self.frontier().max(position).saturating_add(self.settings.look_ahead.max(least)),
                    position.saturating_add(self.settings.window.max(least)),
                )
            });
            if position > own_limit.max(peer_limit) {
                // What was planned stands before the rest and may be anywhere.
                continue;
            }
            if self.is_mine(at, now) {
                if origin_free && position <= own_limit {
                    self.take_off(at, Flight::Origin, now);
                    return Some(at);
                }
                read_until = read_until.min(position);
                continue;
            }
            if !peer_free || position > peer_limit {
                continue;
            }
            let number = position / self.block_bytes(at.0);
            let (group, turn) = (number / nodes, (number % nodes + nodes - own_turn) % nodes);
            if let Some(best) = &best {
                if group == best.group && turn >= best.turn {
                    continue;
                }
                if group != best.group {
                    // Only blocks of its group could be better.
                    peer_free = false;
                    if !origin_free {
                        break;
                    }
                    continue;
                }
            }
            if let Some(guess) = self.can_come(at, position < read_until, now) {
                best = Some(Best { group, turn, at, guess });
                if turn == 0 {
                    peer_free = false;
                }
            }
            if !peer_free && !origin_free {
                break;
            }
        }
        let Best { at, guess, .. } = best?;
        self.take_off(at, Flight::Peer, now);
        if guess {
            self.mark_guess(at);
        }
        Some(at)
    }

    /// Whether this node is to read the block from the origin: nobody has it, and its owner is this node, or every
    /// better owner cannot be asked, or somebody could not reach those and asked this node.
    pub(super) fn is_mine(&mut self, at: At, now: Instant) -> bool {
        if self.forced.contains(&at) || self.origin_only.contains(&at) {
            return true;
        }
        let ranks = self.ranks(at);
        if !ranks.contains(&Some(NodeIndex::ME)) {
            return false;
        }
        let first = ranks.into_iter().flatten().find(|node| self.is_usable(*node, now));
        first == Some(NodeIndex::ME)
            && self.holders(at, now).next().is_none()
            && self.readers(at, now).next().is_none()
    }

    /// Whether a peer has a free place for a request for the block; true inside if its owner may not have it yet.
    fn can_come(&mut self, at: At, is_likely: bool, now: Instant) -> Option<bool> {
        let ranks = self.ranks(at);
        let free = |node: &NodeIndex| {
            self.nodes.get(node.index()).is_some_and(|node| node.asked < self.settings.per_peer)
        };
        let mut holders = self.holders(at, now).peekable();
        if holders.peek().is_some() {
            return holders.any(|node| free(&node)).then_some(false);
        }
        drop(holders);
        if !is_likely && self.guesses >= self.settings.guesses {
            return None;
        }
        let may = self.readers(at, now).any(|node| free(&node))
            || ranks.iter().flatten().find(|node| self.is_usable(**node, now)).is_some_and(free);
        may.then_some(!is_likely)
    }
}
