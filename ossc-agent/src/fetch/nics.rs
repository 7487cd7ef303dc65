//! Which NIC each connection goes through. Connections are dealt out evenly over the NICs that work; since each takes
//! its next extent when it is done with the last one, a fast NIC moves more bytes than a slow one without anybody
//! counting; what a slow one still has under way when nothing is left to begin goes over to a fast one. A NIC whose
//! requests fail one after the other, with nothing coming through it meanwhile or at a crawl, is down if others are not:
//! its connections move to those at once, and after a while one of them tries it again. Driven by `worker`; binding
//! sockets is `oss`'s.
//!
//! With one NIC, or none named, there is nothing to choose and nothing here ever says to move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::sync::Lock;
use super::view::NicView;

/// Failures in a row, of any connections, after which a NIC is down: more than one unlucky connection has.
const STRIKES: u32 = 2;
/// First and longest time that a NIC which is down is left alone.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(8);

/// The NICs, by number.
pub(super) struct Nics {
    nics: Lock<Vec<Nic>>,
    came: Vec<Came>,
    /// When `Came` counts from.
    epoch: Instant,
}

#[derive(Debug, Clone)]
struct Nic {
    /// Connections that go through it.
    connections: u32,
    /// Failures in a row, and when the last one was.
    strikes: u32,
    struck: Instant,
    /// Not before this time; then one connection tries it.
    rests_until: Option<Instant>,
    rest: Duration,
}

/// What has come through a NIC.
#[derive(Debug, Default)]
struct Came {
    bytes: AtomicU64,
    /// Nanoseconds from the epoch to the last of it; 0 = nothing ever.
    last: AtomicU64,
}

/// What had come through each NIC at a time; empty if there is only one.
#[derive(Debug)]
pub(super) struct Since(Vec<u64>);

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It broke, or nothing came for too long.
    Broken,
    /// It is far slower than those through other NICs.
    Crawls,
}

impl Nic {
    fn is_up(&self) -> bool {
        self.rests_until.is_none()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until <= now)
    }
}

impl Nics {
    /// At least one: the kernel's choice where none is named.
    pub(super) fn new(count: usize, now: Instant) -> Self {
        let count = count.max(1);
        let nic = Nic { connections: 0, strikes: 0, struck: now, rests_until: None, rest: FIRST_REST };
        let came = (0..count).map(|_| Came::default()).collect();
        Self { nics: Lock::new(vec![nic; count]), came, epoch: now }
    }

    /// A reply's head or bytes of a body came.
    pub(super) fn came(&self, nic: usize, bytes: u64, now: Instant) {
        let Some(came) = self.came.get(nic).filter(|_| self.came.len() > 1) else { return };
        came.bytes.fetch_add(bytes, Ordering::Relaxed);
        came.last.store(self.nanos(now), Ordering::Relaxed);
    }

    /// Now, for `best_other`.
    pub(super) fn since(&self) -> Since {
        let several = self.came.iter().filter(|_| self.came.len() > 1);
        Since(several.map(|came| came.bytes.load(Ordering::Relaxed)).collect())
    }

    /// The other NIC whose connections have moved most since then, and how much each of them, on average.
    pub(super) fn best_other(&self, own: usize, since: &Since) -> Option<(usize, u64)> {
        let moved = |at: usize, nic: &Nic| {
            let before = since.0.get(at)?;
            let now = self.came.get(at)?.bytes.load(Ordering::Relaxed);
            Some(now.saturating_sub(*before) / u64::from(nic.connections.max(1)))
        };
        self.nics.with(|nics| {
            let others = nics.iter().enumerate().filter(|(at, nic)| *at != own && nic.is_up());
            others.filter_map(|(at, nic)| Some((at, moved(at, nic)?))).max_by_key(|(_, moved)| *moved)
        })
    }

    /// Whether nothing has come through a NIC since then, while something came through another.
    pub(super) fn is_silent(&self, own: usize, since: Instant) -> bool {
        let since = self.nanos(since);
        self.last(own) <= since && (0..self.came.len()).any(|at| at != own && self.last(at) > since)
    }

    fn last(&self, nic: usize) -> u64 {
        self.came.get(nic).map_or(0, |came| came.last.load(Ordering::Relaxed))
    }

