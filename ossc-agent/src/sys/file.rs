//! Files as the store needs them: opening that cannot leave a directory, what the file system is and
//! holds, preallocation, and the mark that says a file is the agent's own.
//!
//! Driven by `store`. Everything returns the kernel's error as it came; the store adds which file and
//! what to do. Nothing here decides anything.

mod device;
mod room;

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, OpenHow, ResolveFlag, fallocate, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{self, FsType};

pub use device::device_instance;
pub use room::{cached_bytes, drop_cache, punch};

/// Extended attribute on every file the agent makes. Only CAP_SYS_ADMIN may set or see the `trusted`
/// namespace (xattr(7)), so that no reader can pass its own file off as ours.
const OWNER_MARK: &CStr = c"trusted.ossc";
/// No mark we write is longer.
const OWNER_MARK_MAX: usize = 64;
/// Changes at each boot (random(4)).
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// st_blocks counts these, whatever the file system's own block is (stat(3type)).
const STAT_BLOCK_BYTES: u64 = 512;

/// The file systems the store is tested on, and any other by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 and ext4 share one magic number.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// tmpfs: data lives in memory and is gone after a reboot.
    Tmpfs,
    /// One that the store does not use.
    Other(&'static str),
}

/// Magic numbers of statfs(2) and include/uapi/linux/magic.h for clear refusals; nix lacks some.
const OTHERS: [(FsType, &str); 14] = [
    (statfs::OVERLAYFS_SUPER_MAGIC, "overlayfs"),
    (statfs::NFS_SUPER_MAGIC, "nfs"),
    (statfs::FUSE_SUPER_MAGIC, "fuse"),
    (statfs::MSDOS_SUPER_MAGIC, "vfat"),
    (statfs::PROC_SUPER_MAGIC, "proc"),
    (statfs::SYSFS_MAGIC, "sysfs"),
    (statfs::F2FS_SUPER_MAGIC, "f2fs"),
    (statfs::HUGETLBFS_MAGIC, "hugetlbfs"),
    (statfs::ISOFS_SUPER_MAGIC, "iso9660"),
    (statfs::SMB_SUPER_MAGIC, "smb"),
    (FsType(0xff53_4d42), "cifs"),
    (FsType(0x00c3_6400), "ceph"),
    (FsType(0x2fc1_2fc1), "zfs"),
    (FsType(0x8584_58f6), "ramfs"),
];

impl FileSystem {
    /// The file system an open file is on (fstatfs(2)).
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let kind = statfs::fstatfs(fd)?.filesystem_type();
        Ok(match kind {
            statfs::EXT4_SUPER_MAGIC => Self::Ext4,
            statfs::XFS_SUPER_MAGIC => Self::Xfs,
            statfs::BTRFS_SUPER_MAGIC => Self::Btrfs,
            statfs::TMPFS_MAGIC => Self::Tmpfs,
            _ => Self::Other(
                OTHERS.iter().find(|(magic, _)| *magic == kind).map_or("unknown", |(_, name)| name),
            ),
        })
    }

    /// Its name as mount(8) shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
            Self::Other(name) => name,
        }
    }

    /// Whether data is on a disk: preallocated, and there after a reboot.
    #[must_use]
    pub fn is_disk(self) -> bool {
        matches!(self, Self::Ext4 | Self::Xfs | Self::Btrfs)
    }
}

/// What is left on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that unprivileged programs could still write; `None` for a tmpfs without a limit.
    pub bytes: Option<u64>,
    /// Files that could still be created; `None` where the file system has no such limit (btrfs).
    pub inodes: Option<u64>,
}

impl Space {
    /// Asks the file system an open file is on (fstatfs(2)).
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let facts = statfs::fstatfs(fd)?;
        let unit = u64::try_from(facts.block_size()).unwrap_or(0);
        Ok(Self {
            bytes: (facts.blocks() > 0).then(|| facts.blocks_available().saturating_mul(unit)),
            inodes: (facts.files() > 0).then(|| facts.files_free()),
        })
    }
}

/// What stat(2) says about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that have blocks on the file system.
    pub allocated: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Last change of the contents.
    pub modified: SystemTime,
    /// Creation of the inode, which nobody can set; `None` where the file system does not record it.
    pub born: Option<SystemTime>,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a directory.
    pub is_dir: bool,
}

