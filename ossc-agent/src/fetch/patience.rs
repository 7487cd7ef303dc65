//! How long a request may stand still before its rest is asked for anew on another connection: the slow tail of
//! replies, a path that has died. What has arrived is kept, so the price is one more request; and the connection
//! that stood still is closed, so no byte is written twice. Driven by `transfer`; which way the new connection takes
//! is `nics`'.
//!
//! Two bounds. The eager one is a few times what replies took lately, so that one of a hundred that takes a hundred
//! times as long costs little; since it may be wrong, only a small share of requests may be given up by it. The firm
//! one needs no such budget; it is wider where all is slow, because on a narrow path that many connections share each
//! piece takes long, and one of which TCP has lost a packet longer still. Neither says that a request stands still unless others overtake it: since it began to
//! wait, more waits of its kind have ended than were under way then, so one that began later was served before it.
//! Where a limit that all share makes all of them slow, or an origin serves one after the other, nobody is overtaken;
//! and when all stand still, then so does the server or this machine, and more requests would not help: then `oss`'s
//! own bounds decide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::sync::Lock;

/// Least eager bound: below it, giving up would cost more than waiting.
const LEAST_EAGER: Duration = Duration::from_millis(100);
/// The firm bound by default: a dead path is noticed within twice this.
pub(super) const FIRM: Duration = Duration::from_millis(750);
/// How often the firm bound doubles, after giving up again and again: to 12 s.
const MOST_DOUBLED: u32 = 4;
/// So many bounds in a row are waited for when no other connection moves.
const ALONE: u32 = 4;
/// Eager bound, in typical waits.
const TIMES_TYPICAL: u32 = 8;
/// Waits known before the eager bound means anything.
const LEARN: u32 = 16;
/// The firm bound is no less than this many typical waits for a reply, or one for a piece, ...
const FIRM_REPLIES: u32 = 4;
/// ... up to so many times what it is otherwise.
const MOST_WIDENED: u32 = 4;
/// One request in so many may be given up eagerly.
const ONE_IN: u32 = 20;
/// Eager tries that may come at once.
const BURST: u32 = 4;

/// What all connections know together.
#[derive(Debug)]
pub(super) struct Patience {
    firm: Duration,
    state: Lock<State>,
    replies: Waits,
    pieces: Waits,
    /// How often a wait that was looked at had moved, and not ended.
    moves: AtomicU64,
}

/// What a request waits for. Those of one kind are compared: pieces may come while replies have to wait in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reply,
    Piece,
}

/// The waits of one kind, of all connections.
#[derive(Debug, Default)]
struct Waits {
    under_way: AtomicU64,
    /// Those that got what they waited for.
    ended: AtomicU64,
    /// How long they took, a moving average in nanoseconds. Two that end together may count as one.
    took: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Moving average of waits, and of their distance from it.
    typical: Duration,
    spread: Duration,
    known: u32,
    /// Credit for eager tries, in parts of `ONE_IN`.
    credit: u32,
}

/// How long one wait may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) wait: Duration,
    eager: bool,
}

impl Patience {
    pub(super) fn new(firm: Duration) -> Self {
        let state =
            State { typical: Duration::ZERO, spread: Duration::ZERO, known: 0, credit: BURST * ONE_IN };
        Self {
            firm,
            state: Lock::new(state),
            replies: Waits::default(),
            pieces: Waits::default(),
            moves: AtomicU64::new(0),
        }
    }

    /// For the next wait of a request that was given up `given_up` times already. `fresh`: its connection has to be
    /// made first, which takes its own time.
    pub(super) fn bound(&self, given_up: u32, fresh: bool) -> Bound {
        let slow = self.replies.took().saturating_mul(FIRM_REPLIES).max(self.pieces.took());
        let firm = self.firm.max(slow.min(self.firm * MOST_WIDENED));
        let firm = firm.saturating_mul(1 << given_up.min(MOST_DOUBLED));
        let eager = self.state.with(|state| {
            let enough = given_up == 0 && !fresh && state.known >= LEARN && state.credit >= ONE_IN;
            enough.then(|| (state.typical * TIMES_TYPICAL + state.spread * TIMES_TYPICAL).max(LEAST_EAGER))
        });
        match eager.filter(|eager| *eager < firm) {
            Some(wait) => Bound { wait, eager: true },
            None => Bound { wait: firm, eager: false },
        }
    }

