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
//! agent   Leave{deadline}                                                    a restart is expected
//! agent   Goodbye                                                            a clean stop
//! ```

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::store::Inode;
use crate::sys::rights;

/// Raised when messages or the record change their meaning. New messages that an older end may pass over need not.
pub(super) const VERSION: u64 = 2;
/// Tells a message of ours from anything else: `ossckeep` in ASCII, with the version added.
const MAGIC: u64 = NAME + VERSION;
const NAME: u64 = 0x6f73_7363_6b65_6570;
/// Higher versions are no versions.
const MOST_VERSION: u64 = 0xff;
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
    /// The agent is about to exit and leaves its readers held: another one should come within this time.
    Leave(Duration),
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
            Self::Leave(deadline) => (11, deadline.as_secs(), 0),
            Self::Stops => (12, 0, 0),
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
            11 => Self::Leave(deadline(a)),
            12 => Self::Stops,
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
    /// A message of another version.
    Version(u64),
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
    Ok(match (message, version(bytes.first_chunk())) {
        (Some(message), _) => Received::Message(message, descriptors),
        (None, Some(version)) if version != VERSION => Received::Version(version),
        (None, _) => Received::Unknown,
    })
}

/// The version of a message of ours, by its first word alone: all else may be another version's.
fn version(first: Option<&[u8; size_of::<u64>()]>) -> Option<u64> {
    let version = u64::from_ne_bytes(*first?).checked_sub(NAME)?;
    (1..=MOST_VERSION).contains(&version).then_some(version)
}

/// For `fuzzing`: a message that is understood means the same when it is sent on.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_back(bytes: &[u8]) {
    let message = bytes.first_chunk().and_then(Message::decode);
    if let Some(message) = message {
        assert_eq!(Message::decode(&message.encode()), Some(message));
    }
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
            Message::Leave(second),
            Message::Stops,
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    /// What version 2 writes, on machines of this byte order: an agent and a keeper may be of different builds, so
    /// whoever changes these bytes raises the version.
    #[test]
    fn messages_of_version_2_stay_as_they_are() {
        let words = |words: [u64; 4]| words.map(u64::to_ne_bytes).concat();
        for (message, recorded) in [
            (Message::Start(Duration::from_secs(120)), [0x6f73_7363_6b65_6572, 1, 120, 0]),
            (Message::Hold, [0x6f73_7363_6b65_6572, 2, 0, 0]),
            (Message::Release(Inode { dev: 5, ino: 6 }), [0x6f73_7363_6b65_6572, 3, 5, 6]),
            (Message::Sync, [0x6f73_7363_6b65_6572, 4, 0, 0]),
            (Message::Goodbye, [0x6f73_7363_6b65_6572, 5, 0, 0]),
            (Message::Adopt(Duration::from_secs(7)), [0x6f73_7363_6b65_6572, 6, 7, 0]),
            (Message::Ready, [0x6f73_7363_6b65_6572, 7, 0, 0]),
            (Message::Record, [0x6f73_7363_6b65_6572, 8, 0, 0]),
            (Message::Files, [0x6f73_7363_6b65_6572, 9, 0, 0]),
            (Message::Group, [0x6f73_7363_6b65_6572, 10, 0, 0]),
            (Message::Leave(Duration::from_secs(30)), [0x6f73_7363_6b65_6572, 11, 30, 0]),
            (Message::Stops, [0x6f73_7363_6b65_6572, 12, 0, 0]),
        ] {
            assert_eq!(message.encode().to_vec(), words(recorded), "{message:?}");
        }
        assert_eq!(version(Some(&0x6f73_7363_6b65_6571_u64.to_ne_bytes())), Some(1));
        assert_eq!(version(Some(&[0; 8])), None);
    }

    proptest! {
        #[test]
        fn other_bytes_are_refused(bytes: [u8; LENGTH], kind in 13u64..) {
            prop_assert_eq!(Message::decode(&bytes), None);
            let mut unknown = Message::Hold.encode();
            unknown[8..16].copy_from_slice(&kind.to_ne_bytes());
            prop_assert_eq!(Message::decode(&unknown), None);
        }
    }
}
