//! Sending one reply: head, body in paced pieces, and all the ways a fault plan spoils it.
//!
//! The body goes out in pieces the limiter grants. A piece ends where a fault wants something to happen, so a cut, a
//! reset or a stall is exact to the byte. Unless bytes are to be flipped, content that lies in a file is sent by
//! sendfile(2). A client that goes away ends the reply; the log then shows how far it came.

use std::io::{self, Read as _, Write as _};

use crate::faults::Plan;
use crate::log::{End, Log};
use crate::rate::{Limiter, OwnPace};
use crate::response::Body;
use crate::stream::Stream;

/// Bytes generated or copied at once.
const BUFFER: u64 = 256 << 10;

/// What surplus bytes look like; any content would do that is not the object's.
const EXCESS: u8 = 0xa5;

/// One reply, ready to go.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Number of the request in the log.
    pub(crate) id: u64,
    /// Status line and headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: Body,
    /// How to spoil it.
    pub(crate) plan: Plan,
}

/// Sends the replies of one connection.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    limiter: &'a Limiter,
    log: &'a Log,
    pace: OwnPace,
    buffer: Vec<u8>,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(limiter: &'a Limiter, log: &'a Log) -> Self {
        Self { limiter, log, pace: OwnPace::default(), buffer: Vec::new() }
    }

    /// Sends a reply, and tells how it ended.
    pub(crate) fn send(&mut self, stream: &mut Stream, reply: &Reply) -> End {
        self.limiter.begin(&mut self.pace, reply.plan.rate);
        let end = self.try_send(stream, reply).unwrap_or(End::Gone);
        self.limiter.end();
        end
    }

    fn try_send(&mut self, stream: &mut Stream, reply: &Reply) -> io::Result<End> {
        let Reply { id, head, body, plan } = reply;
        let mut stalls = plan.stalls.iter().peekable();
        while let Some(stall) = stalls.next_if(|stall| stall.after.is_none()) {
            stall.rule.hold(stall.time, || stream.is_gone());
        }
        stream.write_all(head.as_bytes())?;
        let len = body.len();
        let mut sent = 0;
        loop {
            while let Some(stall) =
                stalls.next_if(|stall| stall.after.is_some_and(|after| after.min(len) == sent))
            {
                stream.flush()?;
                stall.rule.hold(stall.time, || stream.is_gone());
            }
            if plan.reset.is_some_and(|after| after.min(len) == sent) {
                stream.reset_on_close()?;
                return Ok(End::Reset);
            }
            if plan.garble.is_some_and(|after| after.min(len) == sent) {
                stream.flush()?;
                stream.garble()?;
                return Ok(End::Cut);
            }
            if plan.cut.is_some_and(|after| after.min(len) == sent) {
                stream.flush()?;
                return Ok(End::Cut);
            }
            if sent == len {
                break;
            }
            let next_stall = stalls.peek().and_then(|stall| stall.after);
            let stops = [Some(len), next_stall, plan.reset, plan.garble, plan.cut];
            let until = stops.into_iter().flatten().min().unwrap_or(len);
            let granted = self.limiter.take(&mut self.pace, until - sent);
            sent += self.send_piece(stream, body, sent, granted, &plan.flips)?;
            self.log.progress(*id, sent);
        }
        io::copy(&mut io::repeat(EXCESS).take(plan.excess), stream)?;
        stream.flush()?;
        Ok(End::Complete)
    }

    /// Sends up to `len` bytes of the body from `at`; gives how many.
    fn send_piece(
        &mut self,
        stream: &mut Stream,
        body: &Body,
        at: u64,
        len: u64,
        flips: &[u64],
    ) -> io::Result<u64> {
        let Body::Object { source, range } = body else {
            if let Body::Text(text) = body {
                stream.write_all(&text[to_usize(at)..to_usize(at + len)])?;
            }
            return Ok(len);
        };
        let offset = range.start + at;
        if flips.is_empty()
            && let Some((file, place, room)) = source.place(offset)
        {
            let sent = stream.send_file(file, place, to_usize(len.min(room)))?;
            return Ok(u64::try_from(sent).unwrap_or(len));
        }
        let len = len.min(BUFFER);
        self.buffer.resize(to_usize(len), 0);
        source.read_at(offset, &mut self.buffer)?;
        for &flip in flips {
            let index = flip.checked_sub(offset).map_or(usize::MAX, to_usize);
            if let Some(byte) = self.buffer.get_mut(index) {
                *byte = !*byte;
            }
        }
        stream.write_all(&self.buffer)?;
        Ok(len)
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
