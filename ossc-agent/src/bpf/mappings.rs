//! Which bytes of which watched files are mapped where, in each process. Pure; the records of the programs keep it
//! current, and `/proc` tells what was mapped before.
//!
//! It is as good as what it is told: a process that maps by ways nobody watches (shmat(2), a child that shares its
//! parent's memory and changes it) may leave a stale mapping, which costs a wrong record at worst.

use std::collections::{BTreeMap, HashMap};

use crate::base::{ByteRange, FileId};

/// A stretch of a process's memory that shows a stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    /// From the first address to behind the last one.
    pub(super) memory: ByteRange,
    pub(super) file: FileId,
    /// Where in the file it begins.
    pub(super) offset: u64,
}

/// All processes' mappings of watched files, by process and first address.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    processes: HashMap<u32, BTreeMap<u64, Mapping>>,
}

impl Mapping {
    /// The file's bytes it shows.
    pub(super) fn range(&self) -> ByteRange {
        ByteRange::new(self.offset, self.offset.saturating_add(self.memory.len()))
    }

    /// The part of it within `memory`, which overlaps it.
    fn part(&self, memory: ByteRange) -> Self {
        let start = self.memory.start().max(memory.start());
        let end = self.memory.end().min(memory.end());
        let offset = self.offset.saturating_add(start - self.memory.start());
        Self { memory: ByteRange::new(start, end.max(start)), offset, ..*self }
    }
}

impl Mappings {
    /// A process maps a file, in place of what was mapped there.
    pub(super) fn map(&mut self, process: u32, mapping: Mapping) {
        if !mapping.memory.is_empty() {
            self.unmap(process, mapping.memory);
            self.processes.entry(process).or_default().insert(mapping.memory.start(), mapping);
        }
    }

    /// A process unmaps a range; what was mapped there.
    pub(super) fn unmap(&mut self, process: u32, memory: ByteRange) -> Vec<Mapping> {
        let Some(mappings) = self.processes.get_mut(&process) else { return Vec::new() };
        let parts = parts(mappings, memory);
        for part in &parts {
            let Some((_, whole)) = mappings.range(..=part.memory.start()).next_back() else { continue };
            let whole = *whole;
            mappings.remove(&whole.memory.start());
            let before = ByteRange::new(whole.memory.start(), part.memory.start());
            let behind = ByteRange::new(part.memory.end(), whole.memory.end());
            for left in [before, behind].into_iter().filter(|left| !left.is_empty()) {
                mappings.insert(left.start(), whole.part(left));
            }
        }
        if mappings.is_empty() {
            self.processes.remove(&process);
        }
        parts
    }

    /// A process moves, grows or shrinks what is mapped at `from`; what is mapped at `to` then. A `from` of no length
    /// is mapped a second time (mremap(2)).
    pub(super) fn remap(&mut self, process: u32, from: ByteRange, to: ByteRange) -> Vec<Mapping> {
        let mut parts = if from.is_empty() {
            let at = ByteRange::new(from.start(), from.start().saturating_add(to.len()));
            self.processes.get(&process).map(|mappings| parts(mappings, at)).unwrap_or_default()
        } else {
            self.unmap(process, from)
        };
        // What grows is the last one.
        if let Some(last) = parts.last_mut()
            && last.memory.end() == from.end()
        {
            last.memory = ByteRange::new(last.memory.start(), from.start().saturating_add(to.len()));
        }
        parts.retain(|part| part.memory.start() - from.start() < to.len());
        for part in &mut parts {
            let start = to.start() + (part.memory.start() - from.start());
            let end = start.saturating_add(part.memory.len()).min(to.end());
            part.memory = ByteRange::new(start, end);
            self.map(process, *part);
        }
        parts
    }

    /// A child begins with its parent's mappings.
    pub(super) fn fork(&mut self, parent: u32, child: u32) {
        if let Some(mappings) = self.processes.get(&parent).cloned() {
            self.processes.insert(child, mappings);
        }
    }

    /// A process has ended, or become another program.
    pub(super) fn end(&mut self, process: u32) {
        self.processes.remove(&process);
    }

    /// What is mapped at an address.
    pub(super) fn at(&self, process: u32, address: u64) -> Option<&Mapping> {
        let (_, mapping) = self.processes.get(&process)?.range(..=address).next_back()?;
        (address < mapping.memory.end()).then_some(mapping)
    }
}

