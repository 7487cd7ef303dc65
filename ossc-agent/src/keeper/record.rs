//! The record of events that have no answer yet, in memory that outlives the agent.
//!
//! The gate's thread alone writes it. The kernel puts what it hands out into the inbox, so an event taken is
//! on record whenever the agent is killed; those whose readers are held move to a place of their own, found
//! by the number of their descriptor, with the file and the range they want, and leave it when they have
//! their answer and before the number can be used again. An event in the inbox alone has lost its file with
//! the agent's descriptor: the next agent lets it wait for that range of every file.
//!
//! ```text
//! word 0        magic and version          word 512..896   inbox, records as the kernel writes them
//! word 1        highest number ever + 1    word 1024 + 8 n place of number n: state and pid, dev, ino,
//!                                                          first byte, byte after the last
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::base::ByteRange;
use crate::store::Inode;
use crate::sys::fanotify::{self, BATCH_BYTES, Buffer};
use crate::sys::process::MOST_OPEN_FILES;
use crate::sys::shared::{Memory, WORD};

/// `ossc-rec` in ASCII, and the version of this layout added.
const MAGIC: u64 = 0x6f73_7363_2d72_6563 + 1;
const MAGIC_AT: usize = 0;
const HIGHEST_AT: usize = 1;
/// In a page of its own.
const INBOX_AT: usize = 512;
const PLACES_AT: usize = 1024;
const PLACE_WORDS: usize = 8;
const WORDS: usize = PLACES_AT + PLACE_WORDS * MOST_OPEN_FILES;
const _: () = assert!(INBOX_AT + BATCH_BYTES / WORD <= PLACES_AT);

/// States of a place, in the low half of its first word; the pid is in the high half.
const FREE: u64 = 0;
const OF_A_FILE: u64 = 1;
const OF_ANY_FILE: u64 = 2;

/// What a reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// These bytes of this file.
    File(Inode, ByteRange),
    /// These bytes of a file that is not known any more.
    AnyFile(ByteRange),
}

/// One event without an answer, which a dead agent left.
#[derive(Debug)]
pub struct Pending {
    /// The number it is answered by.
    pub number: RawFd,
    /// Process of the reader.
    pub pid: u32,
    /// What it waits for.
    pub wanted: Wanted,
    /// Keeps the number from being given to another event; `None` when something else has it already.
    pub place: Option<OwnedFd>,
}

/// The record of one gate.
#[derive(Debug, Clone)]
pub struct Record {
    memory: Arc<Memory>,
}

impl Record {
    /// An empty one. Takes two pages of memory, and more as readers are held.
    pub fn create() -> io::Result<Self> {
        let memory = Memory::create(c"ossc-record", WORDS)?;
        memory.store(MAGIC_AT, MAGIC);
        for word in INBOX_AT..PLACES_AT {
            // Makes the page exist, so that the kernel need not when it writes there.
            memory.store(word, 0);
        }
        Ok(Self { memory: Arc::new(memory) })
    }

    /// The one that an earlier agent wrote.
    pub(super) fn open(fd: OwnedFd) -> io::Result<Self> {
        let memory = Memory::map(fd)?;
        if memory.words() != WORDS || memory.load(MAGIC_AT) != MAGIC {
            return Err(Errno::EINVAL.into());
        }
        Ok(Self { memory: Arc::new(memory) })
    }

