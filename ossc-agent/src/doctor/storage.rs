//! The model directory: its file system, and whether the model fits.

use std::fs::File;
use std::path::Path;

use super::report::Check;
use crate::base::{Bytes, Object};
use crate::store;
use crate::sys::file::{FileSystem, Space};

/// Free space that a file system should keep: below 1/50 many slow down.
const RESERVE_SHARE: u64 = 50;

/// `model_dir` as configured; `dir` is it, or the one in which it will be made.
pub(super) fn checks(model_dir: &Path, dir: &Path, objects: Option<&[Object]>) -> Vec<Check> {
    let opened = match File::open(dir) {
        Ok(opened) => opened,
        Err(error) => {
            let advice = "give a directory that root can read with --model-dir";
            return vec![Check::fail("model directory", format!("{}: {error}", dir.display()), advice)];
        }
    };
    let mut checks = vec![place(model_dir, dir), file_system(&opened)];
    if let Some(objects) = objects {
        checks.push(match Space::of(&opened) {
            Ok(space) => room(space, missing(model_dir, objects)),
            Err(error) => Check::fail("free space", format!("statvfs(3): {error}"), "check the mount"),
        });
    }
    checks
}

fn place(model_dir: &Path, dir: &Path) -> Check {
    let absolute = std::path::absolute(model_dir).unwrap_or_else(|_| model_dir.to_owned());
    if absolute == dir {
        Check::ok("model directory", absolute.display().to_string())
    } else {
        Check::ok("model directory", format!("{}, to be made", absolute.display()))
    }
}

fn file_system(opened: &File) -> Check {
    match FileSystem::of(opened) {
        Ok(FileSystem::Other(found)) => Check::fail(
            "file system",
            found.to_owned(),
            "put the model on ext4, xfs, btrfs or tmpfs: others cannot hold readers, or lie across a network",
        ),
        Ok(kind) if kind.is_disk() => Check::ok("file system", kind.name()),
        Ok(kind) => Check::ok(
            "file system",
            format!("{}: the model takes memory, and is gone after a reboot", kind.name()),
        ),
        Err(error) => Check::fail("file system", format!("statfs(2): {error}"), "check the mount"),
    }
}

/// Bytes of the model that an earlier load has not brought. Files that are complete are on record.
fn missing(model_dir: &Path, objects: &[Object]) -> u64 {
    let recorded = store::recorded(model_dir).unwrap_or_default();
    let is_there = |object: &&Object| {
        recorded.iter().any(|known| known.key == object.key && known.etag == object.etag)
            && model_dir.join(&object.name).is_file()
    };
    let all: u64 = objects.iter().map(|object| object.size).sum();
    let there: u64 = objects.iter().filter(is_there).map(|object| object.size).sum();
    all.saturating_sub(there)
}

fn room(space: Space, missing: u64) -> Check {
    let Some(free) = space.bytes else { return Check::ok("free space", "the file system names no limit") };
    let seen = format!("{} free, {} to come", Bytes(free), Bytes(missing));
    if free < missing {
        let more = Bytes(missing - free);
        return Check::fail(
            "free space",
            seen,
            format!("free {more} or more, or choose another file system"),
        );
    }
    if free - missing < missing / RESERVE_SHARE {
        return Check::warn("free space", seen, "it will be nearly full, which slows file systems down");
    }
    Check::ok("free space", seen)
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_model_that_does_not_fit_fails() {
        let space = |bytes| Space { bytes: Some(bytes), inodes: None };
        for (free, missing, verdict) in [
            (1000, 1001, Verdict::Fail),
            (1000, 1000, Verdict::Warn),
            (2000, 1000, Verdict::Ok),
            (0, 0, Verdict::Ok),
        ] {
            assert_eq!(room(space(free), missing).verdict, verdict, "{free} {missing}");
        }
        assert_eq!(room(Space { bytes: None, inodes: None }, 1).verdict, Verdict::Ok);
    }

    #[test]
    fn memory_is_known_for_what_it_is() {
        let check = file_system(&File::open("/dev/shm").unwrap());
        assert!(check.seen.starts_with("tmpfs"), "{}", check.seen);
        assert_eq!(file_system(&File::open("/proc").unwrap()).verdict, Verdict::Fail);
    }
}
