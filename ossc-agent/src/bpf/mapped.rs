//! What processes have mapped already, from /proc/PID/maps, and which processes are to be asked.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ossc_common::Inode;

use super::inode::device_number;
use super::mappings::Mapping;
use super::processes;
use crate::base::{ByteRange, FileId};

/// The mappings that a process has of the files with these inodes. None of a process that has ended.
pub(super) fn mappings(process: u32, files: &HashMap<Inode, FileId>) -> Vec<Mapping> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    maps.lines().filter_map(|line| mapping(line, files)).collect()
}

/// A line is `START-END MODE OFFSET MAJOR:MINOR INODE PATH`, numbers but the inode's in hexadecimal
/// (proc_pid_maps(5)); the device is the super block's (`show_map_vma`, fs/proc/task_mmu.c).
fn mapping(line: &str, files: &HashMap<Inode, FileId>) -> Option<Mapping> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let offset = fields.nth(1)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let number = fields.next()?.parse().ok()?;
    let small = |text| u32::from_str_radix(text, 16).ok();
    let large = |text| u64::from_str_radix(text, 16).ok();
    let inode = Inode::new(device_number(small(major)?, small(minor)?)?, number);
    let memory = ByteRange::new(large(start)?, large(end)?);
    Some(Mapping { memory, file: *files.get(&inode)?, offset: large(offset)? })
}

/// Every process.
pub(super) fn everybody() -> io::Result<BTreeSet<u32>> {
    Ok(processes::parents()?.into_iter().map(|(process, _)| process).collect())
}

/// The processes of these cgroups and of those below; of one that cannot be looked at, none.
pub(super) fn members(cgroups: &[PathBuf]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    cgroups.iter().for_each(|cgroup| add_members(cgroup, &mut found));
    found
}

fn add_members(cgroup: &Path, found: &mut BTreeSet<u32>) {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    found.extend(processes.lines().filter_map(|line| line.parse::<u32>().ok()));
    let below = fs::read_dir(cgroup).into_iter().flatten().filter_map(Result::ok);
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        add_members(&entry.path(), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_a_mapping_of_a_watched_file() {
        let files = HashMap::from([(Inode::new(254 << 20 | 1, 77), FileId(3))]);
        let read = |line: &str| {
            mapping(line, &files).map(|mapping| (mapping.file.0, mapping.memory.start(), mapping.range()))
        };
        let expected = Some((3, 0x7f00_0000_0000, ByteRange::new(0x2000, 0x4000)));
        let line = "7f0000000000-7f0000002000 r--s 00002000 fe:01 77                  /models/a b.gguf";
        assert_eq!(read(line), expected);
        assert_eq!(read("7f0000000000-7f0000002000 r--s 00002000 fe:01 78 /other"), None);
        assert_eq!(read("7f0000000000-7f0000002000 rw-p 00000000 00:00 0"), None);
        assert_eq!(read("nonsense"), None);
    }

    #[test]
    fn everybody_is_also_ourselves() {
        assert!(everybody().unwrap().contains(&std::process::id()));
    }
}
