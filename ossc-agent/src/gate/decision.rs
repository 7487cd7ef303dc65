//! What an event asks for, and what happens to its reader. Pure: the thread loop in `watch` brings the
//! facts and carries the answer to the kernel.

use nix::errno::Errno;

use super::mode::{Mode, Ranges};
use crate::base::{ByteRange, Layout};
use crate::sys::fanotify::Span;

/// What happens to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its bytes are there.
    Allow,
    /// It waits until they are.
    Hold,
    /// Its call fails.
    Deny(Errno),
}

/// The bytes of the file that must be there before the call goes on.
///
/// Bytes behind the end of the file need nothing, a read of them returns 0 (the size never changes). A count
/// of 0 is FICLONE and its like: everything from the offset on.
pub(super) fn wanted(mode: Mode, span: Option<Span>, layout: Layout) -> ByteRange {
    let whole = ByteRange::new(0, layout.size());
    let (Mode::PreContent { ranges: Ranges::Exact } | Mode::Stop, Some(span)) = (mode, span) else {
        return whole;
    };
    let end = match span.count {
        0 => layout.size(),
        count => span.offset.saturating_add(count),
    };
    ByteRange::new(span.offset, end).clip(layout.size())
}

/// Judges a reader of `range`, where `covered` says whether those bytes are all in the file and `stopping`
/// whether the agent is past the point of fetching more.
pub(super) fn judge(range: ByteRange, covered: impl FnOnce(ByteRange) -> bool, stopping: bool) -> Verdict {
    if range.is_empty() || covered(range) {
        Verdict::Allow
    } else if stopping {
        Verdict::Deny(Errno::EIO)
    } else {
        Verdict::Hold
    }
}

/// What happens to a stopped process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All it has mapped is there.
    GoOn,
    /// All is there, but a thread of it may still map more.
    Settle,
    /// It waits for what is missing.
    Wait,
    /// It is killed: what it has mapped cannot be had.
    End(Errno),
}

/// Judges a stopped process of which `complete` says whether all it has mapped is there, `failed` that a part of it
/// never will be, `promised` that what is missing was said to be there before, and `settled` that no thread of it
/// can change what is mapped.
pub(super) fn fate(
    complete: bool,
    failed: Option<Errno>,
    promised: bool,
    stopping: bool,
    settled: bool,
) -> Fate {
    match failed {
        Some(errno) => Fate::End(errno),
        None if complete && settled => Fate::GoOn,
        None if complete => Fate::Settle,
        None if promised || stopping => Fate::End(Errno::EIO),
        None => Fate::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockSize;

    const SIZE: u64 = 10_000_000;
    const EXACT: Mode = Mode::PreContent { ranges: Ranges::Exact };
    const WHOLE: Mode = Mode::PreContent { ranges: Ranges::WholeFile };

    #[test]
    fn events_want_the_bytes_of_the_call_or_the_whole_file() {
        let layout = Layout::new(SIZE, BlockSize::MIN).unwrap();
        let span = |offset, count| Some(Span { offset, count });
        for (name, mode, span, start, end) in [
            ("a page", EXACT, span(8192, 4096), 8192, 12_288),
            ("unaligned", EXACT, span(1, 1), 1, 2),
            ("count 0 from the start", EXACT, span(0, 0), 0, SIZE),
            ("count 0 from the middle", EXACT, span(4096, 0), 4096, SIZE),
            ("across the end", EXACT, span(SIZE - 1, 4096), SIZE - 1, SIZE),
            ("at the end", EXACT, span(SIZE, 4096), SIZE, SIZE),
            ("behind the end", EXACT, span(SIZE + 4096, 4096), SIZE, SIZE),
            ("count 0 behind the end", EXACT, span(SIZE + 4096, 0), SIZE, SIZE),
            ("largest count", EXACT, span(4096, u64::MAX), 4096, SIZE),
            ("largest offset", EXACT, span(u64::MAX, u64::MAX), SIZE, SIZE),
            ("no range", EXACT, None, 0, SIZE),
            ("untrusted range", WHOLE, span(8192, 4096), 0, SIZE),
            ("untrusted range behind the end", WHOLE, span(SIZE, 4096), 0, SIZE),
            ("stop, range known", Mode::Stop, span(8192, 4096), 8192, 12_288),
            ("stop, more than can be counted", Mode::Stop, span(8192, u64::MAX), 8192, SIZE),
            ("stop, no range", Mode::Stop, None, 0, SIZE),
            ("open", Mode::Open, None, 0, SIZE),
            ("open never has a range", Mode::Open, span(8192, 4096), 0, SIZE),
        ] {
            assert_eq!(wanted(mode, span, layout), ByteRange::new(start, end), "{name}");
        }
        let empty = Layout::new(0, BlockSize::MIN).unwrap();
        assert!(wanted(Mode::Open, None, empty).is_empty());
    }

    #[test]
    fn only_a_settled_process_whose_bytes_are_there_goes_on() {
        let lost = Some(Errno::ENOSPC);
        for (complete, failed, promised, stopping, settled, expected) in [
            (true, None, false, false, true, Fate::GoOn),
            (true, None, false, true, true, Fate::GoOn),
            (true, None, false, false, false, Fate::Settle),
            (true, None, false, true, false, Fate::Settle),
            (true, lost, false, false, true, Fate::End(Errno::ENOSPC)),
            (false, None, false, false, true, Fate::Wait),
            (false, None, false, false, false, Fate::Wait),
            (false, None, true, false, true, Fate::End(Errno::EIO)),
            (false, None, false, true, true, Fate::End(Errno::EIO)),
            (false, lost, false, false, false, Fate::End(Errno::ENOSPC)),
        ] {
            let found = fate(complete, failed, promised, stopping, settled);
            assert_eq!(found, expected, "{complete} {failed:?} {promised} {stopping} {settled}");
        }
    }

    #[test]
    fn only_bytes_that_are_there_let_a_reader_pass() {
        let some = ByteRange::new(0, 1);
        let none = ByteRange::new(5, 5);
        for (range, covered, stopping, verdict) in [
            (some, true, false, Verdict::Allow),
            (some, false, false, Verdict::Hold),
            (some, true, true, Verdict::Allow),
            (some, false, true, Verdict::Deny(Errno::EIO)),
            (none, false, false, Verdict::Allow),
            (none, false, true, Verdict::Allow),
        ] {
            assert_eq!(judge(range, |_| covered, stopping), verdict, "{range} {covered} {stopping}");
        }
    }
}
