//! Rate limits of body bytes: one shared by all connections, one for each connection, one for a single reply.
//!
//! A sender asks for leave before each small piece and is held until its turn. Turns are handed out first come, first
//! served, so connections share a limit evenly, and pieces are about 5 ms of the limit, so the flow is smooth. The
//! arithmetic is [`Pace`], which knows no clock; [`Limiter`] holds the state, the waiting, and the changes at run time:
//! a new limit takes effect at once, also for senders that already wait.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::sync::{lock, wait_until};

/// Largest piece sent under one leave: enough to keep a system call's cost small.
const MAX_PIECE: u64 = 1 << 20;

/// Pieces are this part of a second of the limit.
const PIECES_PER_SECOND: u64 = 200;

/// How far a reply under way may lag behind its limit and still catch up: covers late wake-ups on a busy machine, so
/// that the mean rate is exact. Time in which nothing was sent is never caught up.
const CATCH_UP: Duration = Duration::from_millis(100);

/// When the next piece under one limit may go.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    next: Option<Instant>,
}

impl Pace {
    /// Books `bytes` under `rate` bytes per second; gives the moment from which they may be sent.
    fn book(&mut self, rate: u64, bytes: u64, now: Instant) -> Instant {
        if rate == 0 {
            self.next = None;
            return now;
        }
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let start = self.next.map_or(now, |next| next.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        self.next = Some(start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4)));
        start
    }

    /// Forgets idle time: the next piece is not early.
    fn skip_idle(&mut self, now: Instant) {
        self.next = self.next.map(|next| next.max(now));
    }
}

/// Limits of one sender that are not shared: of its connection, and of the reply it sends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OwnPace {
    connection: Pace,
    reply: Pace,
    /// Bytes per second of the reply; 0 is no limit.
    reply_rate: u64,
}

#[derive(Debug, Default)]
struct State {
    shared_rate: u64,
    connection_rate: u64,
    shared: Pace,
    /// Replies under way.
    replies: u64,
    /// Counts changes, so that a waiting sender knows its booking is void.
    changes: u64,
    closed: bool,
}

/// The limits all connections ask.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    state: Mutex<State>,
    changed: Condvar,
}

impl Limiter {
    /// A limiter with the given limits in bytes per second; 0 is no limit.
    pub(crate) fn new(shared_rate: u64, connection_rate: u64) -> Self {
        Self {
            state: Mutex::new(State { shared_rate, connection_rate, ..State::default() }),
            changed: Condvar::new(),
        }
    }

    /// Changes the limit of all connections together.
    pub(crate) fn set_shared(&self, rate: u64) {
        self.change(|state| state.shared_rate = rate);
    }

    /// Changes the limit of each connection.
    pub(crate) fn set_connection(&self, rate: u64) {
        self.change(|state| state.connection_rate = rate);
    }

    /// Ends all waiting, for good.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Begins a reply with a limit of its own in bytes per second; 0 is none.
    pub(crate) fn begin(&self, own: &mut OwnPace, rate: u64) {
        let now = Instant::now();
        own.connection.skip_idle(now);
        own.reply = Pace::default();
        own.reply_rate = rate;
        let mut state = lock(&self.state);
        if state.replies == 0 {
            state.shared.skip_idle(now);
        }
        state.replies += 1;
    }

    /// Ends a reply.
    pub(crate) fn end(&self) {
        lock(&self.state).replies -= 1;
    }

    /// Waits for leave to send up to `wanted` bytes; gives how many may go now, at least 1 of a non-zero wish.
    pub(crate) fn take(&self, own: &mut OwnPace, wanted: u64) -> u64 {
        let mut state = lock(&self.state);
        loop {
            let rates = [state.shared_rate, state.connection_rate, own.reply_rate];
            let slowest = rates.into_iter().filter(|&rate| rate > 0).min();
            let piece =
                slowest.map_or(MAX_PIECE, |rate| (rate / PIECES_PER_SECOND).clamp(1, MAX_PIECE)).min(wanted);
            if state.closed || slowest.is_none() {
                return piece;
            }
            let now = Instant::now();
            let turn = [
                own.connection.book(rates[1], piece, now),
                own.reply.book(rates[2], piece, now),
                state.shared.book(rates[0], piece, now),
            ];
            let start = turn.into_iter().max().unwrap_or(now);
            let seen = state.changes;
            state = wait_until(&self.changed, state, start, |state| state.changes != seen);
            if state.changes == seen {
                return piece;
            }
            own.connection = Pace::default();
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        state.shared = Pace::default();
        state.changes += 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_keeps_its_mean_and_forgives_late_wakeups_only_briefly() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.book(1000, 100, start), start);
        assert_eq!(pace.book(1000, 100, start), start + Duration::from_millis(100));
        // Asked 5 ms late: the piece is due at its old time, so the next one is not late.
        assert_eq!(
            pace.book(1000, 100, start + Duration::from_millis(205)),
            start + Duration::from_millis(200)
        );
        // Asked a second late: only the catch-up is forgiven.
        let late = start + Duration::from_millis(1300);
        assert_eq!(pace.book(1000, 100, late), late - CATCH_UP);
        assert_eq!(pace.book(0, 1 << 40, late), late);
    }

    #[test]
    fn leave_is_given_in_small_pieces_and_a_change_ends_the_wait() {
        let limiter = Limiter::new(0, 0);
        let mut own = OwnPace::default();
        assert_eq!(limiter.take(&mut own, u64::MAX), MAX_PIECE);
        limiter.set_shared(200 * 4096);
        assert_eq!(limiter.take(&mut own, u64::MAX), 4096);
        limiter.begin(&mut own, 200);
        assert_eq!(limiter.take(&mut own, u64::MAX), 1);

        // The next byte is due in a day: it is granted only because the limiter closes.
        let limiter = Limiter::new(0, 0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut own = OwnPace { reply_rate: 1, ..OwnPace::default() };
                own.reply.next = Some(Instant::now() + Duration::from_secs(86_400));
                limiter.take(&mut own, 2)
            });
            limiter.close();
            assert_eq!(waiting.join().unwrap(), 1);
        });
    }
}