/// The parts of mappings within a range, by address.
fn parts(mappings: &BTreeMap<u64, Mapping>, memory: ByteRange) -> Vec<Mapping> {
    let mut parts: Vec<_> = mappings
        .range(..memory.end())
        .rev()
        .take_while(|(_, mapping)| mapping.memory.end() > memory.start())
        .map(|(_, mapping)| mapping.part(memory))
        .collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory, file, offset.
    type Short = (u64, u64, u32, u64);

    fn mapping((start, end, file, offset): Short) -> Mapping {
        Mapping { memory: ByteRange::new(start, end), file: FileId(file), offset }
    }

    fn short(mapping: &Mapping) -> Short {
        (mapping.memory.start(), mapping.memory.end(), mapping.file.0, mapping.offset)
    }

    fn of(mapped: &[Short]) -> Mappings {
        let mut mappings = Mappings::default();
        mapped.iter().for_each(|&short| mappings.map(1, mapping(short)));
        mappings
    }

    fn all(mappings: &Mappings) -> Vec<Short> {
        mappings.processes.get(&1).into_iter().flat_map(BTreeMap::values).map(short).collect()
    }

    #[test]
    fn unmapping_takes_what_was_there_and_leaves_the_rest() {
        let mapped: &[Short] = &[(100, 200, 0, 1000), (200, 300, 1, 0), (400, 500, 0, 0)];
        for (start, end, taken, left) in [
            (0, 100, &[][..], mapped),
            (300, 400, &[], mapped),
            (0, 1000, mapped, &[]),
            (100, 200, &mapped[..1], &mapped[1..]),
            (
                140,
                150,
                &[(140, 150, 0, 1040)],
                &[(100, 140, 0, 1000), (150, 200, 0, 1050), (200, 300, 1, 0), (400, 500, 0, 0)],
            ),
            (
                190,
                410,
                &[(190, 200, 0, 1090), (200, 300, 1, 0), (400, 410, 0, 0)],
                &[(100, 190, 0, 1000), (410, 500, 0, 10)],
            ),
        ] {
            let mut mappings = of(mapped);
            let found: Vec<_> = mappings.unmap(1, ByteRange::new(start, end)).iter().map(short).collect();
            assert_eq!((&found[..], &all(&mappings)[..]), (taken, left), "{start}..{end}");
        }
    }

    #[test]
    fn a_mapping_over_another_one_replaces_it() {
        let mappings = of(&[(100, 200, 0, 0), (150, 160, 1, 7)]);
        assert_eq!(all(&mappings), [(100, 150, 0, 0), (150, 160, 1, 7), (160, 200, 0, 60)]);
    }

    #[test]
    fn remapping_moves_grows_and_shrinks() {
        for (from, to, then) in [
            ((100, 200), (100, 300), &[(100, 300, 0, 50)][..]),
            ((100, 200), (1000, 1300), &[(1000, 1300, 0, 50)]),
            ((100, 200), (100, 120), &[(100, 120, 0, 50)]),
            ((150, 200), (1000, 1010), &[(1000, 1010, 0, 100)]),
            ((100, 100), (1000, 1100), &[(1000, 1100, 0, 50)]),
            ((300, 400), (1000, 1100), &[]),
        ] {
            let mut mappings = of(&[(100, 200, 0, 50)]);
            let range = |(start, end)| ByteRange::new(start, end);
            let moved: Vec<_> = mappings.remap(1, range(from), range(to)).iter().map(short).collect();
            assert_eq!(moved, then, "{from:?} {to:?}");
            assert!(then.iter().all(|short| all(&mappings).contains(short)), "{mappings:?}");
        }
        let mut mappings = of(&[(100, 200, 0, 50)]);
        mappings.remap(1, ByteRange::new(150, 200), ByteRange::new(1000, 1010));
        assert_eq!(all(&mappings), [(100, 150, 0, 50), (1000, 1010, 0, 100)]);
    }

    #[test]
    fn a_child_has_its_own_copy_until_it_ends() {
        let mut mappings = of(&[(100, 200, 0, 0)]);
        mappings.fork(1, 2);
        mappings.fork(7, 8);
        assert_eq!(mappings.unmap(1, ByteRange::new(0, 1000)).len(), 1);
        let offset = |process, address| mappings.at(process, address).map(|mapping| mapping.range().start());
        assert_eq!(
            [offset(1, 100), offset(2, 99), offset(2, 100), offset(2, 199), offset(2, 200)],
            [None, None, Some(0), Some(0), None]
        );
        mappings.end(2);
        assert!(mappings.processes.is_empty());
    }
}
