//! What needs a disk of its own: loop devices with ext4, xfs and btrfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::{Config, Error, Store};
use super::scratch::{BOOT, Mount, blocks, complete, fill_block, object, ready_blocks_are_right, version};
use crate::base::{FileId, Object};

/// A file system in an image file, mounted while this lives.
struct Disk {
    mounted: bool,
    dir: TempDir,
}

impl Disk {
    /// An empty one.
    fn new(file_system: &str) -> Self {
        Self::new_in(Path::new("/dev/shm"), file_system, &[])
    }

    /// An empty one whose image is below `parent`. xfs needs 300 MB, btrfs 110; the image is sparse.
    fn new_in(parent: &Path, file_system: &str, options: &[&str]) -> Self {
        let disk = Self { mounted: false, dir: tempfile::tempdir_in(parent).unwrap() };
        fs::File::create(disk.image()).unwrap().set_len(512 << 20).unwrap();
        run(Command::new(format!("mkfs.{file_system}")).arg("-q").args(options).arg(disk.image()));
        disk.mount("loop")
    }

    /// What a power loss would leave of it now, in the place of it. `store` is on it.
    fn lose_power(self, file_system: &str, store: Store) -> Self {
        let copy = Self { mounted: false, dir: tempfile::tempdir_in("/dev/shm").unwrap() };
        run(Command::new("cp").arg("--sparse=always").args([self.image(), copy.image()]));
        drop((store, self));
        // The kernel may still be busy with the other file system of the same UUID.
        copy.mount(if file_system == "xfs" { "loop,nouuid" } else { "loop" })
    }