    /// A buffer to take events with, which are on record from then until `Buffer::settle`.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        Buffer::shared(Arc::clone(&self.memory), INBOX_AT)
    }

    /// A reader is held.
    pub fn hold(&self, number: RawFd, pid: u32, wanted: Wanted) {
        let Some((place, number)) = place_of(number) else { return };
        let (state, inode, range) = match wanted {
            Wanted::File(inode, range) => (OF_A_FILE, inode, range),
            Wanted::AnyFile(range) => (OF_ANY_FILE, Inode { dev: 0, ino: 0 }, range),
        };
        if self.memory.load(HIGHEST_AT) <= number {
            self.memory.store(HIGHEST_AT, number + 1);
        }
        for (word, value) in (place + 1..).zip([inode.dev, inode.ino, range.start(), range.end()]) {
            self.memory.store(word, value);
        }
        self.memory.store(place, state | u64::from(pid) << 32);
    }

    /// It has its answer. To be called while its descriptor is open.
    pub fn clear(&self, number: RawFd) {
        if let Some((place, _)) = place_of(number) {
            self.memory.store(place, FREE);
        }
    }

    /// What an earlier agent left unanswered, all of it in places of its own afterwards.
    pub(super) fn take_over(&self) -> Vec<(RawFd, u32, Wanted)> {
        let held = self.held();
        for taken in fanotify::unsettled(&self.memory, INBOX_AT) {
            if held.iter().all(|(number, ..)| *number != taken.number) {
                let range = taken.span.map_or(ByteRange::new(0, u64::MAX), |span| match span.count {
                    0 => ByteRange::new(span.offset, u64::MAX),
                    count => ByteRange::new(span.offset, span.offset.saturating_add(count)),
                });
                self.hold(taken.number, taken.pid, Wanted::AnyFile(range));
            }
        }
        for word in INBOX_AT..PLACES_AT {
            self.memory.store(word, 0);
        }
        self.held()
    }

    /// The same without changing anything.
    pub(super) fn peek(&self) -> Vec<(RawFd, u32, Wanted)> {
        let any = Wanted::AnyFile(ByteRange::new(0, u64::MAX));
        let taken = fanotify::unsettled(&self.memory, INBOX_AT);
        self.held().into_iter().chain(taken.iter().map(|taken| (taken.number, taken.pid, any))).collect()
    }

    fn held(&self) -> Vec<(RawFd, u32, Wanted)> {
        let highest = usize::try_from(self.memory.load(HIGHEST_AT)).unwrap_or(0).min(MOST_OPEN_FILES);
        (0..highest)
            .filter_map(|number| {
                let place = PLACES_AT + number * PLACE_WORDS;
                let [state, dev, ino, start, end] =
                    [0, 1, 2, 3, 4].map(|word| self.memory.load(place + word));
                let range = ByteRange::new(start, end.max(start));
                let wanted = match state & u64::from(u32::MAX) {
                    OF_A_FILE => Wanted::File(Inode { dev, ino }, range),
                    OF_ANY_FILE => Wanted::AnyFile(range),
                    _ => return None,
                };
                Some((RawFd::try_from(number).ok()?, u32::try_from(state >> 32).ok()?, wanted))
            })
            .collect()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Record {
    /// For `fuzzing`: puts words into the inbox and into places by turns, as a dead agent may have left them.
    pub(super) fn fill(&self, memory: &Memory, words: &[u64], numbers: u64) {
        memory.store(HIGHEST_AT, words.first().map_or(0, |highest| highest % numbers));
        for (at, value) in words.iter().skip(1).enumerate() {
            let (turn, offset) =
                (at / PLACE_WORDS % 2, at / (2 * PLACE_WORDS) * PLACE_WORDS + at % PLACE_WORDS);
            let at = if turn == 0 { INBOX_AT + offset % (BATCH_BYTES / WORD) } else { PLACES_AT + offset };
            memory.store(at, *value);
        }
    }
}

impl AsFd for Record {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Empties a record that this process has not mapped, except for what makes it one.
pub(super) fn forget(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let bytes = |words: usize| i64::try_from(words * WORD).map_err(|_| Errno::EFBIG);
    Ok(fallocate(fd, flags, bytes(INBOX_AT)?, bytes(WORDS - INBOX_AT)?)?)
}

/// First word of a number's place.
fn place_of(number: RawFd) -> Option<(usize, u64)> {
    let index = usize::try_from(number).ok().filter(|index| *index < MOST_OPEN_FILES)?;
    Some((PLACES_AT + index * PLACE_WORDS, u64::try_from(number).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODE: Inode = Inode { dev: 8, ino: 99 };

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end)
    }

    fn reopened(record: &Record) -> Record {
        Record::open(record.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn the_next_agent_finds_what_has_no_answer() {
        let record = Record::create().unwrap();
        record.hold(7, 11, Wanted::File(INODE, range(4096, 8192)));
        record.hold(900, 12, Wanted::AnyFile(range(0, u64::MAX)));
        record.hold(8, 13, Wanted::File(INODE, range(0, 1)));
        record.clear(8);
        let expected = vec![
            (7, 11, Wanted::File(INODE, range(4096, 8192))),
            (900, 12, Wanted::AnyFile(range(0, u64::MAX))),
        ];
        assert_eq!(reopened(&record).take_over(), expected);
        assert_eq!(reopened(&record).take_over(), expected, "also the agent after the next");
        forget(record.as_fd()).unwrap();
        assert_eq!(reopened(&record).take_over(), []);
    }

    #[test]
    fn an_event_taken_and_not_judged_waits_for_any_file() {
        let record = Record::create().unwrap();
        let event = |number: i32, span: Option<(u64, u64)>| {
            // struct fanotify_event_metadata, and struct fanotify_event_info_range where there is a span.
            let mut bytes = if span.is_some() { 48u32 } else { 24 }.to_ne_bytes().to_vec();
            bytes.extend([3, 0, 24, 0]);
            bytes.extend(0x0010_0000u64.to_ne_bytes());
            bytes.extend(number.to_ne_bytes());
            bytes.extend(5u32.to_ne_bytes());
            if let Some((offset, count)) = span {
                bytes.extend([6, 0, 24, 0, 0, 0, 0, 0]);
                bytes.extend(offset.to_ne_bytes());
                bytes.extend(count.to_ne_bytes());
            }
            bytes
        };
        let inbox = [
            event(4, Some((4096, 100))),
            event(5, Some((77, 0))),
            event(6, None),
            event(7, Some((0, u64::MAX))),
        ];
        for (at, word) in inbox.concat().as_chunks::<WORD>().0.iter().enumerate() {
            record.memory.store(INBOX_AT + at, u64::from_ne_bytes(*word));
        }
        record.hold(7, 5, Wanted::File(INODE, range(1, 2)));
        let expected = vec![
            (4, 5, Wanted::AnyFile(range(4096, 4196))),
            (5, 5, Wanted::AnyFile(range(77, u64::MAX))),
            (6, 5, Wanted::AnyFile(range(0, u64::MAX))),
            (7, 5, Wanted::File(INODE, range(1, 2))),
        ];
        assert_eq!(reopened(&record).take_over(), expected);
        assert_eq!(fanotify::unsettled(&record.memory, INBOX_AT), []);
    }

    #[test]
    fn other_memory_is_no_record() {
        assert!(
            Record::open(Memory::create(c"x", 16).unwrap().as_fd().try_clone_to_owned().unwrap()).is_err()
        );
        let blank = Memory::create(c"x", WORDS).unwrap();
        assert!(Record::open(blank.as_fd().try_clone_to_owned().unwrap()).is_err());
        let record = Record::create().unwrap();
        record.hold(-1, 1, Wanted::AnyFile(range(0, 1)));
        record.hold(i32::MAX, 1, Wanted::AnyFile(range(0, 1)));
        assert_eq!(record.take_over(), [], "numbers that no descriptor has");
    }
}
