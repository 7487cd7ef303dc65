//! From layout through crashes, restarts and reboots to completion and change.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::{Error, Report, Sealed, Store, Tally, hide_incomplete, recorded};
use super::scratch::{
    B, BOOT, KINDS, Kind, Scratch, blocks, complete, fill, fill_block, object, ready_blocks_are_right,
    version, whole,
};
use crate::base::{BlockIndex, BlockSize, ByteRange, FileId};

#[test]
fn files_are_hidden_until_published_and_right_from_then_on() {
    for kind in KINDS {
        let scratch = Scratch::new(kind);
        let objects = [object("sub/дир/a b+c.gguf", 3 * B + 7), object("empty", 0), object("dir/", 0)];
        let store = scratch.open(&objects);
        let names: Vec<_> = store.files().iter().map(|f| f.object().name.as_str()).collect();
        assert_eq!(names, ["empty", "sub/дир/a b+c.gguf"]);
        assert!(scratch.path("dir").is_dir());
        let (empty, file) = (&store.files()[0], &store.files()[1]);
        assert!(empty.is_complete() && empty.ready().covers(whole(empty)));
        assert!(!file.is_complete() && !file.path().exists());

        store.publish(FileId(0)).unwrap();
        store.publish(FileId(1)).unwrap();
        store.publish(FileId(1)).unwrap();
        for file in store.files() {
            let meta = file.path().metadata().unwrap();
            assert_eq!(meta.len(), file.object().size);
            assert_eq!(meta.mode() & 0o7777, 0o444);
            assert_eq!(meta.modified().unwrap(), file.object().modified);
            assert_eq!((meta.dev(), meta.ino()), (file.inode().dev, file.inode().ino));
            let allocated = if kind == Kind::Disk { file.object().size.next_multiple_of(4096) } else { 0 };
            assert_eq!(meta.blocks() * 512, allocated, "{kind:?}");
        }
        assert_eq!(scratch.path("sub/дир").metadata().unwrap().mode() & 0o7777, 0o755);
        assert_eq!(scratch.path(".ossc").metadata().unwrap().mode() & 0o7777, 0o700);

        complete(file);
        assert_eq!(file.path().metadata().unwrap().modified().unwrap(), file.object().modified);
        assert_eq!(fs::read(file.path()).unwrap().len() as u64, file.object().size);
        assert!(ready_blocks_are_right(file));
    }
}

#[test]
fn a_complete_file_is_used_again_without_io() {
    for kind in KINDS {
        let scratch = Scratch::new(kind);
        let objects = [blocks("a", 3), object("z", 0)];
        let store = scratch.open(&objects);
        store.publish(FileId(0)).unwrap();
        store.publish(FileId(1)).unwrap();
        complete(&store.files()[0]);
        let inode = store.files()[0].inode();
        // Killed: neither persist nor retire.
        drop(store);
        assert!(scratch.path("a").exists());
        let store = scratch.open(&objects);
        let file = &store.files()[0];
        assert!(file.is_complete() && file.ready().is_full() && file.path().exists());
        assert_eq!((file.inode(), file.seal().unwrap()), (inode, Sealed::Unverified));
        let complete = Tally { files: 2, bytes: objects[0].size };
        assert_eq!(*store.report(), Report { complete, ..Report::default() });
        store.retire().unwrap();
        assert!(file.path().exists());
        drop(store);
        assert_eq!(recorded(&scratch.config.model_dir).unwrap(), objects);
        // The same version uploaded again: only the time changes.
        let mut again = objects.to_vec();
        again[0].modified += std::time::Duration::from_secs(60);
        for _ in 0..2 {
            let store = scratch.open(&again);
            assert!(store.files()[0].is_complete());
            assert_eq!(scratch.path("a").metadata().unwrap().modified().unwrap(), again[0].modified);
        }
    }
}

#[test]
fn a_complete_file_keeps_its_block_size_and_an_incomplete_one_starts_again() {
    let mut scratch = Scratch::new(Kind::Tmpfs);
    let objects = [blocks("a", 3), blocks("b", 3)];
    let store = scratch.open(&objects);
    complete(&store.files()[0]);
    fill_block(&store.files()[1], 1);
    store.retire().unwrap();
    drop(store);
    scratch.config.block_size = Some(BlockSize::MAX);
    let store = scratch.open(&objects);
    assert!(store.files()[0].is_complete());
    assert_eq!(store.files()[0].layout().block_size(), BlockSize::MIN);
    assert_eq!(store.files()[1].layout().block_size(), BlockSize::MAX);
    assert_eq!(store.files()[1].ready().count(), 0);
}

