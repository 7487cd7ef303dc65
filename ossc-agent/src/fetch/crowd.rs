//! How many connections work at once. A load begins with few and doubles them as long as that makes it faster: a
//! path whose connections are slow needs many, one that is full gets nothing from more of them but longer waits.
//! Every few seconds a few more are tried. Replies that say "slow down", and waits for replies that grow while the
//! speed does not, make them fewer. Driven by `worker`; how large their requests are is `rate`'s.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::sync::Lock;

/// Fewest connections to begin with, and to go down to because of waits, if so many are allowed.
const FEW: u32 = 8;
/// How long speed is measured: several extents of each connection.
const PERIOD: Duration = Duration::from_millis(300);
/// After this time with no gain, or after a "slow down", a few more are tried.
const SETTLED: Duration = Duration::from_secs(5);
/// Percent of speed that more connections must bring to be worth keeping.
const GAIN: u64 = 10;
/// Waits for replies that are so many times the shortest ones are a queue.
const QUEUE: u32 = 4;
/// Waits below this are none.
const NO_WAIT: Duration = Duration::from_millis(20);

/// The number of connections at work.
#[derive(Debug)]
pub(super) struct Crowd {
    at_work: watch::Sender<u32>,
    few: u32,
    most: u32,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    /// When the running period began, and what came in it.
    began: Instant,
    bytes: u64,
    /// Bytes a second of the best period so far, and how many were at work in it.
    best: u64,
    best_at: u32,
    /// Not before this time are more tried.
    settled_until: Option<Instant>,
    /// Shortest typical wait of a period.
    least_wait: Option<Duration>,
    /// When "slow down" last made them fewer.
    told: Option<Instant>,
}

impl Crowd {
    /// `most` connections on so many threads.
    pub(super) fn new(most: u32, threads: u32, now: Instant) -> Self {
        let few = FEW.max(threads).min(most);
        let state = State {
            began: now,
            bytes: 0,
            best: 0,
            best_at: few,
            settled_until: None,
            least_wait: None,
            told: None,
        };
        Self { at_work: watch::channel(few).0, few, most, state: Lock::new(state) }
    }

    /// How many are to work now, and how many at most.
    pub(super) fn size(&self) -> (u32, u32) {
        (*self.at_work.borrow(), self.most)
    }

    /// Whether the connection of this number, from 0, is to work now.
    pub(super) fn admits(&self, number: u32) -> bool {
        number < *self.at_work.borrow()
    }

    /// Waits until the connection of this number, from 0, is to work.
    pub(super) async fn admitted(&self, number: u32) {
        let mut at_work = self.at_work.subscribe();
        if at_work.wait_for(|at_work| number < *at_work).await.is_err() {
            // Not while `self`, which has the sender, is there.
            std::future::pending().await
        }
    }

    /// An extent has arrived. `wait`: the typical wait for a reply now.
    pub(super) fn arrived(&self, bytes: u64, wait: Duration, now: Instant) {
        let at_work = *self.at_work.borrow();
        let next = self.state.with(|state| {
            state.bytes += bytes;
            let took = now.saturating_duration_since(state.began);
            (took >= PERIOD).then(|| {
                let speed = per_second(std::mem::take(&mut state.bytes), took);
                state.began = now;
                self.decide(state, at_work, speed, wait, now)
            })
        });
        self.set(next.unwrap_or(at_work));
    }

    /// The origin asks for fewer requests.
    pub(super) fn slow_down(&self, now: Instant) {
        let at_work = *self.at_work.borrow();
        let first = self.state.with(|state| {
            // Many connections are told at once; that is one reason to be fewer.
            let first = state.told.is_none_or(|told| told + PERIOD <= now);
            if first {
                (state.began, state.bytes) = (now, 0);
                state.best_at = at_work;
                state.settled_until = Some(now + SETTLED);
                state.told = Some(now);
            }
            first
        });
        if first {
            self.set((at_work * 3 / 4).max(1));
        }
    }

