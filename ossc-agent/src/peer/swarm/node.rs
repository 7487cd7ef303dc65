//! What is known of one node and of one file: the rows of the swarm's tables. Pure.

use std::time::{Duration, Instant};

use super::holders::Holders;
use super::{At, NodeIndex};
use crate::base::Layout;
use crate::peer::bitmap::Bitmap;
use crate::peer::counts::Traffic;
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
    /// It lacks nothing of what it loads, as last heard; not said of one that loads something else, too.
    pub(super) complete: bool,
    /// Of each file that both have.
    pub(in crate::peer) have: Vec<Option<Bitmap>>,
    /// What it is reading from the origin, as last heard.
    pub(super) reading: Vec<At>,
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
    /// What went between it and this node.
    pub(in crate::peer) traffic: Traffic,
}

/// One file that is shared.
#[derive(Debug)]
pub(in crate::peer) struct Shared {
    pub(in crate::peer) object: ObjectId,
    pub(in crate::peer) layout: Layout,
    /// Bytes of all files before it.
    pub(super) start: u64,
    /// Which live peers have each block.
    pub(in crate::peer) holders: Holders,
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

impl Shared {
    /// A node has `new` now, and had `old`; None is nothing.
    pub(super) fn change(&mut self, node: NodeIndex, new: Option<&Bitmap>, old: Option<&Bitmap>) {
        let nothing = Bitmap::new(if new.is_some() && old.is_some() { 0 } else { self.layout.block_count() });
        for (block, there) in new.unwrap_or(&nothing).changes(old.unwrap_or(&nothing)) {
            self.holders.put(block, node, there);
        }
    }
}

/// Takes back what a node had.
pub(super) fn forget(files: &mut [Shared], (at, node): (NodeIndex, &mut Node)) {
    for (shared, have) in files.iter_mut().zip(&mut node.have) {
        if let Some(gone) = have.take() {
            shared.change(at, None, Some(&gone));
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