#[test]
fn an_incomplete_file_is_hidden_after_stop_and_crash_and_goes_on() {
    for kind in KINDS {
        for clean in [true, false] {
            let scratch = Scratch::new(kind);
            let objects = [blocks("d/a", 4)];
            let store = scratch.open(&objects);
            store.publish(FileId(0)).unwrap();
            let file = store.files()[0].clone();
            fill_block(&file, 2);
            store.persist().unwrap();
            fill_block(&file, 0);
            if clean {
                store.retire().unwrap();
                assert!(!file.path().exists());
            }
            let inode = file.inode();
            drop((store, file));
            assert_eq!(scratch.path("d/a").exists(), !clean);

            let store = scratch.open(&objects);
            let file = &store.files()[0];
            assert!(!file.path().exists());
            assert_eq!(file.inode(), inode);
            assert!(ready_blocks_are_right(file));
            assert!(file.ready().is_ready(BlockIndex(0)), "known though it was not persisted");
            assert!(file.ready().is_ready(BlockIndex(2)) && !file.ready().is_full());
            assert_eq!(store.report().resumed, Tally { files: 1, bytes: 2 * B });
            store.publish(FileId(0)).unwrap();
            assert_eq!(file.path().metadata().unwrap().modified().unwrap(), objects[0].modified);
            complete(file);
            assert!(ready_blocks_are_right(file));
        }
    }
}

#[test]
fn after_a_reboot_only_synced_files_count() {
    let scratch = Scratch::new(Kind::Disk);
    let objects = [blocks("incomplete", 2), blocks("synced", 2), blocks("unsynced", 2)];
    let store = scratch.open(&objects);
    for file in store.files() {
        store.publish(file.id()).unwrap();
    }
    fill_block(&store.files()[0], 0);
    complete(&store.files()[1]);
    store.persist().unwrap();
    complete(&store.files()[2]);
    drop(store);
    let store = scratch.open_in("next boot", &objects);
    let complete: Vec<_> = store.files().iter().map(|file| file.is_complete()).collect();
    assert_eq!(complete, [false, true, false]);
    let visible: Vec<_> = store.files().iter().map(|file| file.path().exists()).collect();
    assert_eq!(visible, [false, true, false]);
    assert_eq!(store.files()[0].ready().count() + store.files()[2].ready().count(), 0);
}

#[test]
fn a_file_that_somebody_changed_is_not_believed() {
    type Change = fn(&Scratch);
    let changes: [(&str, Change); 5] = [
        ("written", |s| fs::write(s.path("a"), "x").unwrap()),
        ("touched", |s| {
            fs::File::options()
                .write(true)
                .open(s.path("a"))
                .unwrap()
                .set_modified(std::time::SystemTime::now())
                .unwrap();
        }),
        ("ready file cut", |s| cut_ready_files(s)),
        ("ready file lost", |s| {
            for entry in fs::read_dir(s.path(".ossc/ready")).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }),
        ("data lost", |s| fs::remove_file(s.path("a")).unwrap()),
    ];
    for (what, change) in changes {
        let scratch = Scratch::new(Kind::Disk);
        let objects = [blocks("a", 2)];
        let store = scratch.open(&objects);
        store.publish(FileId(0)).unwrap();
        complete(&store.files()[0]);
        store.retire().unwrap();
        drop(store);
        change(&scratch);
        let store = scratch.open(&objects);
        let file = &store.files()[0];
        assert!(!file.is_complete() && file.ready().count() == 0 && !file.path().exists(), "{what}");
        store.publish(FileId(0)).unwrap();
        complete(file);
        assert!(ready_blocks_are_right(file), "{what}");
    }
}

