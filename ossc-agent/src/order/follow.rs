//! What readers will want next, told from where they are. Pure; the agent brings each access and hands what comes
//! out to `fetch`, to be fetched before the rest of the plan.
//!
//! The plan alone says the order of a load that goes like the ones before. A reader that begins in its middle, a
//! second one, or one that leaves the plan is found here: each goes its own way ([`Trail`]), along the plan from
//! where it is, or else through a file block by block or at a constant stride. Only blocks nobody has touched
//! count, so a load costs as many decisions as it has blocks, however small the reads are.
//!
//! A wrong guess costs its distance at most, in bytes fetched too early; all of them are wanted in the end.

mod trail;

use std::ops::Range;

use self::trail::{Course, Trail};
use super::Plan;
use super::merge::Block;
use crate::base::{ByteRange, FileId, Layout};
use crate::metrics::Foresight;

/// Ways followed at once. Loaders read with up to 16 threads; what is more is the noise of random reads.
const MAX_TRAILS: usize = 48;
/// How far from its expected place in the plan a reader may touch it: threads overtake each other by this much.
const SLACK: usize = 8;
/// The place of a block that the plan does not have.
const NOWHERE: usize = usize::MAX;

/// One fresh access: of blocks that were not touched before.
#[derive(Debug, Clone)]
struct Touch {
    file: FileId,
    /// What the reader asked for.
    range: ByteRange,
    /// The blocks of it from the first to the last fresh one.
    blocks: Range<u32>,
    /// The first and the last place of these in the plan.
    places: Option<(usize, usize)>,
}

/// Follows all readers of a load.
#[derive(Debug)]
pub struct Follower {
    layouts: Vec<Layout>,
    /// The plan block by block, and the place of each block in it.
    order: Vec<Block>,
    places: Vec<Vec<usize>>,
    touched: Vec<Vec<bool>>,
    /// Where the last unexpected touch of each file began.
    last_start: Vec<Option<u64>>,
    /// The one used last stands last.
    trails: Vec<Trail>,
    foresight: Foresight,
}

impl Follower {
    /// A follower of readers of the files with these layouts, who are expected to go by `plan`.
    #[must_use]
    pub fn new(layouts: Vec<Layout>, plan: &Plan) -> Self {
        let per_block = |layout: &Layout| layout.block_count() as usize;
        let mut places: Vec<_> = layouts.iter().map(|layout| vec![NOWHERE; per_block(layout)]).collect();
        let mut order = Vec::new();
        for &(file, range) in plan {
            let Some((layout, places)) = layouts.get(file.index()).zip(places.get_mut(file.index())) else {
                continue;
            };
            for block in layout.blocks_of(range) {
                if let Some(place @ &mut NOWHERE) = places.get_mut(block as usize) {
                    *place = order.len();
                    order.push((file, block));
                }
            }
        }
        Self {
            touched: layouts.iter().map(|layout| vec![false; per_block(layout)]).collect(),
            last_start: vec![None; layouts.len()],
            trails: Vec::new(),
            foresight: Foresight::default(),
            layouts,
            order,
            places,
        }
    }

    /// Counts whether readers found their bytes there, when they first came to a block.
    #[must_use]
    pub fn foresight(&self) -> Foresight {
        self.foresight.clone()
    }

    /// A reader accesses `range`. Gives what to fetch ahead of all readers, in place of what was given before;
    /// `None` where that still holds. `is_ready` says which bytes need not be fetched any more.
    pub fn access(
        &mut self,
        file: FileId,
        range: ByteRange,
        is_ready: impl Fn(FileId, ByteRange) -> bool,
    ) -> Option<Plan> {
        let touch = self.touch(file, range)?;
        let is_there = is_ready(file, range);
        let Foresight { hits, misses } = &self.foresight;
        let counter = if is_there { hits } else { misses };
        counter.inc();
        let followed = self.take_expecting(&touch);
        self.begin(&touch, followed.as_ref());
        let mut trail = followed?;
        trail.advance(&touch);
        let ahead = trail.ahead(&self.layouts, &self.order);
        let is_due = trail.adapt(!is_there, range.len(), &ahead, &is_ready);
        self.trails.push(trail);
        is_due.then(|| self.windows(is_ready))
    }

    /// Marks the blocks; `None` if all of them were touched before.
    fn touch(&mut self, file: FileId, range: ByteRange) -> Option<Touch> {
        let layout = self.layouts.get(file.index())?;
        let range = range.clip(layout.size());
        let blocks = layout.blocks_of(range);
        let touched = self.touched.get_mut(file.index())?;
        let fresh = |block: &u32| touched.get(*block as usize) == Some(&false);
        let (first, last) = (blocks.clone().find(fresh)?, blocks.rev().find(fresh)?);
        let blocks = first..last + 1;
        let bounds = first as usize..=last as usize;
        touched.get_mut(bounds.clone())?.fill(true);
        let places = self.places.get(file.index())?.get(bounds)?.iter().filter(|place| **place != NOWHERE);
        let places = places.clone().min().copied().zip(places.max().copied());
        Some(Touch { file, range, blocks, places })
    }

    /// Takes the trail out that expected this. The plan knows better than a pattern, and two patterns that expect
    /// the same are one reader.
    fn take_expecting(&mut self, touch: &Touch) -> Option<Trail> {
        let expects = |trail: &Trail| trail.expects(touch);
        let found = self.trails.iter().rposition(|trail| trail.is_along_plan() && expects(trail));
        let found = found.or_else(|| self.trails.iter().rposition(expects))?;
        let trail = self.trails.remove(found);
        self.trails.retain(|other| other.is_along_plan() || !expects(other));
        Some(trail)
    }

    /// Begins what this touch may be the start of: each way if no trail expected it, and along the plan also if
    /// only a pattern did. Leaves room for the one that did.
    fn begin(&mut self, touch: &Touch, followed: Option<&Trail>) {
        if followed.is_none() {
            let last = self.last_start.get_mut(touch.file.index());
            let before = last.and_then(|last| last.replace(touch.range.start()));
            let patterns = Course::strided(touch, before).into_iter().chain([Course::sequential(touch)]);
            self.trails.extend(patterns.map(Trail::new));
        }
        if !followed.is_some_and(Trail::is_along_plan) {
            self.trails.extend(Course::along_plan(touch).map(Trail::new));
        }
        while self.trails.len() >= MAX_TRAILS {
            let guess = self.trails.iter().position(|trail| !trail.is_confirmed());
            self.trails.remove(guess.unwrap_or(0));
        }
    }

    /// The windows of all confirmed trails, a piece of each in turn, the one used last first.
    fn windows(&self, is_ready: impl Fn(FileId, ByteRange) -> bool) -> Plan {
        let confirmed = self.trails.iter().rev().filter(|trail| trail.is_confirmed());
        let mut windows: Vec<_> =
            confirmed.map(|trail| trail.ahead(&self.layouts, &self.order).into_iter()).collect();
        let mut plan = Plan::new();
        while !windows.is_empty() {
            windows.retain_mut(|window| {
                let piece = window.find(|(file, range)| !is_ready(*file, *range));
                plan.extend(piece);
                piece.is_some()
            });
        }
        plan
    }
}

#[cfg(test)]
mod tests;
