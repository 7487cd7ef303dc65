//! Whether somebody holds the readers of a file: a fanotify group with a mark on its inode that asks for permission
//! events, as a running agent has on its incomplete files.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;

use ossc_common::Inode;

use super::inode;

/// `FAN_ACCESS_PERM` and `FAN_PRE_ACCESS` (include/uapi/linux/fanotify.h).
const PERMISSIONS: u64 = 0x2_0000 | 0x10_0000;

/// The inodes of which a fanotify group of any process asks to permit reads. Processes whose
/// descriptors cannot be looked at are passed over.
#[derive(Debug, Default)]
pub struct Gates(HashSet<Inode>);

impl Gates {
    /// Looks for them in /proc.
    #[must_use]
    pub fn find() -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let descriptors = processes.filter(|entry| entry.file_name().to_str().is_some_and(is_number));
        let descriptors =
            descriptors.flat_map(|entry| fs::read_dir(entry.path().join("fd")).into_iter().flatten());
        let groups = descriptors.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| {
            fs::read_link(path).is_ok_and(|target| target.as_os_str() == "anon_inode:[fanotify]")
        });
        let marks = groups.flat_map(|path| {
            let about = path.to_string_lossy().replacen("/fd/", "/fdinfo/", 1);
            let text = fs::read_to_string(about).unwrap_or_default();
            text.lines().filter_map(mark).collect::<Vec<_>>()
        });
        Self(marks.collect())
    }

    /// Whether reads of any of these files may be held.
    #[must_use]
    pub fn hold_any(&self, files: &[impl AsFd]) -> bool {
        let is_held = |file: &dyn AsFd| inode::of(file.as_fd()).is_ok_and(|inode| self.0.contains(&inode));
        !self.0.is_empty() && files.iter().any(|file| is_held(file))
    }
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The inode of a line `fanotify ino:1f sdev:fe00001 mflags:0 mask:100000 ...`, numbers in hexadecimal
/// (`fanotify_fdinfo`, fs/notify/fdinfo.c), if its mask asks for permission events.
fn mark(line: &str) -> Option<Inode> {
    let rest = line.strip_prefix("fanotify ")?;
    let field = |name: &str| {
        let value = rest.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix(':'))?;
        u64::from_str_radix(value, 16).ok()
    };
    let inode = Inode::new(u32::try_from(field("sdev")?).ok()?, field("ino")?);
    (field("mask")? & PERMISSIONS != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_that_hold_readers_are_told_from_others() {
        let line = "fanotify ino:4f261 sdev:fe00000 mflags:40 mask:100000 ignored_mask:0 fhandle-bytes:8";
        assert_eq!(mark(line), Some(Inode::new(0xfe0_0000, 0x4f261)));
        assert_eq!(mark(&line.replace("mask:100000", "mask:3b")), None);
        assert_eq!(mark("fanotify mnt_id:12 mflags:0 mask:100000"), None, "no mark of an inode");
        assert_eq!(mark("fanotify flags:10 event-flags:0"), None);
        assert_eq!(mark("pos:\t0"), None);
    }
}