impl Facts {
    /// Asks about an open file; an `O_PATH` descriptor will do.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            allocated: meta.blocks().saturating_mul(STAT_BLOCK_BYTES),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            modified: meta.modified()?,
            born: meta.created().ok(),
            is_file: meta.is_file(),
            is_dir: meta.is_dir(),
        })
    }
}

/// Opens `path` below `dir` and nowhere else: no symlink is followed, no `..` climbs out, no mount is
/// crossed (openat2(2), Linux 5.6). Always close-on-exec.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    // The kernel refuses a mode when nothing is created.
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
    Ok(File::from(openat2(dir, path, how)?))
}

/// Reserves space for the first `bytes` of a file. `false` when the file system cannot; the file is
/// sparse then.
pub fn preallocate(file: &File, bytes: u64) -> io::Result<bool> {
    let len = i64::try_from(bytes).map_err(|_| Errno::EFBIG)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reports an error of writing any byte of this file to disk since it was opened or last asked, or since
/// before if nobody was told. Waits only for its first page, where fsync(2) would wait for all and flush
/// the disk's cache: file_fdatawait_range() in mm/filemap.c checks the whole file whatever the range.
pub fn check_writeback(file: &File) -> io::Result<()> {
    // SAFETY: plain numbers and a descriptor that `file` keeps open; no memory is touched.
    let outcome = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE) };
    Errno::result(outcome)?;
    Ok(())
}

/// Writes the owner mark on a file.
pub fn set_owner_mark(file: &File, value: &[u8]) -> io::Result<()> {
    // SAFETY: the name is NUL-terminated, and `value` is valid for the length passed with it.
    let outcome = unsafe {
        libc::fsetxattr(file.as_raw_fd(), OWNER_MARK.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(outcome)?;
    Ok(())
}

/// Reads the owner mark of a file; `None` when it has none, or one too long to be ours. An `O_PATH`
/// descriptor will do, so that looking at a file never opens it and no fanotify watch sees it.
pub fn owner_mark(file: &impl AsFd) -> io::Result<Option<Vec<u8>>> {
    // getxattr on the magic link reaches the inode itself (open(2), O_PATH).
    let link = CString::new(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))?;
    let mut value = [0u8; OWNER_MARK_MAX];
    // SAFETY: both names are NUL-terminated, and the kernel writes at most `value.len()` bytes.
    let outcome =
        unsafe { libc::getxattr(link.as_ptr(), OWNER_MARK.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match Errno::result(outcome) {
        Ok(len) => Ok(value.get(..len.unsigned_abs()).map(<[u8]>::to_vec)),
        Err(Errno::ENODATA | Errno::ERANGE | Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The random id of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn file_systems_are_told_apart() {
        for (path, name, is_disk) in
            [("/dev/shm", "tmpfs", false), ("/proc", "proc", false), ("/sys", "sysfs", false)]
        {
            let found = FileSystem::of(File::open(path).unwrap()).unwrap();
            assert_eq!((found.name(), found.is_disk()), (name, is_disk));
        }
    }

    #[test]
    fn opening_stays_below() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(outer.path().join("secret"), "x").unwrap();
        symlink("../secret", inner.join("link")).unwrap();
        symlink("..", inner.join("up")).unwrap();
        let dir = File::open(&inner).unwrap();
        let open = |path: &str| {
            let outcome = open_beneath(dir.as_fd(), Path::new(path), OFlag::O_RDONLY, Mode::empty());
            outcome.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
        };
        for (path, error) in [
            ("../secret", Some(Errno::EXDEV)),
            ("/etc/passwd", Some(Errno::EXDEV)),
            ("link", Some(Errno::ELOOP)),
            ("up/secret", Some(Errno::ELOOP)),
            ("none", Some(Errno::ENOENT)),
            (".", None),
        ] {
            assert_eq!(open(path), error, "{path}");
        }
    }

    #[test]
    fn the_owner_mark_is_read_without_opening() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let dir = File::open("/dev/shm").unwrap();
        let look = || {
            let name = Path::new(file.path().file_name().unwrap());
            open_beneath(dir.as_fd(), name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()).unwrap()
        };
        assert_eq!(owner_mark(&look()).unwrap(), None);
        set_owner_mark(file.as_file(), b"mine").unwrap();
        assert_eq!(owner_mark(&look()).unwrap(), Some(b"mine".to_vec()));
        set_owner_mark(file.as_file(), &[1; OWNER_MARK_MAX + 1]).unwrap();
        assert_eq!(owner_mark(&look()).unwrap(), None);
    }
}
