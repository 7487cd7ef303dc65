//! Makes accesses of what the programs tell by address: keeps the mappings, and finds the bytes of a file that a page
//! fault or an munmap(2) was about.
//!
//! Page faults are told by address where the kernel has no tracepoint in its page cache (before Linux 6.12), and for
//! tmpfs, where these miss some. What else the kernel maps with the page touched is then reckoned: as many pages
//! around as it takes in a read of a page that is there (`do_fault_around`, mm/memory.c). Where a tracepoint tells of
//! the same fault, too, it is told once, unless the tracepoint knows of more: a large folio that was mapped whole.

use std::collections::{HashMap, HashSet};

use super::Seen;
use super::mappings::{Mapping, Mappings};
use super::record::{Changed, Entry, Moment, PageFault};
use crate::base::{Access, AccessKind, ByteRange, FileId};

/// What a fault maps at most (`fault_around_bytes`, mm/memory.c; 64 KiB unless somebody changed it in debugfs).
const FAULT_AROUND: u64 = 64 << 10;
/// Threads whose last fault is remembered; of the others a fault may be told twice.
const THREADS_MAX: usize = 1 << 16;

/// The state of all processes that have mapped watched files.
#[derive(Debug)]
pub(super) struct Resolver {
    mappings: Mappings,
    /// Bytes of a page.
    page: u64,
    /// Files whose faults are told by address.
    by_address: HashSet<FileId>,
    /// The file and range of the last fault of a thread that was told by address.
    last: HashMap<u32, (FileId, ByteRange)>,
}

impl Resolver {
    pub(super) fn new(page: u64) -> Self {
        let (by_address, last) = (HashSet::new(), HashMap::new());
        Self { mappings: Mappings::default(), page, by_address, last }
    }

    /// Faults of this file are to be found by their address.
    pub(super) fn resolve(&mut self, file: FileId) {
        self.by_address.insert(file);
    }

    /// The process had this mapped before it was watched.
    pub(super) fn found(&mut self, process: u32, mapping: Mapping) {
        self.mappings.map(process, mapping);
    }

    /// Takes an entry of the ring buffer and tells `sink` what it means.
    pub(super) fn take(&mut self, entry: Entry, sink: &mut impl FnMut(Seen)) {
        match entry {
            Entry::Access(access) if self.is_told(&access) => {}
            Entry::Access(access) => sink(Seen::Access(access)),
            Entry::Stall(stall) => sink(Seen::Stall(stall)),
            Entry::Mapped(access, address) => {
                let length = access.range.len().checked_next_multiple_of(self.page).unwrap_or(u64::MAX);
                let memory = ByteRange::new(address, address.saturating_add(length));
                let mapping = Mapping { memory, file: access.file, offset: access.range.start() };
                self.mappings.map(access.pid, mapping);
                sink(Seen::Access(access));
            }
            Entry::PageFault(fault) => {
                if let Some(access) = self.touched(&fault) {
                    sink(Seen::Access(access));
                }
            }
            Entry::Changed(by, changed) => self.change(by, changed, sink),
        }
    }

    fn change(&mut self, by: Moment, changed: Changed, sink: &mut impl FnMut(Seen)) {
        let whole = |memory: ByteRange| {
            let end = memory.end().checked_next_multiple_of(self.page).unwrap_or(u64::MAX);
            ByteRange::new(memory.start(), end)
        };
        let (kind, mappings) = match changed {
            Changed::Unmapped(memory) => (AccessKind::Unmap, self.mappings.unmap(by.pid, whole(memory))),
            Changed::Remapped { from, to } => {
                (AccessKind::Remap, self.mappings.remap(by.pid, whole(from), whole(to)))
            }
            Changed::Forked { parent } => return self.mappings.fork(parent, by.pid),
            Changed::Ended => return self.mappings.end(by.pid),
        };
        for mapping in mappings {
            sink(Seen::Access(access(by, mapping.file, mapping.range(), kind)));
        }
    }

    /// What a fault touches, if that is for us to tell.
    fn touched(&mut self, fault: &PageFault) -> Option<Access> {
        let mapping = self.mappings.at(fault.by.pid, fault.address)?;
        if !self.by_address.contains(&mapping.file) || is_of_present_page(fault.error) {
            return None;
        }
        let memory = if is_write(fault.error) {
            let start = fault.address / self.page * self.page;
            ByteRange::new(start, start.saturating_add(self.page))
        } else {
            around(fault.address, mapping.memory)
        };
        // The page of a write may begin before a mapping that no kernel would make.
        let before = mapping.memory.start();
        let in_file = |address: u64| mapping.offset.saturating_add(address.saturating_sub(before));
        let range = ByteRange::new(in_file(memory.start()), in_file(memory.end()));
        let file = mapping.file;
        if self.last.len() >= THREADS_MAX {
            self.last.clear();
        }
        self.last.insert(fault.by.tid, (file, range));
        Some(access(fault.by, file, range, AccessKind::Fault))
    }

    /// Whether this is the fault that was told last of its thread, and no more of the file than that.
    fn is_told(&mut self, access: &Access) -> bool {
        let is_one = access.kind == AccessKind::Fault && self.by_address.contains(&access.file);
        let holds = |(file, told): (FileId, ByteRange)| {
            let (from, to) = (access.range.start(), access.range.end());
            file == access.file && told.start() <= from && to <= told.end()
        };
        is_one && self.last.remove(&access.tid).is_some_and(holds)
    }
}

