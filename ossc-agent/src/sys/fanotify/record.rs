//! The bytes of a read from a fanotify group, taken apart (include/uapi/linux/fanotify.h).
//!
//! Total: any bytes give a finite list of records and errors, never a panic. A record whose optional part
//! cannot be understood is still a reader that waits, so it is yielded without a range, which callers take
//! for the whole file. Bytes after a record of impossible length have no known meaning: guessing there
//! could close descriptors that are not ours, so the list ends.

use std::os::fd::RawFd;

/// Length of `struct fanotify_event_metadata`.
pub(super) const METADATA_LEN: usize = 24;
/// Length of `struct fanotify_event_info_range`: header, pad, offset, count.
const RANGE_INFO_LEN: usize = 24;
/// A permission event with its range.
pub(super) const RANGE_RECORD_LEN: usize = METADATA_LEN + RANGE_INFO_LEN;
/// `FANOTIFY_METADATA_VERSION`: since Linux 2.6.37.
const VERSION: u8 = 3;
/// `FAN_EVENT_INFO_TYPE_RANGE`; not in libc yet.
const INFO_RANGE: u8 = 6;
/// Length of `struct fanotify_event_info_header`: type, pad, length.
const INFO_HEADER_LEN: usize = 4;

/// Bytes as the kernel reported them, not yet judged against the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// How many; 0 means up to the end of the file.
    pub count: u64,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The kernel speaks another version of the interface; nothing behind this can be understood.
    #[error("fanotify metadata version {0}, this program knows {VERSION}")]
    Version(u8),
    /// A length that cannot be; what follows in the batch is lost.
    #[error("fanotify record of {length} bytes with {left} bytes left in the batch")]
    Length {
        /// As the record says.
        length: usize,
        /// As the batch has.
        left: usize,
    },
    /// A record that names no file, such as the report of an overflowed queue (mask 0x4000).
    #[error("fanotify event {mask:#x} without a descriptor")]
    NoDescriptor {
        /// Its event mask.
        mask: u64,
    },
}

/// One permission event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Never negative.
    pub(super) fd: RawFd,
    pub(super) pid: u32,
    pub(super) span: Option<Span>,
}

/// The records of one read.
#[derive(Debug)]
pub(super) struct Records<'b> {
    rest: &'b [u8],
    /// Said after the record that was cut short.
    pending: Option<Malformed>,
}

impl<'b> Records<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes, pending: None }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(malformed) = self.pending.take() {
            return Some(Err(malformed));
        }
        if self.rest.is_empty() {
            return None;
        }
        let left = self.rest.len();
        let Some(metadata) = Metadata::parse(self.rest) else {
            self.rest = &[];
            return Some(Err(Malformed::Length { length: left, left }));
        };
        if metadata.version != VERSION {
            self.rest = &[];
            return Some(Err(Malformed::Version(metadata.version)));
        }
        let possible = (METADATA_LEN..=left).contains(&metadata.length);
        let span = if possible {
            let (record, rest) = self.rest.split_at(metadata.length);
            self.rest = rest;
            record.get(metadata.info_at..).and_then(range_in)
        } else {
            self.rest = &[];
            self.pending = Some(Malformed::Length { length: metadata.length, left });
            None
        };
        if metadata.fd < 0 {
            return Some(Err(Malformed::NoDescriptor { mask: metadata.mask }));
        }
        Some(Ok(Record { fd: metadata.fd, pid: metadata.pid, span }))
    }
}

/// `struct fanotify_event_metadata`.
struct Metadata {
    length: usize,
    version: u8,
    info_at: usize,
    mask: u64,
    fd: RawFd,
    pid: u32,
}

impl Metadata {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            length: usize::try_from(u32::from_ne_bytes(field(bytes, 0)?)).ok()?,
            version: u8::from_ne_bytes(field(bytes, 4)?),
            info_at: usize::from(u16::from_ne_bytes(field(bytes, 6)?)).max(METADATA_LEN),
            mask: u64::from_ne_bytes(field(bytes, 8)?),
            fd: i32::from_ne_bytes(field(bytes, 16)?),
            pid: u32::from_ne_bytes(field(bytes, 20)?),
        })
    }
}

