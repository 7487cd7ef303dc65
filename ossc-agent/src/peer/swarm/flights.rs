//! The blocks that are under way to this node: where from, since when, and who waits for them. Part of [`Swarm`].

use std::time::{Duration, Instant};

use super::{At, NodeIndex, Swarm};
use crate::base::{BlockIndex, FileId};
use crate::peer::id::ObjectId;

/// Blocks that have come before their usual time is known.
const KNOWN: u64 = 16;

/// Where a block in flight comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::peer) enum Flight {
    Origin,
    Peer,
}

/// A block in flight.
#[derive(Debug)]
pub(super) struct UnderWay {
    flight: Flight,
    /// When it was chosen.
    since: Instant,
    /// When its read from the origin began.
    reading: Option<Instant>,
    /// It was chosen though no peer is known to have it.
    guess: bool,
    /// A reader waits for it.
    urgent: bool,
    /// Who was asked for it last.
    asked: Option<NodeIndex>,
}

impl Swarm {
    /// Blocks that this node is reading from the origin.
    #[must_use]
    pub fn own_reading(&self) -> Vec<(ObjectId, BlockIndex)> {
        let origin = self.in_flight.iter().filter(|(_, under_way)| under_way.flight == Flight::Origin);
        origin.filter_map(|((file, block), _)| Some((self.object(*file)?, *block))).collect()
    }

    /// Whether a block is under way here, and where from.
    pub(in crate::peer) fn flight(&self, at: At) -> Option<Flight> {
        self.in_flight.get(&at).map(|under_way| under_way.flight)
    }

    /// A block is under way, or changes its way.
    pub(in crate::peer) fn take_off(&mut self, at: At, flight: Flight, now: Instant) {
        let before = self.remove(at);
        let urgent = before.as_ref().is_some_and(|before| before.urgent);
        let since = before.map_or(now, |before| before.since);
        self.in_flight
            .insert(at, UnderWay { flight, since, reading: None, guess: false, urgent, asked: None });
        match flight {
            Flight::Origin => self.origin_in_flight += 1,
            Flight::Peer => self.peer_in_flight += 1,
        }
    }

    /// Position of the first block that this node is reading from the origin.
    pub(in crate::peer) fn first_reading(&self) -> u64 {
        let reading = self.in_flight.iter().filter(|(_, under_way)| under_way.flight == Flight::Origin);
        reading.map(|(at, _)| self.position(*at)).min().unwrap_or(u64::MAX)
    }

    /// A reader waits for these blocks, if they are under way.
    pub(in crate::peer) fn urge(&mut self, file: FileId, blocks: &std::ops::Range<u32>) {
        for ((of, block), under_way) in &mut self.in_flight {
            under_way.urgent |= *of == file && blocks.contains(&block.0);
        }
    }

    /// Whether a reader is known to wait for a block that is under way.
    pub(in crate::peer) fn is_urged(&self, at: At) -> bool {
        self.in_flight.get(&at).is_some_and(|under_way| under_way.urgent)
    }

    /// A node is asked for a block that is under way.
    pub(in crate::peer) fn asks(&mut self, at: At, node: NodeIndex) {
        if let Some(under_way) = self.in_flight.get_mut(&at) {
            under_way.asked = Some(node);
        }
    }

    /// Whether this node waits for what that one does about a block.
    pub(in crate::peer) fn waits_for(&self, at: At, node: NodeIndex) -> bool {
        self.in_flight.get(&at).is_some_and(|under_way| under_way.asked == Some(node))
    }

    /// A block is asked of its owner, before anybody is known to have it.
    pub(in crate::peer) fn mark_guess(&mut self, at: At) {
        if let Some(under_way) = self.in_flight.get_mut(&at)
            && !std::mem::replace(&mut under_way.guess, true)
        {
            self.guesses += 1;
        }
    }

    /// A block is being read from the origin from now on.
    pub(in crate::peer) fn read_begins(&mut self, at: At, now: Instant) {
        self.take_off(at, Flight::Origin, now);
        if let Some(under_way) = self.in_flight.get_mut(&at) {
            under_way.reading = Some(now);
        }
    }

    /// A block is no longer under way: it is there, or was given up.
    pub fn land(&mut self, at: (FileId, BlockIndex), now: Instant) {
        let under_way = self.origin_in_flight;
        let Some(landed) = self.remove(at) else { return };
        let took = now.saturating_duration_since(landed.since);
        self.typical = if self.typical.is_zero() { took } else { self.typical * 15 / 16 + took / 16 };
        self.landed += 1;
        if let Some(reading) = landed.reading {
            self.ramp.landed(now.saturating_duration_since(reading), under_way);
        }
    }

    fn remove(&mut self, at: At) -> Option<UnderWay> {
        let removed = self.in_flight.remove(&at)?;
        match removed.flight {
            Flight::Origin => self.origin_in_flight -= 1,
            Flight::Peer => self.peer_in_flight -= 1,
        }
        self.guesses -= u32::from(removed.guess);
        Some(removed)
    }

    /// How long a block may be on its way from a peer, and whether enough have come to tell that that is long: else only
    /// what hardly moves is too slow.
    pub(in crate::peer) fn slowest(&self) -> (Duration, bool) {
        (self.patience(), self.landed >= KNOWN)
    }

    /// How long a block may be tried to be had from peers: on a crowded network all blocks take long.
    pub(in crate::peer) fn patience(&self) -> Duration {
        self.settings.patience.max(self.typical * 8)
    }
}