/// Leaves half of each ready file.
fn cut_ready_files(scratch: &Scratch) {
    for entry in fs::read_dir(scratch.path(".ossc/ready")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
}

#[test]
fn an_incomplete_file_is_known_as_ours_without_its_ready_file() {
    let scratch = Scratch::new(Kind::Disk);
    let objects = [blocks("a", 2)];
    let store = scratch.open(&objects);
    store.publish(FileId(0)).unwrap();
    fill_block(&store.files()[0], 1);
    drop(store);
    cut_ready_files(&scratch);
    let store = scratch.open(&objects);
    assert!(!scratch.path("a").exists() && store.files()[0].ready().count() == 0);
}

#[test]
fn a_changed_object_replaces_the_old_version_when_published() {
    for kind in KINDS {
        let scratch = Scratch::new(kind);
        let old = blocks("a", 2);
        let store = scratch.open(std::slice::from_ref(&old));
        store.publish(FileId(0)).unwrap();
        complete(&store.files()[0]);
        store.retire().unwrap();
        drop(store);
        let before = fs::read(scratch.path("a")).unwrap();
        let new = version(&old, "two");
        let store = scratch.open(std::slice::from_ref(&new));
        assert_eq!(store.report().replaced, ["a"]);
        assert_eq!(fs::read(scratch.path("a")).unwrap(), before, "the old version stays until publish");
        let mut reader = fs::File::open(scratch.path("a")).unwrap();
        store.publish(FileId(0)).unwrap();
        let file = &store.files()[0];
        assert_eq!(scratch.path("a").metadata().unwrap().ino(), file.inode().ino);
        complete(file);
        assert_ne!(fs::read(scratch.path("a")).unwrap(), before);
        let mut kept = Vec::new();
        reader.read_to_end(&mut kept).unwrap();
        assert!(kept == before, "its readers keep it");
        assert_eq!(fs::read_dir(scratch.path(".ossc/incoming")).unwrap().count(), 0);
    }
}

#[test]
fn an_incomplete_old_version_is_dropped() {
    for change in ["etag", "size"] {
        let scratch = Scratch::new(Kind::Tmpfs);
        let old = blocks("a", 2);
        let store = scratch.open(std::slice::from_ref(&old));
        store.publish(FileId(0)).unwrap();
        fill_block(&store.files()[0], 0);
        store.persist().unwrap();
        drop(store);
        let new = if change == "etag" { version(&old, "two") } else { blocks("a", 3) };
        let store = scratch.open(std::slice::from_ref(&new));
        assert_eq!(store.files()[0].ready().count(), 0, "{change}");
        assert_eq!(store.report().new, Tally { files: 1, bytes: new.size });
    }
}

#[test]
fn objects_that_are_gone_leave_their_complete_files_only() {
    let scratch = Scratch::new(Kind::Tmpfs);
    let objects = [blocks("a", 1), blocks("b", 2), blocks("c", 1)];
    let store = scratch.open(&objects);
    for file in store.files() {
        store.publish(file.id()).unwrap();
    }
    complete(&store.files()[0]);
    complete(&store.files()[2]);
    fill_block(&store.files()[1], 0);
    drop(store);
    for _ in 0..2 {
        let store = scratch.open(&objects[2..]);
        assert_eq!(store.report().gone, ["a"]);
        assert_eq!(store.files().len(), 1);
    }
    assert!(scratch.path("a").exists() && !scratch.path("b").exists() && scratch.path("c").exists());
    assert_eq!(fs::read_dir(scratch.path(".ossc/incoming")).unwrap().count(), 0);
    assert_eq!(recorded(&scratch.config.model_dir).unwrap(), objects[2..]);
    // It comes back.
    let store = scratch.open(&objects);
    assert_eq!(store.report().complete.files, 2);
    drop(store);
    assert_eq!(recorded(&scratch.config.model_dir).unwrap().len(), 3);
}

#[test]
fn a_wrong_checksum_is_found_and_the_blocks_can_be_fetched_again() {
    let scratch = Scratch::new(Kind::Tmpfs);
    let store = scratch.open(&[blocks("a", 3), blocks("b", 3)]);
    let (a, b) = (&store.files()[0], &store.files()[1]);
    fill(a);
    fill(b);
    let right = {
        let bytes = fs::read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&a.fd()))).unwrap();
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &bytes)
    };
    a.note_crc64(right);
    a.note_crc64(1);
    assert_eq!(a.seal().unwrap(), Sealed::Verified);
    assert_eq!(a.seal().unwrap(), Sealed::Verified);
    b.note_crc64(right);
    let Sealed::Mismatch { expected, found } = b.seal().unwrap() else { panic!("agreed") };
    assert!(expected == right && found != right && !b.is_complete());
    b.forget_blocks();
    assert_eq!(b.ready().count(), 0);
    assert!(!b.ready().covers(ByteRange::new(0, 1)));
    // A late reply of the same version does not touch a complete file.
    let before = a.path().metadata().map(|meta| meta.modified().unwrap()).ok();
    a.write_at(0, b"late").unwrap();
    assert!(ready_blocks_are_right(a));
    assert_eq!(a.path().metadata().map(|meta| meta.modified().unwrap()).ok(), before);
}

#[test]
fn symlinks_are_neither_followed_nor_replaced() {
    let scratch = Scratch::new(Kind::Disk);
    let outside = scratch.outer().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&scratch.config.model_dir).unwrap();
    symlink(&outside, scratch.path("d")).unwrap();
    let error = scratch.try_open(BOOT, &[blocks("d/a", 1)]).unwrap_err().to_string();
    assert!(error.contains("model/d\" is in the way: it is a symbolic link"), "{error}");
    fs::remove_file(scratch.path("d")).unwrap();

    let store = scratch.open(&[blocks("d/a", 1), blocks("e", 1)]);
    // Planted between layout and publish.
    fs::remove_dir(scratch.path("d")).unwrap();
    symlink(&outside, scratch.path("d")).unwrap();
    symlink(outside.join("f"), scratch.path("e")).unwrap();
    for file in store.files() {
        store.publish(file.id()).unwrap_err();
    }
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    assert!(scratch.path("e").is_symlink());
}

