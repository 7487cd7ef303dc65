//! The messages between agent and keeper: three numbers, with descriptors attached to some. Both ends are
//! this program at one version or two, so a message of another version or shape is refused, never guessed.
//!
//! ```text
//! agent   Start{deadline}[group, record, listener]  Stops[programs]  Hold[files]…  Sync      a new keeper
//! keeper                                                         Ready
//! keeper  Record[record]  Files[files]…  Stops[programs]  Group[group]      to an agent that connects
//! agent   Adopt{deadline}  Stops[programs]  Hold[files]…  Sync               it takes over
//! keeper                                Ready
//! agent   Release{dev, ino}                                                  a file is complete
//! agent   Goodbye                                                            a clean stop
//! ```

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::store::Inode;
use crate::sys::rights;

/// Raised when messages or the record change their meaning.
const VERSION: u64 = 2;
/// Tells a message of ours from anything else: `ossckeep` in ASCII, with the version added.
const MAGIC: u64 = 0x6f73_7363_6b65_6570 + VERSION;
/// Magic, kind and two numbers.
const LENGTH: usize = 4 * size_of::<u64>();

/// One message, without its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The first message to a new keeper.
    Start(Duration),
    /// Descriptors of files that are not complete.
    Hold,
    /// This file is complete.
    Release(Inode),
    /// All is said; answer with `Ready`.
    Sync,
    /// The agent has ended its readers' waits and hidden the files; it is about to exit.
    Goodbye,
    /// The sender is the agent from now on.
    Adopt(Duration),
    /// Answer to `Sync`.
    Ready,
    /// The record of unanswered events.
    Record,
    /// Descriptors of files that are not complete.
    Files,
    /// The group; nothing follows.
    Group,
    /// What keeps the stop gate's programs at work, where there are any.
    Stops,
}

impl Message {
    fn encode(self) -> [u8; LENGTH] {
        let (kind, a, b) = match self {
            Self::Start(deadline) => (1, deadline.as_secs(), 0),
            Self::Hold => (2, 0, 0),
            Self::Release(inode) => (3, inode.dev, inode.ino),
            Self::Sync => (4, 0, 0),
            Self::Goodbye => (5, 0, 0),
            Self::Adopt(deadline) => (6, deadline.as_secs(), 0),
            Self::Ready => (7, 0, 0),
            Self::Record => (8, 0, 0),
            Self::Files => (9, 0, 0),
            Self::Group => (10, 0, 0),
            Self::Stops => (11, 0, 0),
        };
        let mut bytes = [0; LENGTH];
        for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip([MAGIC, kind, a, b]) {
            *place = u64::to_ne_bytes(number);
        }
        bytes
    }

    fn decode(bytes: &[u8; LENGTH]) -> Option<Self> {
        let mut numbers = bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
        if numbers.next()? != MAGIC {
            return None;
        }
        let (kind, a, b) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(match kind {
            1 => Self::Start(deadline(a)),
            2 => Self::Hold,
            3 => Self::Release(Inode { dev: a, ino: b }),
            4 => Self::Sync,
            5 => Self::Goodbye,
            6 => Self::Adopt(deadline(a)),
            7 => Self::Ready,
            8 => Self::Record,
            9 => Self::Files,
            10 => Self::Group,
            11 => Self::Stops,
            _ => return None,
        })
    }
}

/// No more than a moment in time can be moved by.
fn deadline(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(u32::MAX.into()))
}

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    /// A message with its descriptors.
    Message(Message, Vec<OwnedFd>),
    /// Nothing that this version knows.
    Unknown,
    /// The other end is closed.
    Closed,
}

/// Sends one message; `wait` as in [`rights::send`].
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: Message,
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    rights::send(socket, &message.encode(), descriptors, wait)
}

/// Sends any number of descriptors, in as many messages as they need.
pub(super) fn send_all(
    socket: BorrowedFd<'_>,
    message: Message,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    descriptors
        .chunks(rights::MOST_DESCRIPTORS)
        .try_for_each(|descriptors| send(socket, message, descriptors, true))
}

/// Takes the next message.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    // One byte more, so that a longer message is seen to be longer.
    let mut bytes = [0; LENGTH + 1];
    let (length, descriptors) = rights::receive(socket, &mut bytes)?;
    if length == 0 {
        return Ok(Received::Closed);
    }
    let message = bytes.first_chunk().filter(|_| length == LENGTH).and_then(Message::decode);
    Ok(message.map_or(Received::Unknown, |message| Received::Message(message, descriptors)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_message_is_read_as_it_was_written() {
        let second = Duration::from_secs(7);
        for message in [
            Message::Start(second),
            Message::Hold,
            Message::Release(Inode { dev: 3, ino: u64::MAX }),
            Message::Sync,
            Message::Goodbye,
            Message::Adopt(second),
            Message::Ready,
            Message::Record,
            Message::Files,
            Message::Group,
            Message::Stops,
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    proptest! {
        #[test]
        fn other_bytes_are_refused(bytes: [u8; LENGTH], kind in 12u64..) {
            prop_assert_eq!(Message::decode(&bytes), None);
            let mut unknown = Message::Hold.encode();
            unknown[8..16].copy_from_slice(&kind.to_ne_bytes());
            prop_assert_eq!(Message::decode(&unknown), None);
        }
    }
}
