//! The reader is the witness of most other tests, so it is tried first: every kind passes over right files, and
//! reports a hole, on every file system.
//!
//! No agent takes part.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use e2e::content::{Content, Target};
use e2e::reader::{KINDS, Outcome, SAFETENSORS};
use e2e::scratch::{FileSystem, Scratch};

use crate::reading;

/// Not a multiple of the page size, so that every kind meets a short last page.
const SIZE: usize = (3 << 20) + 1234;
const LIMIT: Duration = Duration::from_secs(60);
const SEED: u64 = 5;

/// Writes the right bytes but for those of `hole`.
fn write_synthetic(path: &Path, hole: Range<usize>) -> anyhow::Result<()> {
    let file = File::create(path).context("create the file")?;
    file.set_len(SIZE as u64)?;
    for range in [0..hole.start, hole.end..SIZE] {
        let mut bytes = vec![0; range.len()];
        Content::Synthetic(SEED).fill(range.start as u64, &mut bytes)?;
        file.write_all_at(&bytes, range.start as u64)?;
    }
    Ok(())
}

fn kinds_tell_right_from_wrong(file_system: FileSystem) -> anyhow::Result<()> {
    let scratch = Scratch::mounted(file_system, 320 << 20)?;
    let directory = scratch.path();
    write_synthetic(&directory.join("right"), 0..0)?;
    // One page is missing, so that short reads find it as well as long ones: each kind is made to read there.
    let hole = 2 << 20;
    write_synthetic(&directory.join("hole"), hole..hole + 4096)?;
    let right = Target::new(directory.join("right"), Content::Synthetic(SEED));
    let holed = Target::new(directory.join("hole"), Content::Synthetic(SEED));
    let missing = Target::new(directory.join("missing"), Content::Synthetic(SEED));
    for kind in KINDS {
        let reading = reading(kind, directory).threads(2);
        let outcome = reading.clone().ops(20).run([&right], LIMIT)?;
        assert_eq!(outcome, Outcome::Right, "{kind}");
        if kind == "preadv2-nowait" {
            // It may only read what is cached, and a page of a hole never is until it was read.
            reading.clone().ops(1).at(hole as u64, 4096).run([&holed], LIMIT)?;
            std::fs::read(holed.path())?;
        }
        let outcome = reading.clone().ops(1).at(hole as u64 - 10, 4096).run([&holed], LIMIT)?;
        assert!(matches!(outcome, Outcome::WrongByte(_)), "{kind}: {outcome:?}");
        let outcome = reading.ops(1).run([&missing], LIMIT)?;
        assert!(matches!(outcome, Outcome::Errno(_)), "{kind}: {outcome:?}");
    }
    Ok(())
}

#[test]
fn on_ext4() -> anyhow::Result<()> {
    kinds_tell_right_from_wrong(FileSystem::Ext4)
}

#[test]
fn on_xfs() -> anyhow::Result<()> {
    kinds_tell_right_from_wrong(FileSystem::Xfs)
}

#[test]
fn on_btrfs() -> anyhow::Result<()> {
    kinds_tell_right_from_wrong(FileSystem::Btrfs)
}

#[test]
fn on_tmpfs() -> anyhow::Result<()> {
    kinds_tell_right_from_wrong(FileSystem::Tmpfs)
}

#[test]
fn errnos_are_passed_over_only_on_request() -> anyhow::Result<()> {
    let scratch = Scratch::directory()?;
    let missing = Target::new(scratch.path().join("missing"), Content::Synthetic(SEED));
    let reading = reading("pread", scratch.path());
    assert!(matches!(reading.run([&missing], LIMIT)?, Outcome::Errno(text) if text.contains("ENOENT")));
    assert_eq!(reading.any_errno().run([&missing], LIMIT)?, Outcome::Right);
    Ok(())
}

#[test]
fn safetensors_tell_right_from_wrong() -> anyhow::Result<()> {
    let scratch = Scratch::directory()?;
    let (reference, copy) = (scratch.path().join("reference"), scratch.path().join("copy"));
    let header = br#"{"a":{"dtype":"U8","shape":[4096],"data_offsets":[0,4096]}}"#;
    let mut file = File::create(&reference)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    file.write_all(&[7; 4096])?;
    std::fs::copy(&reference, &copy)?;
    let target = Target::new(copy.clone(), Content::Like(reference));
    let reading = reading(SAFETENSORS, scratch.path()).ops(2);
    assert_eq!(reading.run([&target], LIMIT)?, Outcome::Right);
    File::options().write(true).open(&copy)?.write_all_at(&[0], 8 + header.len() as u64 + 100)?;
    assert!(matches!(reading.run([&target], LIMIT)?, Outcome::WrongByte(_)));
    Ok(())
}