/// The first range among the info records of one event.
fn range_in(mut infos: &[u8]) -> Option<Span> {
    loop {
        let kind = u8::from_ne_bytes(field(infos, 0)?);
        let length = usize::from(u16::from_ne_bytes(field(infos, 2)?));
        if length < INFO_HEADER_LEN {
            return None;
        }
        let info = infos.get(..length)?;
        if kind == INFO_RANGE {
            let offset = u64::from_ne_bytes(field(info, 8)?);
            let count = u64::from_ne_bytes(field(info, 16)?);
            return Some(Span { offset, count });
        }
        infos = infos.get(length..)?;
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metadata(length: u32, version: u8, fd: i32) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([version, 0]);
        bytes.extend(24u16.to_ne_bytes());
        bytes.extend(0x0010_0000u64.to_ne_bytes());
        bytes.extend(fd.to_ne_bytes());
        bytes.extend(77u32.to_ne_bytes());
        bytes
    }

    fn info(kind: u8, length: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0];
        bytes.extend(length.to_ne_bytes());
        bytes.extend(payload);
        bytes
    }

    fn range(offset: u64, count: u64) -> Vec<u8> {
        let mut payload = vec![0; 4];
        payload.extend(offset.to_ne_bytes());
        payload.extend(count.to_ne_bytes());
        info(INFO_RANGE, 24, &payload)
    }

    fn seen(parts: &[Vec<u8>]) -> Vec<Result<(RawFd, Option<Span>), Malformed>> {
        Records::new(&parts.concat()).map(|item| item.map(|record| (record.fd, record.span))).collect()
    }

    #[test]
    fn a_batch_with_every_kind_of_damage_loses_no_reader() {
        let span = Some(Span { offset: 8192, count: 4096 });
        let exact = [metadata(48, 3, 5), range(8192, 4096)];
        let check = |name: &str, parts: &[Vec<u8>], expected: &[Result<(RawFd, Option<Span>), Malformed>]| {
            assert_eq!(seen(parts), expected, "{name}");
            // Whatever comes before a record must not change what is read from it.
            let behind_good = [&exact[..], parts].concat();
            assert_eq!(seen(&behind_good)[0], Ok((5, span)), "{name}");
            assert_eq!(&seen(&behind_good)[1..], expected, "{name}");
        };
        let good = Ok((5, span));
        check("nothing", &[], &[]);
        check("a range", &exact, &[good]);
        check("no range", &[metadata(24, 3, 6)], &[Ok((6, None))]);
        check(
            "an unknown info record before the range",
            &[metadata(60, 3, 6), info(99, 12, &[1; 8]), range(8192, 4096)],
            &[Ok((6, span))],
        );
        for (name, damaged) in [
            ("info shorter than its header", info(6, 3, &[0; 20])),
            ("info longer than the event", info(6, 25, &[0; 20])),
            ("range info without its count", info(6, 16, &[0; 20])),
            ("zero info", vec![0; 24]),
        ] {
            let parts = [&[metadata(48, 3, 6), damaged][..], &exact[..]].concat();
            check(name, &parts, &[Ok((6, None)), good]);
        }
        for length in [0, 23, 49, u32::MAX] {
            let parts = [metadata(length, 3, 6), range(8192, 4096)];
            let left = 48;
            let error = Malformed::Length { length: length as usize, left };
            check("impossible length", &parts, &[Ok((6, None)), Err(error)]);
        }
        check("cut short", &[vec![1; 23]], &[Err(Malformed::Length { length: 23, left: 23 })]);
        check("wrong version", &[metadata(24, 4, 6), metadata(24, 3, 7)], &[Err(Malformed::Version(4))]);
        check(
            "no descriptor",
            &[metadata(24, 3, -1), exact.concat()],
            &[Err(Malformed::NoDescriptor { mask: 0x0010_0000 }), good],
        );
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_finite_list(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let count = Records::new(&bytes).count();
            prop_assert!(count <= bytes.len() / METADATA_LEN + 2);
        }
    }
}
