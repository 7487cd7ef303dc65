//! Limits of bytes a second: one of all connections together, for machines that share their link, and one of what a
//! whole cluster reads from OSS, of which each node keeps to its part. Each piece
//! books its time in the order of asking, and each connection one piece at a time, so a demand waits behind at most
//! one piece of every other connection. The kernel's receive buffers are filled before that, once.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::sync::Lock;
use crate::peer::Peers;

/// Time that was not used can be used for so long: covers late wake-ups, so that the mean is exact.
const CATCH_UP: Duration = Duration::from_millis(50);
/// Far beyond any load; only to stay within what an Instant can say.
const LONGEST: Duration = Duration::from_nanos(u64::MAX >> 8);

/// The limit, if there is one.
#[derive(Debug)]
pub(super) struct Limit {
    bytes_per_second: Option<NonZeroU64>,
    /// When the next piece may come.
    next: Lock<Instant>,
}

impl Limit {
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>, now: Instant) -> Self {
        Self { bytes_per_second, next: Lock::new(now) }
    }

    /// Waits until `bytes` may be received.
    pub(super) async fn take(&self, bytes: u64) {
        self.take_part(bytes, || 1.0).await;
    }

    /// The same for whom this part of the limit is, above 0 and at most 1.
    async fn take_part(&self, bytes: u64, part: impl FnOnce() -> f64) {
        if self.bytes_per_second.is_none() {
            return;
        }
        let now = Instant::now();
        let start = self.book(bytes, part(), now);
        if start > now {
            sleep_until(start.into()).await;
        }
    }

    fn book(&self, bytes: u64, part: f64, now: Instant) -> Instant {
        let Some(rate) = self.bytes_per_second else { return now };
        self.next.with(|next| {
            let start = (*next).max(now.checked_sub(CATCH_UP).unwrap_or(now));
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
            let whole = u64::try_from(nanos).map_or(LONGEST, Duration::from_nanos);
            let took = Duration::try_from_secs_f64(whole.as_secs_f64() / part).unwrap_or(LONGEST);
            *next = start + took.min(LONGEST);
            start
        })
    }
}

/// What all nodes together may read from OSS: each takes the part that the exchange with peers says, by who is there at
/// that moment; a node without peers all of it.
#[derive(Debug)]
pub(super) struct OriginLimit {
    limit: Limit,
    peers: Option<Peers>,
}

impl OriginLimit {
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>, peers: Option<Peers>, now: Instant) -> Self {
        Self { limit: Limit::new(bytes_per_second, now), peers }
    }

    /// Waits until `bytes` may be received from OSS.
    pub(super) async fn take(&self, bytes: u64) {
        self.limit.take_part(bytes, || self.peers.as_ref().map_or(1.0, Peers::origin_part)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockSize, Layout};
    use crate::peer::swarm::{News, Settings, Swarm};
    use crate::peer::{Name, ObjectId};

    #[test]
    fn pieces_keep_the_mean_and_idle_time_is_lost() {
        let now = Instant::now();
        let limit = Limit::new(NonZeroU64::new(1000), now);
        let after = |millis| now + Duration::from_millis(millis);
        assert_eq!([100, 100, 100].map(|bytes| limit.book(bytes, 1.0, now)), [now, after(100), after(200)]);
        assert_eq!(limit.book(100, 1.0, after(310)), after(300), "a late wake-up is made good");
        assert_eq!(limit.book(100, 0.25, after(5000)), after(4950), "idle time is not");
        assert_eq!(limit.book(100, 1.0, after(5000)), after(5350), "a quarter takes four times as long");
        assert_eq!(Limit::new(None, now).book(u64::MAX, 1.0, now), now);
        assert_eq!(limit.book(u64::MAX, f64::MIN_POSITIVE, after(6000)), after(5950));
    }

    /// A node that reads as fast as it may.
    struct Node {
        name: Name,
        swarm: Swarm,
        limit: Limit,
        weight: f64,
        /// When its next piece comes; None while it is not there.
        next: Option<Instant>,
    }

    #[test]
    fn nodes_that_come_and_go_keep_the_limit_together() {
        const RATE: u64 = 100_000_000;
        const PIECE: u64 = 1 << 19;
        let object = ObjectId::from_bytes([7; 16]);
        let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
        let begin = Instant::now();
        let mut nodes: Vec<Node> = [1.0, 1.0, 3.0, 0.5]
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(weight, name)| {
                let name: Name = name.parse().unwrap();
                let files = vec![(object, layout)];
                let swarm = Swarm::new(Settings::default(), (name.clone(), *weight), files, 1, begin);
                Node {
                    name,
                    swarm,
                    limit: Limit::new(NonZeroU64::new(RATE), begin),
                    weight: *weight,
                    next: None,
                }
            })
            .collect();
        let tell = |nodes: &mut Vec<Node>, now| {
            let there: Vec<_> =
                nodes.iter().map(|node| (node.name.clone(), node.weight, node.next)).collect();
            for node in nodes.iter_mut() {
                for (name, weight, next) in &there {
                    if next.is_none() {
                        node.swarm.lost(name);
                        continue;
                    }
                    let (haves, reading) = (vec![(object, vec![0; 2])], Vec::new());
                    let (name, weight, age) = (name.clone(), *weight, Duration::from_secs(9));
                    node.swarm.heard(
                        News { name, weight, age, draining: false, queue: 0, haves, reading, zone: None },
                        now,
                    );
                }
            }
        };
        // Who is there from when on, in seconds; the last one is the end.
        let phases = [
            (0, vec![0]),
            (2, vec![0, 1]),
            (4, vec![0, 1, 2, 3]),
            (7, vec![1, 2]),
            (9, vec![1]),
            (11, vec![]),
        ];
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut bytes = 0;
        for (phase, following) in phases.iter().zip(&phases[1..]) {
            let (start, end) = (at(phase.0), at(following.0));
            for (number, node) in nodes.iter_mut().enumerate() {
                node.next = phase.1.contains(&number).then(|| node.next.unwrap_or(start));
            }
            tell(&mut nodes, start);
            let sum: f64 = phase.1.iter().map(|number| nodes[*number].swarm.origin_part()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            while let Some(node) = nodes
                .iter_mut()
                .filter(|node| node.next.is_some_and(|next| next < end))
                .min_by_key(|node| node.next)
            {
                let now = node.next.unwrap();
                node.next = Some(
                    node.limit.book(PIECE, node.swarm.origin_part(), now).max(now) + Duration::from_nanos(1),
                );
                bytes += PIECE;
            }
            // What each may have begun, and catch up on, at each of the changes.
            let slack = nodes.len() as u64 * (2 * PIECE + RATE / 20);
            let granted = RATE * following.0;
            assert!(
                bytes <= granted + slack && bytes + slack >= granted,
                "{bytes} of {granted} after {phase:?}"
            );
        }
    }
}
