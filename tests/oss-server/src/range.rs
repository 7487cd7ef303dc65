//! What a `Range` header makes of an object: the whole table, with and without `x-oss-range-behavior: standard`.
//!
//! Without that header OSS answers a range it does not like with the whole object and 200, which is the trap clients
//! must avoid; with it the answers are those of RFC 9110. Pure: text and size in, decision out.

use std::ops::Range;

/// What is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The whole object, 200.
    Whole,
    /// These bytes, 206.
    Part(Range<u64>),
    /// 416 `InvalidRange`.
    Refused,
}

/// Decides what of an object of `size` bytes a range asks for.
pub(crate) fn select(header: Option<&str>, standard: bool, size: u64) -> Selection {
    let Some(range) = header.and_then(parse) else { return Selection::Whole };
    let (inside, part) = match range {
        Asked::Between(first, last) => (first < size && last < size, first..last.saturating_add(1).min(size)),
        Asked::From(first) => (first < size, first..size),
        Asked::Last(count) => (count > 0 && count <= size, size.saturating_sub(count)..size),
    };
    match (standard, inside) {
        (_, true) => Selection::Part(part),
        (false, false) => Selection::Whole,
        (true, false) if part.start < part.end => Selection::Part(part),
        (true, false) => Selection::Refused,
    }
}

/// The three forms of a range.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Between(u64, u64),
    From(u64),
    Last(u64),
}

/// Reads one range; `None` if it is malformed. OSS documents two different answers to several ranges in one header;
/// here they count as malformed.
fn parse(header: &str) -> Option<Asked> {
    let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    match (first, last) {
        ("", last) => Some(Asked::Last(number(last)?)),
        (first, "") => Some(Asked::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::Between(first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_of_oss() {
        use Selection::{Part, Refused, Whole};
        for (header, plain, standard) in [
            ("bytes=0-0", Part(0..1), Part(0..1)),
            ("bytes=0-999", Part(0..1000), Part(0..1000)),
            ("bytes=500-", Part(500..1000), Part(500..1000)),
            ("bytes=-1", Part(999..1000), Part(999..1000)),
            ("bytes=-1000", Part(0..1000), Part(0..1000)),
            ("bytes=500-2000", Whole, Part(500..1000)),
            ("bytes=999-18446744073709551615", Whole, Part(999..1000)),
            ("bytes=1000-2000", Whole, Refused),
            ("bytes=1000-", Whole, Refused),
            ("bytes=-2000", Whole, Part(0..1000)),
            ("bytes=-0", Whole, Refused),
            ("byte=0-1", Whole, Whole),
            ("bytes=5-2", Whole, Whole),
            ("bytes=-", Whole, Whole),
            ("bytes=", Whole, Whole),
            ("bytes=a-b", Whole, Whole),
            ("bytes=+1-2", Whole, Whole),
            ("bytes=0-1,5-6", Whole, Whole),
            ("bytes=99999999999999999999-", Whole, Whole),
        ] {
            assert_eq!(select(Some(header), false, 1000), plain, "{header}");
            assert_eq!(select(Some(header), true, 1000), standard, "{header}, standard");
        }
        assert_eq!(select(None, true, 1000), Whole);
    }

    #[test]
    fn an_empty_object_has_no_range() {
        for header in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
            assert_eq!(select(Some(header), false, 0), Selection::Whole);
            assert_eq!(select(Some(header), true, 0), Selection::Refused);
        }
    }
}