#[test]
fn what_is_recorded_during_commits_is_true() {
    let scratch = Scratch::new(Kind::Tmpfs);
    let objects = [blocks("a", 1024)];
    let store = scratch.open(&objects);
    let file = &store.files()[0];
    let crc = |block: u32| u64::from(block) + 1;
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (file, crc) = (file.clone(), &crc);
            scope.spawn(move || {
                (0..1024).filter(|b| b % 4 == part).for_each(|b| file.commit(BlockIndex(b), crc(b)));
            });
        }
        while !file.ready().is_full() {
            store.persist().unwrap();
            let records = super::super::state_dir::peek(
                &super::super::model_dir::ModelDir::open_existing(&scratch.config.model_dir).unwrap(),
            );
            let record = records.unwrap().by_hash.into_values().next().unwrap();
            assert!(record.ready_blocks().all(|(block, found)| found == crc(block.0)));
        }
    });
    store.persist().unwrap();
    drop(store);
    assert!(scratch.open(&objects).files()[0].ready().is_full(), "the last commit is not forgotten");
}

#[test]
fn ten_thousand_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let scratch = Scratch::new(Kind::Tmpfs);
    let objects: Vec<_> = (0..10_000).map(|n| object(&format!("{}/{n}", n % 100), n)).collect();
    let store = scratch.open(&objects);
    assert_eq!(store.files().len(), objects.len());
    for file in store.files() {
        store.publish(file.id()).unwrap();
    }
    store.files().iter().take(5000).for_each(|file| complete(file));
    drop(store);
    let store = scratch.open(&objects);
    let tallies = (store.report().complete.files, store.report().resumed.files);
    assert_eq!(tallies, (5000, 5000));
}

#[test]
fn files_whose_readers_were_held_stay_visible_and_are_used_as_they_were_open() {
    for kind in KINDS {
        let scratch = Scratch::new(kind);
        let objects = [blocks("a", 3), blocks("b", 3), blocks("c", 3), blocks("d", 3)];
        let store = scratch.open(&objects);
        for file in &store.files()[..3] {
            store.publish(file.id()).unwrap();
            fill_block(file, 1);
        }
        complete(&store.files()[2]);
        let inodes: Vec<_> = store.files().iter().map(|file| file.inode()).collect();
        let held = || store.files().iter().map(|file| file.fd().try_clone_to_owned().unwrap()).collect();
        let (kept, changed): (Vec<_>, Vec<_>) = (held(), held());
        drop(store);

        let store = scratch.take_over(&objects, kept);
        let visible: Vec<_> = store.files().iter().map(|file| file.path().exists()).collect();
        assert_eq!(visible, [true, true, true, false], "{kind:?}");
        assert_eq!(store.files().iter().map(|file| file.inode()).collect::<Vec<_>>(), inodes);
        assert_eq!(store.report().resumed, Tally { files: 3, bytes: 2 * B });
        assert!(store.files()[2].is_complete());
        complete(&store.files()[0]);
        assert!(ready_blocks_are_right(&store.files()[0]));
        drop(store);

        // What cannot be resumed is not left where readers come.
        let new_version = [version(&objects[0], "two"), version(&objects[1], "two")];
        let store = scratch.take_over(&new_version, changed);
        assert!(scratch.path("a").exists(), "the complete old version stays until the new one is published");
        assert!(!scratch.path("b").exists());
        assert!(
            store.files().iter().all(|file| !inodes.contains(&file.inode()) && file.ready().count() == 0)
        );
    }
}

#[test]
fn a_dead_agents_incomplete_files_can_be_hidden_by_another_process() {
    let scratch = Scratch::new(Kind::Disk);
    let objects = [blocks("d/a", 2), blocks("b", 2)];
    let store = Store::open(&scratch.config, objects.to_vec()).unwrap();
    for file in store.files() {
        store.publish(file.id()).unwrap();
    }
    complete(&store.files()[1]);
    let busy = hide_incomplete(&scratch.config.model_dir, Duration::ZERO);
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    drop(store);
    hide_incomplete(&scratch.config.model_dir, Duration::ZERO).unwrap();
    assert_eq!((scratch.path("d/a").exists(), scratch.path("b").exists()), (true, false));
    for gone in ["", "d"] {
        hide_incomplete(&scratch.outer().join(gone).join("elsewhere"), Duration::ZERO).unwrap();
    }
    fs::create_dir(scratch.outer().join("empty")).unwrap();
    hide_incomplete(&scratch.outer().join("empty"), Duration::ZERO).unwrap();
    assert_eq!(fs::read_dir(scratch.outer().join("empty")).unwrap().count(), 0, "nothing is made there");
}
