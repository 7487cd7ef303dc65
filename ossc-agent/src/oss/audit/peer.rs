//! The line of a request to a peer: begun where it is sent, filled in as the reply comes, noted when it is dropped. Driven by
//! `peer`.

use std::time::{Duration, Instant};

use super::{Audit, Line};
use crate::base::{ByteRange, Lane, chain};

/// A request to a peer under way. Dropping it notes its line.
#[derive(Debug)]
pub struct PeerRequest {
    audit: Audit,
    line: Line,
    begun: Instant,
    /// Time to its end, if that is known: a whole reply, or an error.
    took: Option<Duration>,
}

impl Audit {
    /// The node of this name is about to be asked for a range of an object, the `attempt`th question for it. `is_urgent`:
    /// a reader waits.
    #[must_use]
    pub fn ask_peer(
        &self,
        peer: &str,
        key: &str,
        range: ByteRange,
        is_urgent: bool,
        attempt: u32,
    ) -> PeerRequest {
        let line = Line {
            peer: Some(peer.to_owned()),
            lane: is_urgent.then(|| Lane::Demand.name()),
            ..Line::begin("peer", key, Some(range), attempt)
        };
        PeerRequest { audit: self.clone(), line, begun: Instant::now(), took: None }
    }
}

impl PeerRequest {
    /// The reply's head has come.
    pub fn answered(&mut self, status: u16) {
        self.line.answered(status);
    }

    /// Bytes of the block have come.
    pub fn received(&mut self, bytes: u64) {
        self.line.bytes += bytes;
    }

    /// Nothing more comes, for this reason if it is not the whole reply.
    pub fn ended(&mut self, error: Option<&dyn std::error::Error>) {
        self.took.get_or_insert_with(|| self.begun.elapsed());
        if let Some(error) = error {
            self.line.error = Some(chain(error));
        }
    }
}

impl Drop for PeerRequest {
    fn drop(&mut self) {
        self.line.ended(self.took, self.begun);
        self.audit.note(self.line.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_was_asked_for_what_and_how_it_ended() {
        let audit = Audit::with_room(8);
        let ask = || audit.ask_peer("n7", "m/a", ByteRange::new(4, 8), true, 2);
        let mut whole = ask();
        whole.answered(200);
        whole.received(3);
        whole.received(1);
        whole.ended(None);
        drop(whole);
        let mut busy = ask();
        busy.answered(503);
        busy.ended(None);
        drop(busy);
        let mut broken = ask();
        broken.ended(Some(&std::io::Error::other("cut")));
        drop(broken);
        drop(ask());
        let lines = audit.0.lock().lines.clone();
        let ends: Vec<_> =
            lines.iter().map(|line| (line.status, line.bytes, line.error.as_deref())).collect();
        let given_up = "given up before its end";
        let wanted = [
            (Some(200), 4, None),
            (Some(503), 0, Some("status 503")),
            (None, 0, Some("cut")),
            (None, 0, Some(given_up)),
        ];
        assert_eq!(ends, wanted);
        for line in &lines {
            assert_eq!(
                (line.operation, line.peer.as_deref(), line.key.as_str()),
                ("peer", Some("n7"), "m/a")
            );
            assert_eq!(
                (line.range.as_deref(), line.lane, line.attempt),
                (Some("bytes=4-7"), Some("demand"), 2)
            );
        }
    }
}