    /// How many are to work after a period of this speed.
    fn decide(&self, state: &mut State, at_work: u32, speed: u64, wait: Duration, now: Instant) -> u32 {
        let least = state.least_wait.map_or(wait, |least| least.min(wait));
        state.least_wait = Some(least);
        if speed > state.best + state.best / 100 * GAIN {
            let more = at_work > state.best_at || state.best == 0;
            (state.best, state.best_at) = (speed, at_work);
            // Faster with as many as before: the path has changed; see whether more are better now, but later.
            return if more && state.settled_until.is_none() {
                (at_work * 2).min(self.most)
            } else {
                at_work
            };
        }
        if at_work > state.best_at {
            // Tried, and not worth it.
            state.settled_until = Some(now + SETTLED);
            return state.best_at;
        }
        if wait > NO_WAIT && wait > least * QUEUE {
            state.best_at = at_work;
            return (at_work * 7 / 8).max(self.few.min(at_work));
        }
        if state.settled_until.is_none_or(|until| until <= now) {
            state.settled_until = Some(now + SETTLED);
            // What this many do now, not what they once did.
            (state.best, state.best_at) = (speed, at_work);
            return (at_work + at_work.div_ceil(4)).min(self.most);
        }
        at_work
    }

    fn set(&self, next: u32) {
        self.at_work.send_if_modified(|at_work| {
            let changed = *at_work != next;
            if changed {
                tracing::debug!(before = *at_work, now = next, "connections at work");
            }
            *at_work = next;
            changed
        });
    }
}

fn per_second(bytes: u64, took: Duration) -> u64 {
    let speed = u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1);
    u64::try_from(speed).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Periods of a path that gives `each` bytes a second to a connection, and at most `most`; ends with how many
    /// are at work after each.
    fn load(crowd: &Crowd, now: &mut Instant, each: u64, most: u64, periods: usize) -> Vec<u32> {
        (0..periods)
            .map(|_| {
                *now += PERIOD;
                let at_work = u64::from(*crowd.at_work.borrow());
                let speed = (each * at_work).min(most);
                crowd.arrived(speed * 3 / 10, Duration::from_millis(1), *now);
                *crowd.at_work.borrow()
            })
            .collect()
    }

    #[test]
    fn grows_while_it_gets_faster() {
        let mut now = Instant::now();
        let crowd = Crowd::new(96, 4, now);
        assert_eq!(load(&crowd, &mut now, 50_000_000, u64::MAX, 5), [16, 32, 64, 96, 96]);
        let crowd = Crowd::new(96, 4, now);
        assert_eq!(load(&crowd, &mut now, 50_000_000, 1_000_000_000, 5), [16, 32, 64, 32, 32]);
        let crowd = Crowd::new(4, 1, now);
        assert_eq!(load(&crowd, &mut now, 50_000_000, u64::MAX, 2), [4, 4]);
    }

    #[test]
    fn more_are_tried_again_later() {
        let mut now = Instant::now();
        let crowd = Crowd::new(96, 4, now);
        load(&crowd, &mut now, 50_000_000, 400_000_000, 3);
        assert_eq!(*crowd.at_work.borrow(), 8);
        now += SETTLED;
        assert_eq!(load(&crowd, &mut now, 50_000_000, u64::MAX, 1), [10]);
    }

    #[test]
    fn becomes_fewer_when_told_and_when_replies_queue() {
        let mut now = Instant::now();
        let crowd = Crowd::new(64, 16, now);
        crowd.slow_down(now);
        crowd.slow_down(now);
        assert_eq!(*crowd.at_work.borrow(), 12, "told at once by two");
        assert_eq!(load(&crowd, &mut now, 1_000_000, u64::MAX, 3), [12, 12, 12]);
        let crowd = Crowd::new(64, 8, now);
        load(&crowd, &mut now, 1_000_000, u64::MAX, 3);
        assert_eq!(*crowd.at_work.borrow(), 64);
        for _ in 0..2 {
            now += PERIOD;
            crowd.arrived(1, Duration::from_millis(500), now);
        }
        assert!(*crowd.at_work.borrow() < 64);
    }

    #[tokio::test]
    async fn who_is_not_to_work_waits() {
        let crowd = Crowd::new(64, 1, Instant::now());
        crowd.admitted(7).await;
        let mut eighth = std::pin::pin!(crowd.admitted(8));
        let pending =
            std::future::poll_fn(|cx| std::task::Poll::Ready(eighth.as_mut().poll(cx).is_pending()));
        assert!(pending.await);
        crowd.set(9);
        eighth.await;
    }
}