    fn mount(mut self, options: &str) -> Self {
        fs::create_dir(self.root()).unwrap();
        run(Command::new("mount").args(["-o", options]).args([self.image(), self.root()]));
        self.mounted = true;
        self
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn open(&self, object: &Object) -> Store {
        let config = Config { model_dir: self.root().join("model"), block_size: None };
        Store::open_in_boot(&config, vec![object.clone()], BOOT).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily, so that a failed test with open files leaves nothing either.
            run(Command::new("umount").arg("--lazy").arg(self.root()));
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Unmounts what this test has no file open on any more. The child of another test has copies of all descriptors until its
/// exec, so that the file system can be busy a little longer.
fn unmount(root: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    let mut umount = Command::new("umount");
    umount.arg(root);
    while Instant::now() < until {
        if umount.output().unwrap().status.success() {
            return;
        }
    }
    run(&mut umount);
}

/// Whether a file has space for all its bytes.
fn is_allocated(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().unwrap();
    meta.blocks() * 512 >= meta.len()
}

#[test]
fn the_whole_life_of_a_file_on_each_file_system() {
    for file_system in ["ext4", "xfs", "btrfs"] {
        let disk = Disk::new(file_system);
        let old = blocks("d/a", 3);
        let store = disk.open(&old);
        store.publish(FileId(0)).unwrap();
        let path = store.files()[0].path().to_owned();
        assert!(is_allocated(&path), "{file_system}");
        fill_block(&store.files()[0], 1);
        store.retire().unwrap();
        drop(store);
        let store = disk.open(&old);
        assert_eq!(store.files()[0].ready().count(), 1, "{file_system}");
        store.publish(FileId(0)).unwrap();
        complete(&store.files()[0]);
        store.persist().unwrap();
        drop(store);
        let store = disk.open(&old);
        assert!(store.files()[0].is_complete(), "{file_system}");
        drop(store);
        let store = disk.open(&version(&old, "two"));
        store.publish(FileId(0)).unwrap();
        complete(&store.files()[0]);
        assert!(ready_blocks_are_right(&store.files()[0]));
        let modified = path.metadata().unwrap().modified().unwrap();
        assert_eq!(modified, old.modified, "{file_system}");
    }
}

#[test]
fn a_copy_of_the_disk_has_only_what_was_synced() {
    for file_system in ["ext4", "xfs", "btrfs"] {
        for synced in [false, true] {
            let disk = Disk::new(file_system);
            let object = blocks("a", 3);
            let store = disk.open(&object);
            store.publish(FileId(0)).unwrap();
            if synced {
                complete(&store.files()[0]);
                store.persist().unwrap();
            } else {
                fill_block(&store.files()[0], 0);
                store.persist().unwrap();
                // The names and ready files are on the disk, as they may be at any moment.
                run(Command::new("sync").arg("--file-system").arg(disk.root()));
                fill_block(&store.files()[0], 1);
            }
            let disk = disk.lose_power(file_system, store);
            let store = disk.open(&object);
            let file = &store.files()[0];
            assert_eq!((file.is_complete(), file.ready().is_full()), (synced, synced), "{file_system}");
            assert_eq!(file.path().exists(), synced, "{file_system}");
            assert!(synced || file.ready().count() == 0, "{file_system}");
            assert!(ready_blocks_are_right(file), "{file_system}");
        }
    }
}

/// A file system that shuts itself down after an error, and is mounted again from the same device in the same
/// boot, has lost what was not synced, while ready files and journal may have been written: no block counts.
#[test]
fn a_file_system_that_was_shut_down_and_mounted_again_has_only_what_was_synced() {
    for file_system in ["ext4", "xfs"] {
        for synced in [false, true] {
            let disk = Disk::new(file_system);
            let object = blocks("a", 3);
            let store = disk.open(&object);
            store.publish(FileId(0)).unwrap();
            if synced {
                complete(&store.files()[0]);
            } else {
                fill_block(&store.files()[0], 0);
            }
            store.persist().unwrap();
            let source = Command::new("findmnt").args(["-no", "SOURCE"]).arg(disk.root()).output().unwrap();
            let source = String::from_utf8(source.stdout).unwrap().trim().to_owned();
            // While it is open the loop device stays what it is.
            let device = fs::File::open(&source).unwrap();
            // With what the journal of the file system has; pages of files are lost.
            run(Command::new("xfs_io").args(["-x", "-c", "shutdown -f"]).arg(disk.root()));
            drop(store);
            unmount(&disk.root());
            run(Command::new("mount").arg(&source).arg(disk.root()));
            let store = disk.open(&object);
            let file = &store.files()[0];
            assert_eq!((file.is_complete(), file.path().exists()), (synced, synced), "{file_system}");
            assert!(synced || file.ready().count() == 0, "{file_system}");
            assert!(ready_blocks_are_right(file), "{file_system}");
            drop(device);
        }
    }
}

/// A small disk whose image cannot grow once `fill_up` was called: writes to new blocks fail.
struct FailingDisk {
    disk: Disk,
    limit: Mount,
    _backing: TempDir,
}

impl FailingDisk {
    fn new() -> Self {
        let backing = tempfile::tempdir_in("/dev/shm").unwrap();
        let limit = Mount::new(backing.path().join("limit"), "size=256m");
        // Without a journal, so that only the data is hit.
        let disk = Disk::new_in(&limit.0, "ext4", &["-O", "^has_journal"]);
        Self { disk, limit, _backing: backing }
    }

    fn config(&self) -> Config {
        Config { model_dir: self.disk.root().join("model"), block_size: None }
    }

    fn sync(&self) {
        // Fails where a write has failed; that is for the store to find.
        Command::new("sync").arg("--file-system").arg(self.disk.root()).output().unwrap();
    }

    fn fill_up(&self) {
        let full = fs::write(self.limit.0.join("filler"), vec![1; 256 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn empty(&self) {
        fs::remove_file(self.limit.0.join("filler")).unwrap();
    }
}

#[test]
fn bytes_that_the_disk_lost_are_not_complete() {
    // Both ways of syncing: a few files one by one, and many together.
    for files in [1u32, 100] {
        let failing = FailingDisk::new();
        let objects: Vec<Object> = (0..files).map(|n| object(&format!("{n:03}"), 1 << 20)).collect();
        let store = Store::open(&failing.config(), objects.clone()).unwrap();
        store.files().iter().for_each(|file| store.publish(file.id()).unwrap());
        store.files().iter().skip(1).for_each(|file| complete(file));
        failing.sync();
        failing.fill_up();

        let file = &store.files()[0];
        complete(file);
        let error = store.persist().unwrap_err();
        assert!(matches!(&error, Error::Lost { path, .. } if path == file.path()), "{error}");
        assert!(!file.is_complete() && file.ready().count() == 0 && !file.path().exists());
        assert!(store.files()[1..].iter().all(|file| file.is_complete() && file.path().exists()));
        drop(store);
        failing.empty();
        let store = Store::open(&failing.config(), objects).unwrap();
        assert_eq!(store.files()[0].ready().count(), 0);
        assert_eq!(store.report().complete.files, files - 1);
    }
}

#[test]
fn bytes_that_the_disk_lost_are_not_ready() {
    for (sealed, killed) in [(false, false), (false, true), (true, true)] {
        let failing = FailingDisk::new();
        let objects = [object("a", 1 << 20)];
        let mut store = Store::open(&failing.config(), objects.to_vec()).unwrap();
        store.publish(FileId(0)).unwrap();
        failing.sync();
        failing.fill_up();
        fill_block(&store.files()[0], 0);
        if sealed {
            store.files()[0].seal().unwrap();
        } else {
            store.persist().unwrap_or_else(|error| assert!(matches!(error, Error::Lost { .. }), "{error}"));
        }
        failing.sync();
        if killed {
            drop(store);
            store = Store::open(&failing.config(), objects.to_vec()).unwrap();
        } else {
            drop(store.persist());
        }
        let file = &store.files()[0];
        assert!(
            !file.is_complete() && file.ready().count() == 0 && !file.path().exists(),
            "{sealed} {killed}"
        );
    }
}
