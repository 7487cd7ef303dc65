//! How long a request may stand still before its rest is asked for anew on another connection: the slow tail of
//! replies, a path that has died. What has arrived is kept, so the price is one more request; and the connection
//! that stood still is closed, so no byte is written twice. Driven by `transfer`; which way the new connection takes
//! is `nics`'.
//!
//! Two bounds. The eager one is a few times what replies took lately, so that one of a hundred that takes a hundred
//! times as long costs little; since it may be wrong, only a small share of requests may be given up by it. The firm
//! one needs no such budget. Both hold only while other connections move: when all stand still, then so does the
//! server or this machine, and more requests would not help; then `oss`'s own bounds decide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::sync::Lock;

/// Least eager bound: below it, giving up would cost more than waiting.
const LEAST_EAGER: Duration = Duration::from_millis(100);
/// The firm bound by default: a dead path is noticed within twice this.
pub(super) const FIRM: Duration = Duration::from_millis(750);
/// How often the firm bound doubles, after giving up again and again: to 12 s.
const MOST_DOUBLED: u32 = 4;
/// So many bounds in a row are waited for though no other connection moves.
const ALONE: u32 = 4;
/// Eager bound, in typical waits.
const TIMES_TYPICAL: u32 = 8;
/// Waits known before the eager bound means anything.
const LEARN: u32 = 16;
/// One request in so many may be given up eagerly.
const ONE_IN: u32 = 20;
/// Eager tries that may come at once.
const BURST: u32 = 4;

/// What all connections know together.
#[derive(Debug)]
pub(super) struct Patience {
    firm: Duration,
    state: Lock<State>,
    /// Pieces received by all connections: whether others move.
    pieces: AtomicU64,
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
        Self { firm, state: Lock::new(state), pieces: AtomicU64::new(0) }
    }

    /// For the next wait of a request that was given up `given_up` times already. `fresh`: its connection has to be
    /// made first, which takes its own time.
    pub(super) fn bound(&self, given_up: u32, fresh: bool) -> Bound {
        let firm = self.firm.saturating_mul(1 << given_up.min(MOST_DOUBLED));
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

    /// Looks after one wait.
    pub(super) fn watch(&self, bound: Bound) -> Watch<'_> {
        Watch { patience: self, bound, pieces: self.pieces.load(Ordering::Relaxed), alone: 0 }
    }

    /// A piece arrived on some connection.
    pub(super) fn moved(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
    }
}

/// One wait being looked after.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    patience: &'a Patience,
    bound: Bound,
    /// As they were when the bound began.
    pieces: u64,
    /// Bounds in a row that passed without anybody moving.
    alone: u32,
}

impl Watch<'_> {
    /// A bound has passed, in which this request `moved` or not. Whether it stands still and is to be given up.
    pub(super) fn is_still(&mut self, moved: bool) -> bool {
        let pieces = self.patience.pieces.load(Ordering::Relaxed);
        let others_move = std::mem::replace(&mut self.pieces, pieces) != pieces;
        self.alone = if moved { 0 } else { self.alone + 1 };
        let still = !moved && (others_move || self.alone == ALONE);
        if still && self.bound.eager {
            self.patience.state.with(|state| state.credit = state.credit.saturating_sub(ONE_IN));
        }
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let mut watch = patience.watch(bound);
            patience.moved();
            assert!(watch.is_still(false));
            tries += 1;
        }
        assert_eq!(tries, BURST);
        let waits: Vec<_> = (0..7).map(|given_up| patience.bound(given_up, false).wait).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 16, 16].map(|times| FIRM * times));
    }

    #[test]
    fn who_moves_or_is_not_alone_in_standing_still_is_waited_for() {
        let patience = Patience::new(FIRM);
        let mut watch = patience.watch(patience.bound(0, true));
        assert_eq!(
            [false; 4].map(|moved| watch.is_still(moved)),
            [false, false, false, true],
            "nobody moves"
        );
        let mut watch = patience.watch(patience.bound(0, true));
        let moves = [true, true, true, true, true, false].map(|moved| {
            patience.moved();
            watch.is_still(moved)
        });
        assert_eq!(moves, [false, false, false, false, false, true], "others move");
    }
}
