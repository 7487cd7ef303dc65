//! Which NIC each connection goes through. Connections are dealt out evenly over the NICs that work; since each takes
//! its next extent when it is done with the last one, a fast NIC moves more bytes than a slow one without anybody
//! counting. A NIC whose requests fail or stand still one after the other is down: its connections move to the
//! others at once, and after a while one of them tries it again. Driven by `worker`; binding sockets is `oss`'s.
//!
//! With one NIC, or none named, there is nothing to choose and nothing here ever says to move.

use std::time::{Duration, Instant};

use super::sync::Lock;
use super::view::NicView;

/// Failures in a row, of any connections, after which a NIC is down: more than one unlucky connection has.
const STRIKES: u32 = 2;
/// First and longest time that a NIC which is down is left alone.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(8);

/// The NICs, by number.
pub(super) struct Nics(Lock<Vec<Nic>>);

#[derive(Debug, Clone)]
struct Nic {
    /// Connections that go through it.
    connections: u32,
    /// Failures since anything arrived through it.
    strikes: u32,
    /// Not before this time; then one connection tries it.
    rests_until: Option<Instant>,
    rest: Duration,
    /// Moving average over its connections.
    reach: u64,
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
    pub(super) fn new(count: usize) -> Self {
        let nic = Nic { connections: 0, strikes: 0, rests_until: None, rest: FIRST_REST, reach: 0 };
        Self(Lock::new(vec![nic; count.max(1)]))
    }

    /// What a connection through the best NIC moves in the time of an extent; 0 with only one.
    pub(super) fn best_reach(&self) -> u64 {
        self.0.with(|nics| {
            let up = nics.iter().filter(|nic| nic.is_up() && nics.len() > 1);
            up.map(|nic| nic.reach).max().unwrap_or(0)
        })
    }

    /// All of them, for whoever looks.
    pub(super) fn view(&self) -> Vec<NicView> {
        let view = |nic: &Nic| NicView { connections: nic.connections, is_up: nic.is_up() };
        self.0.with(|nics| nics.iter().map(view).collect())
    }

    /// Which NIC a new connection goes through.
    pub(super) fn join(&self) -> usize {
        self.0.with(|nics| {
            let at = quietest(nics);
            add(nics, at);
            at
        })
    }

    /// The connection's NIC moved a request to its end, and `reach` bytes in the time of an extent. True if it had
    /// been down.
    pub(super) fn worked(&self, nic: usize, reach: u64) -> bool {
        self.0.with(|nics| {
            let Some(nic) = nics.get_mut(nic) else { return false };
            nic.reach = nic.reach * 7 / 8 + reach / 8;
            nic.strikes = 0;
            nic.rest = FIRST_REST;
            nic.rests_until.take().is_some()
        })
    }

    /// A request of the connection failed or stood still. True if the NIC is down by this.
    pub(super) fn failed(&self, nic: usize, now: Instant) -> bool {
        self.0.with(|nics| {
            let only = nics.len() == 1;
            let Some(nic) = nics.get_mut(nic) else { return false };
            nic.strikes += 1;
            if only || nic.strikes < STRIKES {
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
        self.0.with(|nics| {
            let others = nics.iter().enumerate().filter(|(at, nic)| *at != own && nic.is_up());
            let better = others.min_by_key(|(_, nic)| nic.connections).map(|(at, _)| at);
            better.map_or(own, |to| change(nics, own, to))
        })
    }

    /// Where the connection goes on between two requests: to a NIC that is to be tried again, from one that is down,
    /// or to one with fewer connections.
    pub(super) fn between(&self, own: usize, now: Instant) -> usize {
        self.0.with(|nics| {
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
    use super::*;

    #[test]
    fn connections_are_dealt_out_evenly_and_stay() {
        let (nics, now) = (Nics::new(2), Instant::now());
        assert_eq!([0; 5].map(|_| nics.join()), [0, 1, 0, 1, 0]);
        assert_eq!([0, 1].map(|own| nics.between(own, now)), [0, 1]);
        let one = Nics::new(0);
        assert_eq!([one.join(), one.join(), one.between(0, now), one.after_failure(0)], [0; 4]);
        assert!(!one.failed(0, now) && !one.failed(0, now) && !one.failed(0, now));
    }

    #[test]
    fn a_dead_nic_loses_its_connections_and_is_tried_again() {
        let (nics, start) = (Nics::new(2), Instant::now());
        for _ in 0..4 {
            nics.join();
        }
        assert!(!nics.failed(0, start));
        assert_eq!(nics.after_failure(0), 1, "the connection that failed moves, the other one not yet");
        assert!(nics.failed(0, start), "two in a row");
        assert_eq!(nics.after_failure(0), 1);
        assert_eq!(nics.between(1, start), 1);
        let due = start + FIRST_REST;
        assert_eq!(nics.between(1, due), 0, "one connection tries it");
        assert_eq!(nics.between(1, due), 1, "and only one");
        assert!(!nics.failed(0, due));
        assert_eq!(nics.after_failure(0), 1);
        let due = due + FIRST_REST * 2;
        assert_eq!(nics.between(1, due), 0);
        assert!(nics.worked(0, 800), "it is back");
        assert_eq!(nics.best_reach(), 100);
        assert_eq!(
            [nics.between(1, due), nics.between(1, due), nics.between(0, due)],
            [0, 1, 0],
            "and evened out"
        );
    }

    #[test]
    fn when_all_are_down_they_are_still_used() {
        let (nics, now) = (Nics::new(2), Instant::now());
        nics.join();
        for nic in [0, 0, 1, 1] {
            nics.failed(nic, now);
        }
        assert_eq!(nics.after_failure(0), 0);
        assert!(nics.join() < 2);
    }
}