fn access(by: Moment, file: FileId, range: ByteRange, kind: AccessKind) -> Access {
    Access { file, range, kind, pid: by.pid, tid: by.tid, at_ns: by.at_ns }
}

/// What the kernel maps around a page that is read: the aligned window it lies in, cut at the begin of the mapping, so
/// long from there, and cut at its end. (Tables of pages are larger than the window and aligned to it.)
fn around(address: u64, mapping: ByteRange) -> ByteRange {
    let start = (address / FAULT_AROUND * FAULT_AROUND).max(mapping.start());
    let table = (start / HUGE_PAGE + 1).saturating_mul(HUGE_PAGE);
    ByteRange::new(start, start.saturating_add(FAULT_AROUND).min(table).min(mapping.end()))
}

/// What one table of pages maps, with pages of 4 KiB.
const HUGE_PAGE: u64 = 2 << 20;

/// Whether the page was mapped but not for this (`X86_PF_PROT`, asm/trap_pf.h): no first touch.
#[cfg(target_arch = "x86_64")]
fn is_of_present_page(error: u64) -> bool {
    error & 1 != 0
}

/// Whether something is written (`X86_PF_WRITE`, asm/trap_pf.h).
#[cfg(target_arch = "x86_64")]
fn is_write(error: u64) -> bool {
    error & 2 != 0
}

/// Whether the page was mapped but not for this: a permission fault (`ESR_ELx_FSC_PERM`, asm/esr.h).
#[cfg(not(target_arch = "x86_64"))]
fn is_of_present_page(error: u64) -> bool {
    error & 0x3c == 0x0c
}

/// Whether something is written (`ESR_ELx_WNR`, asm/esr.h).
#[cfg(not(target_arch = "x86_64"))]
fn is_write(error: u64) -> bool {
    error & 0x40 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;
    const AT: u64 = 0x7f00_0000_0000;
    const BY: Moment = Moment { pid: 1, tid: 2, at_ns: 3 };
    const FILE: FileId = FileId(4);

    /// Of a process that has mapped a megabyte of a file from page 16 on.
    fn resolver() -> Resolver {
        let mut resolver = Resolver::new(PAGE);
        resolver.resolve(FILE);
        let mapped = access(BY, FILE, ByteRange::new(16 * PAGE, 272 * PAGE), AccessKind::Map);
        assert_eq!(told(&mut resolver, Entry::Mapped(mapped, AT)), [(AccessKind::Map, 16, 272)]);
        resolver
    }

    /// Kinds and pages.
    fn told(resolver: &mut Resolver, entry: Entry) -> Vec<(AccessKind, u64, u64)> {
        let mut told = Vec::new();
        resolver.take(entry, &mut |seen| {
            let Seen::Access(access) = seen else { panic!("{seen:?}") };
            told.push((access.kind, access.range.start() / PAGE, access.range.end() / PAGE));
        });
        told
    }

    fn fault(address: u64, error: u64) -> Entry {
        Entry::PageFault(PageFault { by: BY, address, error })
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_fault_is_of_the_file_mapped_there() {
        let mut resolver = resolver();
        let touched = |start, end| vec![(AccessKind::Fault, start, end)];
        for (address, error, expected) in [
            (AT, 4, touched(16, 32)),
            (AT + 17 * PAGE + 5, 4, touched(32, 48)),
            (AT + 17 * PAGE + 5, 6, touched(33, 34)),
            (AT + 17 * PAGE + 5, 7, vec![]),
            (AT + (1 << 20) - 1, 4, touched(256, 272)),
            (AT + (1 << 20), 4, vec![]),
            (AT - 1, 4, vec![]),
        ] {
            assert_eq!(told(&mut resolver, fault(address, error)), expected, "{address:x} {error}");
        }
        let unmapped = Entry::Changed(BY, Changed::Unmapped(ByteRange::new(AT + PAGE, AT + PAGE + 1)));
        assert_eq!(told(&mut resolver, unmapped), [(AccessKind::Unmap, 17, 18)]);
        assert_eq!(told(&mut resolver, fault(AT + 2 * PAGE, 4)), touched(18, 34), "as long from its begin");
        let (from, to) = (ByteRange::new(AT, AT + PAGE), ByteRange::new(2 * AT, 2 * AT + 2 * PAGE));
        let remapped = Entry::Changed(BY, Changed::Remapped { from, to });
        assert_eq!(told(&mut resolver, remapped), [(AccessKind::Remap, 16, 18)]);
        assert_eq!(told(&mut resolver, fault(2 * AT + PAGE, 4)), touched(16, 18));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_fault_that_the_page_cache_tells_of_too_is_told_once() {
        let mut resolver = resolver();
        let seen = Entry::Access(access(BY, FILE, ByteRange::new(16 * PAGE, 32 * PAGE), AccessKind::Fault));
        assert_eq!(told(&mut resolver, fault(AT + PAGE, 4)).len(), 1);
        assert_eq!(told(&mut resolver, seen), []);
        assert_eq!(
            told(&mut resolver, seen).len(),
            1,
            "without a page fault before it, the kernel's own touch"
        );
        assert_eq!(told(&mut resolver, fault(AT + 100 * PAGE, 4)).len(), 1);
        assert_eq!(told(&mut resolver, seen).len(), 1, "of another page");
    }

    #[test]
    fn faults_of_other_files_are_left_to_the_page_cache() {
        let mut resolver = resolver();
        resolver.by_address.clear();
        assert_eq!(told(&mut resolver, fault(AT, 4)), []);
    }
}
