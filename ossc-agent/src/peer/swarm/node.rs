//! What is known of one node and of one file: the rows of the swarm's tables. Pure.

use std::time::{Duration, Instant};

use super::NodeIndex;
use crate::base::{BlockIndex, Layout};
use crate::peer::bitmap::Bitmap;
use crate::peer::health::Breaker;
use crate::peer::id::{Name, ObjectId};
use crate::peer::placement::{NodeKey, RANKS};

#[derive(Debug)]
pub(in crate::peer) struct Node {
    pub(in crate::peer) name: Name,
    pub(super) key: NodeKey,
    pub(super) weight: f64,
    pub(super) started: Instant,
    pub(in crate::peer) alive: bool,
    pub(super) draining: bool,
    pub(in crate::peer) quarantined: bool,
    pub(super) strikes: u32,
    pub(in crate::peer) breaker: Breaker,
    /// When its bitmaps were heard.
    pub(in crate::peer) heard: Option<Instant>,
    /// Of each file that both have.
    pub(in crate::peer) have: Vec<Option<Bitmap>>,
    /// Position of the first block it lacks.
    pub(super) frontier: u64,
    /// Requests of ours it has not answered in full.
    pub(in crate::peer) asked: u32,
    /// What its answers take that bring a block: about half of them less.
    pub(in crate::peer) answers: Duration,
    /// It was asked last what it has, and said nothing.
    pub(super) silent: bool,
    /// Its queue as last heard.
    pub(in crate::peer) queue: u32,
}

/// One file that is shared.
#[derive(Debug)]
pub(in crate::peer) struct Shared {
    pub(in crate::peer) object: ObjectId,
    pub(in crate::peer) layout: Layout,
    /// Bytes of all files before it.
    pub(super) start: u64,
    /// How many live peers have each block.
    pub(in crate::peer) copies: Vec<u16>,
    /// Ranks of each block and the epoch they are of.
    pub(super) ranks: Vec<(u32, [Option<NodeIndex>; RANKS])>,
}

impl Node {
    /// Whether blocks can come from it.
    pub(in crate::peer) fn shares(&self) -> bool {
        self.alive && !self.quarantined && self.have.iter().any(Option::is_some)
    }

    /// Whether blocks may be placed on it. This node has no bitmaps of itself here.
    pub(super) fn owns(&self) -> bool {
        let is_me = self.heard.is_none() && self.alive;
        !self.draining && (is_me || self.shares() && !self.breaker.has_given_up())
    }
}

/// Counts copies up and down.
pub(super) fn count(copies: &mut [u16], changes: impl Iterator<Item = (BlockIndex, bool)>) {
    for (block, there) in changes {
        if let Some(copies) = copies.get_mut(block.0 as usize) {
            *copies = if there { copies.saturating_add(1) } else { copies.saturating_sub(1) };
        }
    }
}

/// Takes back what a node had.
pub(super) fn forget(files: &mut [Shared], node: &mut Node) {
    for (shared, have) in files.iter_mut().zip(&mut node.have) {
        if let Some(gone) = have.take() {
            count(&mut shared.copies, Bitmap::new(shared.layout.block_count()).changes(&gone));
        }
    }
}

/// Position of the first block that is missing in files that the node has.
pub(super) fn frontier(files: &[Shared], have: &[Option<Bitmap>]) -> u64 {
    let mut end = 0;
    for (file, have) in files.iter().zip(have) {
        let Some(have) = have else { continue };
        if let Some(block) = have.first_missing() {
            return file.start + u64::from(block.0) * file.layout.block_size().bytes();
        }
        end = file.start + file.layout.size();
    }
    end
}