    fn nanos(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// All of them, for whoever looks.
    pub(super) fn view(&self) -> Vec<NicView> {
        let view = |nic: &Nic| NicView { connections: nic.connections, is_up: nic.is_up() };
        self.nics.with(|nics| nics.iter().map(view).collect())
    }

    /// Which NIC a new connection goes through.
    pub(super) fn join(&self) -> usize {
        self.nics.with(|nics| {
            let at = quietest(nics);
            add(nics, at);
            at
        })
    }

    /// The connection's NIC moved a request to its end. True if it had been down.
    pub(super) fn worked(&self, nic: usize) -> bool {
        self.nics.with(|nics| {
            let Some(nic) = nics.get_mut(nic) else { return false };
            nic.strikes = 0;
            nic.rest = FIRST_REST;
            nic.rests_until.take().is_some()
        })
    }

    /// A request of the connection failed. True if the NIC is down by this.
    pub(super) fn failed(&self, own: usize, failure: Failure, now: Instant) -> bool {
        let last = self.last(own);
        self.nics.with(|nics| {
            // Those that fail as well, and have moved nothing since this one has, say nothing against it.
            let others_work = nics.iter().enumerate().any(|(at, nic)| {
                at != own && nic.is_up() && (failure == Failure::Crawls || self.last(at) > last)
            });
            let Some(nic) = nics.get_mut(own) else { return false };
            if failure == Failure::Broken && last > self.nanos(nic.struck) {
                nic.strikes = 0;
            }
            nic.strikes += 1;
            nic.struck = now;
            if !others_work || nic.strikes < STRIKES {
                return false;
            }
            // Requests that fail while it rests were begun before; the one that tried it extends the rest.
            let first = nic.is_up();
            if first || nic.is_due(now) {
                nic.rests_until = Some(now + nic.rest);
                nic.rest = (nic.rest * 2).min(LONGEST_REST);
            }
            first
        })
    }

    /// Where the connection goes on after a failure: through another NIC if one works.
    pub(super) fn after_failure(&self, own: usize) -> usize {
        self.nics.with(|nics| {
            let others = nics.iter().enumerate().filter(|(at, nic)| *at != own && nic.is_up());
            let better = others.min_by_key(|(_, nic)| nic.connections).map(|(at, _)| at);
            better.map_or(own, |to| change(nics, own, to))
        })
    }

    /// The connection goes on through the other NIC.
    pub(super) fn change(&self, own: usize, to: usize) {
        self.nics.with(|nics| change(nics, own, to));
    }

    /// Where the connection goes on between two requests: to a NIC that is to be tried again, from one that is down,
    /// or to one with fewer connections.
    pub(super) fn between(&self, own: usize, now: Instant) -> usize {
        self.nics.with(|nics| {
            if nics.len() == 1 {
                return own;
            }
            if let Some(due) = nics.iter().position(|nic| nic.is_due(now)) {
                // For the others it rests until this try has failed or worked.
                if let Some(nic) = nics.get_mut(due) {
                    nic.rests_until = Some(now + nic.rest);
                    nic.rest = (nic.rest * 2).min(LONGEST_REST);
                }
                return change(nics, own, due);
            }
            let quietest = quietest(nics);
            let connections = |at: usize| nics.get(at).map_or(0, |nic| nic.connections);
            let is_up = nics.get(own).is_some_and(Nic::is_up);
            if is_up && connections(own) <= connections(quietest) + 1 {
                return own;
            }
            change(nics, own, quietest)
        })
    }
}

/// The NIC with the fewest connections of those that are up, or of all.
fn quietest(nics: &[Nic]) -> usize {
    let least = |only_up: bool| {
        let fit = nics.iter().enumerate().filter(|(_, nic)| !only_up || nic.is_up());
        fit.min_by_key(|(_, nic)| nic.connections).map(|(at, _)| at)
    };
    least(true).or_else(|| least(false)).unwrap_or(0)
}

fn add(nics: &mut [Nic], at: usize) {
    if let Some(nic) = nics.get_mut(at) {
        nic.connections += 1;
    }
}

fn change(nics: &mut [Nic], from: usize, to: usize) -> usize {
    if let Some(nic) = nics.get_mut(from) {
        nic.connections = nic.connections.saturating_sub(1);
    }
    add(nics, to);
    to
}

#[cfg(test)]
mod tests {
    use super::Failure::{Broken, Crawls};
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn connections_are_dealt_out_evenly_and_stay() {
        let now = Instant::now();
        let nics = Nics::new(2, now);
        assert_eq!([0; 5].map(|_| nics.join()), [0, 1, 0, 1, 0]);
        assert_eq!([0, 1].map(|own| nics.between(own, now)), [0, 1]);
        let one = Nics::new(0, now);
        assert_eq!([one.join(), one.join(), one.between(0, now), one.after_failure(0)], [0; 4]);
        assert!([0; 3].iter().all(|_| !one.failed(0, Broken, now)));
        assert!(!one.is_silent(0, now) && one.best_other(0, &one.since()).is_none());
    }