    /// The typical wait for a reply.
    pub(super) fn typical(&self) -> Duration {
        self.state.with(|state| state.typical)
    }

    /// A request was answered after `waited`, made on a connection at hand.
    pub(super) fn answered(&self, waited: Duration) {
        self.state.with(|state| {
            state.known = state.known.saturating_add(1);
            state.credit = (state.credit + 1).min(BURST * ONE_IN);
            if state.known == 1 {
                (state.typical, state.spread) = (waited, waited / 2);
                return;
            }
            // As TCP estimates round trips (RFC 6298 section 2.3).
            state.spread = state.spread * 3 / 4 + state.typical.abs_diff(waited) / 4;
            state.typical = state.typical * 7 / 8 + waited / 8;
        });
    }

    /// Looks after a wait that begins.
    pub(super) fn watch(&self, kind: Kind, bound: Bound) -> Watch<'_> {
        let before = self.waits(kind).under_way.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        Watch {
            patience: self,
            kind,
            bound,
            began,
            before,
            ended: self.ended(kind),
            all: self.all(),
            alone: 0,
        }
    }

    fn waits(&self, kind: Kind) -> &Waits {
        match kind {
            Kind::Reply => &self.replies,
            Kind::Piece => &self.pieces,
        }
    }

    fn ended(&self, kind: Kind) -> u64 {
        self.waits(kind).ended.load(Ordering::Relaxed)
    }

    fn all(&self) -> u64 {
        self.ended(Kind::Reply) + self.ended(Kind::Piece) + self.moves.load(Ordering::Relaxed)
    }
}

/// One wait being looked after.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    patience: &'a Patience,
    kind: Kind,
    bound: Bound,
    began: Instant,
    /// Of its kind, when it began: under way besides it, and ended.
    before: u64,
    ended: u64,
    /// Ended of all kinds, and moves, when the bound began.
    all: u64,
    /// Bounds in a row that passed without anybody moving.
    alone: u32,
}

impl Watch<'_> {
    /// A bound has passed, in which this request `moved` or not; nothing comes through its NIC at all if that
    /// `is_silent`. Whether it stands still and is to be given up.
    pub(super) fn is_still(&mut self, moved: bool, is_silent: bool) -> bool {
        let all = self.patience.all();
        let others_move = std::mem::replace(&mut self.all, all) != all;
        if moved {
            self.patience.moves.fetch_add(1, Ordering::Relaxed);
            // Its own is not another one's.
            self.all += 1;
        }
        self.alone = if moved || others_move { 0 } else { self.alone + 1 };
        let ended = self.patience.ended(self.kind);
        if moved {
            let under_way = self.patience.waits(self.kind).under_way.load(Ordering::Relaxed);
            (self.before, self.ended) = (under_way.saturating_sub(1), ended);
            return false;
        }
        let is_overtaken = ended.saturating_sub(self.ended) > self.before;
        let still = is_overtaken || is_silent || self.alone == ALONE;
        if still && self.bound.eager {
            self.patience.state.with(|state| state.credit = state.credit.saturating_sub(ONE_IN));
        }
        still
    }

    /// It got what it waited for.
    pub(super) fn end(self) {
        self.patience.waits(self.kind).end(self.began.elapsed());
    }
}

