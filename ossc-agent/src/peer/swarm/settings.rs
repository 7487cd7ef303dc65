//! The bounds of the schedule, all from simulations. Filled in by `Peers::start`.

use std::time::Duration;

use crate::peer::id::Name;

/// The bounds of the schedule.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes that the own share is read ahead of the swarm's frontier, at least.
    pub look_ahead: u64,
    /// Bytes behind the own frontier in which blocks are asked of peers.
    pub window: u64,
    /// Blocks read from the origin at a time, at most.
    pub origin_slots: u32,
    /// Blocks asked of peers at a time.
    pub peer_slots: u32,
    /// And of those that nobody is known to have yet: a request that waits for its owner's read keeps a place from a
    /// block that could come.
    pub guesses: u32,
    /// Blocks asked of one peer at a time.
    pub per_peer: u32,
    /// A node that joins others owns no blocks for so long, until all know it.
    pub join_delay: Duration,
    /// How long a peer may hold a request for a block that it is reading.
    pub park: Duration,
    /// A block that peers cannot give for so long, or for eight times what blocks take, may be read from the origin,
    /// within the budget.
    pub patience: Duration,
    /// A bitmap older than this is not trusted to say that a node lacks a block.
    pub fresh: Duration,
    /// A queue longer than this sends requests to other holders.
    pub long_queue: u32,
    /// With a queue like this a block is sent to nobody else, so that those who have it already give it on: what
    /// all ask one node for would leave it one after the other, while the others have nothing to send.
    pub deep_queue: u32,
    /// Blocks are shared with nodes of this zone alone, or with those that have none.
    pub zone: Option<Name>,
    /// Blocks are taken from whoever has them; else from their owners alone, which is worse, to see how much.
    pub any_holder: bool,
}

/// Look-ahead and window are such a part of the load at most: a reader that reads in order waits for what is far ahead.
const PART: u64 = 32;
/// But no fewer blocks than this.
const LEAST: u64 = 32;

impl Settings {
    /// Makes them fit a load of so many bytes.
    pub(super) fn fit(&mut self, load: u64, block: u64) {
        let most = (load / PART).max(LEAST * block);
        self.look_ahead = self.look_ahead.min(most);
        self.window = self.window.min(most);
    }
}

impl Default for Settings {
    /// From the simulation: 8 GB and 4 GB at 664 GB, 16 requests in flight, 4 a peer.
    fn default() -> Self {
        Self {
            look_ahead: 8 << 30,
            window: 4 << 30,
            origin_slots: 16,
            peer_slots: 16,
            guesses: 4,
            per_peer: 4,
            join_delay: Duration::from_millis(1500),
            park: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            fresh: Duration::from_secs(1),
            long_queue: 4,
            deep_queue: 12,
            zone: None,
            any_holder: true,
        }
    }
}
