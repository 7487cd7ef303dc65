//! What the kernel calls a file: the inode number and device that the programs will see.
//!
//! The device is not fstat's: btrfs shows user space a device per subvolume, while the inode's super block has
//! another one. The mount table prints the super block's (`show_mountinfo` in fs/proc_namespace.c).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::stat::{fstat, major, minor};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use ossc_common::Inode;

/// Bits of the minor number in the kernel's `dev_t` (MINORBITS in include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// The inode behind a descriptor.
pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Inode> {
    let about = fstat(file)?;
    let descriptor = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mount_of(&descriptor).ok_or_else(|| io::Error::other("/proc/self/fdinfo shows no mnt_id"))?;
    let device = match device_of(&mounts, mount) {
        Some(device) => Some(device),
        // Opened by an earlier agent in a mount namespace of its own, as a sandbox of systemd gives each start.
        None if fstatfs(file)?.filesystem_type() != BTRFS_SUPER_MAGIC => {
            device_number(small(major(about.st_dev))?, small(minor(about.st_dev))?)
        }
        None => None,
    };
    let device =
        device.ok_or_else(|| io::Error::other(format!("mount {mount} is not in /proc/self/mountinfo")))?;
    Ok(Inode::new(device, about.st_ino))
}

fn small(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(io::Error::other)
}

/// Whether reads of the file go through the generic page-cache functions that the probes see. Not so on tmpfs, which
/// has its own, nor for certain on a file system nobody has tried.
pub(super) fn is_read_through_page_cache(file: BorrowedFd<'_>) -> io::Result<bool> {
    const TRIED: [FsType; 3] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];
    Ok(TRIED.contains(&fstatfs(file)?.filesystem_type()))
}

/// Whether faults on the file are all told by the page cache's tracepoints. tmpfs has functions of its own, which tell
/// only of pages that are mapped with the one touched.
pub(super) fn faults_through_page_cache(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() != TMPFS_MAGIC)
}

/// The mount a descriptor was opened in, from its /proc/PID/fdinfo.
fn mount_of(fdinfo: &str) -> Option<&str> {
    fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim)
}

/// The device of a mount's super block, in the kernel's encoding. A line of the table is
/// `ID PARENT MAJOR:MINOR ...` (proc_pid_mountinfo(5)).
fn device_of(mountinfo: &str, mount: &str) -> Option<u32> {
    let fields = mountinfo.lines().map(|line| line.split(' '));
    let device =
        fields.into_iter().find_map(|mut line| (line.next() == Some(mount)).then(|| line.nth(1)))??;
    let (major, minor) = device.split_once(':')?;
    device_number(major.parse().ok()?, minor.parse().ok()?)
}

/// A device in the kernel's encoding.
pub(super) fn device_number(major: u32, minor: u32) -> Option<u32> {
    let fits = major < 1 << (u32::BITS - MINOR_BITS) && minor < 1 << MINOR_BITS;
    fits.then_some(major << MINOR_BITS | minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_gives_the_super_blocks_device() {
        let table =
            "21 1 254:0 / / rw - ext4 /dev/vda rw\n123 21 0:45 /a /a rw shared:1 - btrfs /dev/loop0 rw\n";
        assert_eq!(mount_of("pos:\t0\nflags:\t02100000\nmnt_id:\t123\nino:\t5\n"), Some("123"));
        assert_eq!(device_of(table, "21"), Some(254 << 20));
        assert_eq!(device_of(table, "123"), Some(45));
        assert_eq!(device_of(table, "12"), None, "not a prefix");
        assert_eq!(device_of("1 1 4096:0 / / rw", "1"), None, "more bits than the kernel has");
        assert_eq!(device_of("1 1 nonsense / / rw", "1"), None);
    }
}