    #[test]
    fn a_dead_nic_loses_its_connections_and_is_tried_again() {
        let begin = Instant::now();
        let (nics, start) = (Nics::new(2, begin), begin + STEP);
        for _ in 0..4 {
            nics.join();
        }
        nics.came(1, 1, start);
        assert!(!nics.failed(0, Broken, start));
        assert_eq!(nics.after_failure(0), 1, "the connection that failed moves, the other one not yet");
        assert!(nics.failed(0, Broken, start), "two in a row");
        assert_eq!(nics.after_failure(0), 1);
        assert_eq!(nics.between(1, start), 1);
        let due = start + FIRST_REST;
        assert_eq!(nics.between(1, due), 0, "one connection tries it");
        assert_eq!(nics.between(1, due), 1, "and only one");
        assert!(!nics.failed(0, Broken, due));
        assert_eq!(nics.after_failure(0), 1);
        let due = due + FIRST_REST * 2;
        assert_eq!(nics.between(1, due), 0);
        assert!(nics.worked(0), "it is back");
        assert_eq!(
            [nics.between(1, due), nics.between(1, due), nics.between(0, due)],
            [0, 1, 0],
            "and evened out"
        );
    }

    #[test]
    fn a_nic_through_which_something_comes_is_not_dead() {
        let begin = Instant::now();
        let nics = Nics::new(2, begin);
        // One in two requests fails, on each.
        for step in 1..50 {
            let now = begin + STEP * step;
            nics.came(0, 1, now);
            nics.came(1, 1, now + STEP / 2);
            assert!(!nics.failed(0, Broken, now + STEP / 2), "step {step}");
            assert!(!nics.failed(1, Broken, now + STEP / 2), "step {step}");
        }
        // Nothing comes through the first any more.
        let (before, now) = (begin + STEP * 49, begin + STEP * 60);
        nics.came(1, 1, now);
        assert!(nics.is_silent(0, before) && !nics.is_silent(1, before));
        assert!(nics.failed(0, Broken, now));
    }

    #[test]
    fn when_all_fail_none_is_dead() {
        let begin = Instant::now();
        let nics = Nics::new(2, begin);
        nics.join();
        for nic in [0, 1, 0, 1, 0, 1] {
            assert!(!nics.failed(nic, Broken, begin + STEP));
        }
        assert!(!nics.is_silent(0, begin) && !nics.is_silent(1, begin));
        assert_eq!(nics.after_failure(0), 1, "but another one may do better");
        assert!(nics.join() < 2);
    }

    #[test]
    fn a_nic_that_crawls_is_left_though_something_comes() {
        let begin = Instant::now();
        let nics = Nics::new(2, begin);
        for _ in 0..4 {
            nics.join();
        }
        let since = nics.since();
        nics.came(0, 10, begin + STEP);
        nics.came(1, 400, begin + STEP);
        assert_eq!(nics.best_other(0, &since), Some((1, 200)));
        assert_eq!(nics.best_other(1, &since), Some((0, 5)));
        assert_eq!(nics.best_other(0, &nics.since()), Some((1, 0)));
        assert!(!nics.failed(0, Crawls, begin + STEP));
        nics.came(0, 10, begin + STEP * 2);
        assert!(nics.failed(0, Crawls, begin + STEP * 2));
    }
}
