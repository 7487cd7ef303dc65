//! Which instance of a device a file lies on.
//!
//! Bytes that were written but not synced are there for as long as this boot and this attachment of the
//! device last. A crash-consistent copy of the disk, attached in the same boot, has the same files with
//! holes where the unsynced bytes were; the kernel's disk sequence number tells the two apart. And a file system
//! that was shut down after an I/O error and then mounted again, from the same device in the same boot, has lost
//! what was not synced: the number of its directory in sysfs, which each mount makes anew, tells that.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// Device number and, where the kernel has them: the disk sequence number (Linux 5.17), which is never used twice
/// in a boot (Documentation/ABI/testing/sysfs-block, `diskseq`), and the number of this mount of the file system,
/// whatever the mount namespace it is seen from.
pub fn device_instance(file: &File) -> io::Result<String> {
    let dev = file.metadata()?.dev();
    let name = format!("{}:{}", major(dev), minor(dev));
    // Btrfs gives its files a number of no device; the mount table knows the disk.
    let disk = if major(dev) == 0 { mounted_disk(file)? } else { Some(dev) };
    let sequence = disk.and_then(disk_sequence).map(|sequence| format!(" disk {sequence}"));
    let mount = disk.and_then(mount_number).map(|number| format!(" mount {number}"));
    Ok(format!("{name}{}{}", sequence.unwrap_or_default(), mount.unwrap_or_default()))
}

/// The inode number of the file system's directory in sysfs: ext4, xfs and btrfs register one at the first mount
/// and remove it at the last unmount, and kernfs gives no number twice in a boot (`__kernfs_new_node` in
/// fs/kernfs/dir.c: cyclic, with a generation above).
fn mount_number(dev: u64) -> Option<u64> {
    let device = fs::canonicalize(format!("/sys/dev/block/{}:{}", major(dev), minor(dev))).ok()?;
    let name = device.file_name()?;
    // ext4_register_sysfs and xfs_mountfs name it after the device, btrfs after its UUID, with the devices in it.
    let by_device = ["/sys/fs/ext4", "/sys/fs/xfs"].map(|parent| Path::new(parent).join(name));
    let by_uuid = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all =
        by_device.into_iter().chain(by_uuid.filter(|path| path.join("devices").join(name).exists()));
    all.find_map(|path| Some(fs::metadata(path).ok()?.ino()))
}

/// The sequence number of a disk, or of the disk a partition is on.
fn disk_sequence(dev: u64) -> Option<String> {
    let sysfs = format!("/sys/dev/block/{}:{}", major(dev), minor(dev));
    let read = |path: String| fs::read_to_string(path).ok();
    let text = read(format!("{sysfs}/diskseq")).or_else(|| read(format!("{sysfs}/../diskseq")))?;
    Some(text.trim().to_owned())
}

/// The block device that the file's mount names as its source, if it is one.
fn mounted_disk(file: &File) -> io::Result<Option<u64>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let source = mount_id(&info).and_then(|id| mount_source(&table, id));
    let disk = source.and_then(|source| fs::metadata(source).ok()).map(|meta| meta.rdev());
    Ok(disk.filter(|dev| *dev != 0))
}

/// The mount id in a file of /proc/self/fdinfo (proc_pid_fdinfo(5)).
fn mount_id(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim)
}

/// The source of a mount in /proc/self/mountinfo (proc_pid_mountinfo(5)): behind ` - ` and the type.
fn mount_source<'t>(table: &'t str, id: &str) -> Option<&'t str> {
    let line = table.lines().find(|line| line.split(' ').next() == Some(id))?;
    line.split_once(" - ")?.1.split(' ').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_understood() {
        let table = "2 1 0:5 / /a rw - proc proc rw\n27 1 0:41 /s /m rw shared:1 - btrfs /dev/loop3 rw,x\n";
        assert_eq!(mount_source(table, "27"), Some("/dev/loop3"));
        assert_eq!(mount_source(table, "7"), None);
        assert_eq!(mount_source("27 garbage", "27"), None);
        assert_eq!(mount_id("pos:\t0\nflags:\t02\nmnt_id:\t27\nino:\t5\n"), Some("27"));
        assert_eq!(mount_id(""), None);
    }

    #[test]
    fn memory_has_no_disk() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let instance = device_instance(&file).unwrap();
        assert!(instance.starts_with("0:") && !instance.contains("disk"), "{instance}");
    }
}