impl Waits {
    fn end(&self, took: Duration) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        let (took, typical) =
            (u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), self.took.load(Ordering::Relaxed));
        self.took.store(typical - typical / 8 + took / 8, Ordering::Relaxed);
    }

    fn took(&self) -> Duration {
        Duration::from_nanos(self.took.load(Ordering::Relaxed))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.patience.waits(self.kind).under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait of a reply that gets it at once.
    fn another_moves(patience: &Patience) {
        patience.watch(Kind::Reply, patience.bound(0, true)).end();
    }

    #[test]
    fn the_eager_bound_follows_what_is_typical() {
        let patience = Patience::new(FIRM);
        assert_eq!(patience.bound(0, false), Bound { wait: FIRM, eager: false }, "nothing known");
        for _ in 0..LEARN {
            patience.answered(Duration::from_millis(1));
        }
        assert_eq!(patience.bound(0, false), Bound { wait: LEAST_EAGER, eager: true });
        assert!(!patience.bound(0, true).eager && !patience.bound(1, false).eager);
        for _ in 0..100 {
            patience.answered(Duration::from_millis(40));
        }
        let bound = patience.bound(0, false);
        assert!(bound.eager && bound.wait > Duration::from_millis(300), "{bound:?}");
        for _ in 0..100 {
            patience.answered(Duration::from_secs(1));
        }
        assert!(!patience.bound(0, false).eager, "a slow path is no reason to give up");
    }

    #[test]
    fn eager_tries_are_few_and_firm_ones_ever_later() {
        let patience = Patience::new(FIRM);
        for _ in 0..LEARN {
            patience.answered(Duration::ZERO);
        }
        let mut tries = 0;
        while let bound @ Bound { eager: true, .. } = patience.bound(0, false) {
            let mut watch = patience.watch(Kind::Reply, bound);
            another_moves(&patience);
            assert!(watch.is_still(false, false));
            tries += 1;
        }
        assert_eq!(tries, BURST);
        let waits: Vec<_> = (0..7).map(|given_up| patience.bound(given_up, false).wait).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 16, 16].map(|times| FIRM * times));
    }

    #[test]
    fn the_firm_bound_is_wider_where_all_is_slow() {
        let patience = Patience::new(FIRM);
        let firm = |given_up| patience.bound(given_up, true).wait;
        for _ in 0..100 {
            patience.pieces.end(Duration::from_millis(2700));
        }
        assert!(firm(0) > FIRM * 3 && firm(0) < FIRM * MOST_WIDENED, "{:?}", firm(0));
        assert_eq!(firm(1), firm(0) * 2);
        for _ in 0..100 {
            patience.replies.end(Duration::from_secs(1));
        }
        assert_eq!(firm(0), FIRM * MOST_WIDENED);
        for _ in 0..100 {
            patience.replies.end(FIRM / 5);
            patience.pieces.end(Duration::ZERO);
        }
        assert_eq!(firm(0), FIRM);
    }

    #[test]
    fn who_moves_or_is_not_alone_in_standing_still_is_waited_for() {
        let patience = Patience::new(FIRM);
        let watch = || patience.watch(Kind::Reply, patience.bound(0, true));
        let mut alone = watch();
        let still = [false; 4].map(|moved| alone.is_still(moved, false));
        assert_eq!(still, [false, false, false, true], "nobody moves");
        drop(alone);
        let mut moving = watch();
        let moves = [true, true, true, true, true, false].map(|moved| {
            another_moves(&patience);
            moving.is_still(moved, false)
        });
        assert_eq!(moves, [false, false, false, false, false, true], "others overtake it");
        assert!(watch().is_still(false, true), "its NIC is silent");
    }

    #[test]
    fn bytes_of_a_piece_that_is_not_whole_are_a_move_to_others() {
        let patience = Patience::new(FIRM);
        let watch = |kind| patience.watch(kind, patience.bound(0, true));
        let (mut slow, mut waiting) = (watch(Kind::Piece), watch(Kind::Reply));
        for _ in 0..3 * ALONE {
            assert!(!slow.is_still(true, false));
            assert!(!waiting.is_still(false, false), "something comes");
        }
        let still = [false; 4].map(|moved| waiting.is_still(moved, false));
        assert_eq!(still, [false, false, false, true], "nothing comes any more");
    }

    #[test]
    fn who_waits_in_line_is_waited_for_and_who_is_overtaken_is_not() {
        let patience = Patience::new(FIRM);
        let watch = |kind| patience.watch(kind, patience.bound(0, true));
        // A limit that all share: sixteen are served in turn, one in each bound, and wait again behind the others.
        let mut line: std::collections::VecDeque<_> = (0..16).map(|_| watch(Kind::Reply)).collect();
        for bound in 0..100 {
            line.pop_front().unwrap().end();
            // Pieces come all the time, and so do none that are late.
            watch(Kind::Piece).end();
            line.push_back(watch(Kind::Reply));
            for (place, waiting) in line.iter_mut().enumerate() {
                assert!(!waiting.is_still(false, false), "bound {bound}, place {place}");
            }
        }
        // The first of them is left out from now on.
        let mut left_out = line.pop_front().unwrap();
        let mut bounds = 0;
        while !left_out.is_still(false, false) {
            line.pop_front().unwrap().end();
            line.push_back(watch(Kind::Reply));
            bounds += 1;
        }
        // All 15 others had begun before it; the next to end began later.
        assert_eq!(bounds, 1);
    }
}
