//! Scratch directories: plain ones, and file systems of their own made on a sparse image.
//!
//! Driven by the tests, which keep a [`Scratch`] for as long as they use its path. Dropping it unmounts, detaches
//! the loop device and removes the image, whatever the outcome of the test was. Mounts are made in a mount
//! namespace of the test's thread, so even a killed test process leaves none behind: the kernel takes them down
//! with the last process of the namespace.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// A file system to test on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// On a loop device.
    Ext4,
    /// On a loop device.
    Xfs,
    /// On a loop device.
    Btrfs,
    /// In memory.
    Tmpfs,
    /// In memory, without a size limit; the agent does not support it.
    Ramfs,
}

impl FileSystem {
    /// Its name as mount(8) and mkfs take it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
            Self::Ramfs => "ramfs",
        }
    }

    fn needs_device(self) -> bool {
        matches!(self, Self::Ext4 | Self::Xfs | Self::Btrfs)
    }
}

/// A directory that removes itself, with a file system of its own where one was asked for.
#[derive(Debug)]
pub struct Scratch {
    /// Dropped before `directory`, which holds the mount point and the image.
    mount: Option<Mount>,
    directory: TempDir,
}

impl Scratch {
    /// A plain directory on the machine's own disk.
    pub fn directory() -> anyhow::Result<Self> {
        Ok(Self { mount: None, directory: temporary()? })
    }

    /// A plain directory below another one, on the same file system: many tests can share a mount.
    pub fn below(parent: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(parent).context("make a scratch directory")?;
        Ok(Self { mount: None, directory })
    }

    /// A new, empty file system of `bytes`.
    pub fn mounted(file_system: FileSystem, bytes: u64) -> anyhow::Result<Self> {
        own_mount_namespace()?;
        Self::make(temporary()?, file_system, bytes)
    }

    /// The same with its image in a directory of another file system.
    pub fn mounted_in(parent: &Path, file_system: FileSystem, bytes: u64) -> anyhow::Result<Self> {
        own_mount_namespace()?;
        let directory = tempfile::tempdir_in(parent).context("make a scratch directory")?;
        Self::make(directory, file_system, bytes)
    }

    /// The file system in an image that is there.
    pub fn of_image(image: &Path, file_system: FileSystem) -> anyhow::Result<Self> {
        own_mount_namespace()?;
        let directory = temporary()?;
        let point = directory.path().join("mnt");
        std::fs::create_dir(&point).context("make the mount point")?;
        // The kernel may still be busy with another file system of the same UUID.
        let options = if file_system == FileSystem::Xfs { "loop,nouuid" } else { "loop" };
        run(Command::new("mount").args(["-t", file_system.name(), "-o", options]).args([image, &point]))?;
        Ok(Self { mount: Some(Mount { point }), directory })
    }

    fn make(directory: TempDir, file_system: FileSystem, bytes: u64) -> anyhow::Result<Self> {
        let point = directory.path().join("mnt");
        std::fs::create_dir(&point).context("make the mount point")?;
        let name = file_system.name();
        let mut command = Command::new("mount");
        if file_system.needs_device() {
            let image = directory.path().join("image");
            File::create(&image).and_then(|file| file.set_len(bytes)).context("make the image")?;
            run(Command::new(format!("mkfs.{name}")).arg("-q").arg(&image))?;
            // mount(8) attaches the loop device with autoclear: it is detached at the last unmount.
            command.args(["-t", name, "-o", "loop"]).arg(&image);
        } else {
            command.args(["-t", name, "-o", &format!("size={bytes}"), name]);
        }
        run(command.arg(&point))?;
        Ok(Self { mount: Some(Mount { point }), directory })
    }

    /// The image, if it was made with one.
    #[must_use]
    pub fn image(&self) -> Option<PathBuf> {
        Some(self.directory.path().join("image")).filter(|image| image.is_file())
    }

    /// The loop device it is on, which stays as it is while this is open, also when nothing is mounted.
    pub fn device(&self) -> anyhow::Result<File> {
        let source = self.source()?;
        File::open(&source).with_context(|| format!("open {source}"))
    }

    /// Unmounts and mounts again from the same device; `device` must be open.
    pub fn mount_again(&self) -> anyhow::Result<()> {
        let source = self.source()?;
        run(Command::new("umount").arg(self.path()))?;
        run(Command::new("mount").arg(source).arg(self.path()))
    }

    fn source(&self) -> anyhow::Result<String> {
        let output = Command::new("findmnt").args(["-no", "SOURCE"]).arg(self.path()).output()?;
        let source = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(!source.is_empty(), "{} is no mount", self.path().display());
        Ok(source)
    }

    /// Where to put files: the mount point, or the plain directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount.as_ref().map_or(self.directory.path(), |mount| &mount.point)
    }
}

/// A mount that undoes itself.
#[derive(Debug)]
struct Mount {
    point: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, so that a file that some process still has open does not keep the mount: the kernel finishes the
        // work when it is closed.
        if let Err(errno) = umount2(&self.point, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {errno}", self.point.display());
        }
    }
}

/// Gives this thread, and all it starts, mounts that nobody else sees. The harness runs each test in a thread of
/// its own.
pub fn own_mount_namespace() -> anyhow::Result<()> {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if DONE.get() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace; the end-to-end tests need root")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make the mounts private")?;
    DONE.set(true);
    Ok(())
}

fn temporary() -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("ossc-e2e-").tempdir().context("make a scratch directory")
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("run {program}; `cargo xtask setup` installs what the tests need"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 320 MiB: xfsprogs refuses less than 300 MiB.
    const BYTES: u64 = 320 << 20;

    #[test]
    fn every_file_system_is_made_and_leaves_nothing() {
        for file_system in
            [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs, FileSystem::Tmpfs, FileSystem::Ramfs]
        {
            let scratch = Scratch::mounted(file_system, BYTES).unwrap();
            let path = scratch.path().to_owned();
            std::fs::write(path.join("file"), "content").unwrap();
            let mounts = || std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
            let line = format!("{} {} ", path.display(), file_system.name());
            assert!(mounts().contains(&line), "{line}");
            drop(scratch);
            assert!(!mounts().contains(&line) && !path.exists(), "{line}");
            let image = path.with_file_name("image").display().to_string();
            for device in std::fs::read_dir("/sys/block").unwrap() {
                let backing = device.unwrap().path().join("loop/backing_file");
                // A device may vanish between the listing and the reading.
                assert!(!std::fs::read_to_string(backing).unwrap_or_default().contains(&image));
            }
        }
    }

    #[test]
    fn a_failing_test_leaves_no_mount() {
        let path = std::thread::spawn(|| {
            let scratch = Scratch::mounted(FileSystem::Tmpfs, BYTES).unwrap();
            std::panic::panic_any(scratch.path().to_owned());
        });
        let path = path.join().unwrap_err().downcast::<PathBuf>().unwrap();
        assert!(!path.exists());
    }
}
