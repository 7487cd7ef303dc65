//! What complete files give back, and what the next start makes of an emptied one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::super::Freed;
use super::scratch::{B, KINDS, Kind, Scratch, blocks, complete, fill, ready_blocks_are_right};
use crate::base::FileId;

#[test]
fn an_emptied_file_has_nothing_ready_now_and_at_the_next_start() {
    for kind in KINDS {
        let scratch = Scratch::new(kind);
        let objects = [blocks("a", 3)];
        let store = scratch.open(&objects);
        store.publish(FileId(0)).unwrap();
        let file = &store.files()[0];
        assert_eq!(file.empty().unwrap(), Freed::NotNow, "not complete");
        fill(file);
        // Entries that a crash in the middle of sealing leaves: they would say that all is there.
        let journal = scratch.path(".ossc/ready").join(format!("{}.journal", file.hash()));
        let entries = fs::read(&journal).unwrap();
        file.seal().unwrap();
        fs::write(&journal, &entries).unwrap();

        let reader = fs::File::open(file.path()).unwrap();
        assert_eq!(file.empty().unwrap(), Freed::InUse);
        assert_eq!(file.release_cache().unwrap(), Freed::NotNow, "not on the disk for sure");
        assert!(file.is_complete() && file.ready().is_full() && ready_blocks_are_right(file));
        drop(reader);
        fs::write(&journal, &entries).unwrap();
        let copy = scratch.path("copy");
        fs::copy(file.path(), &copy).unwrap();

        let inode = file.inode();
        assert!(matches!(file.empty().unwrap(), Freed::Bytes(bytes) if bytes >= 3 * B));
        let meta = file.path().metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks(), meta.ino()), (file.object().size, 0, inode.ino));
        assert_eq!(meta.modified().unwrap(), file.object().modified);
        assert!(!file.is_complete() && file.ready().count() == 0);
        store.persist().unwrap();
        drop(store);

        // Without a keeper that held its readers it is hidden; nothing of it counts.
        let store = scratch.open(&objects);
        assert!(!scratch.path("a").exists());
        let file = &store.files()[0];
        assert_eq!((file.ready().count(), file.inode()), (0, inode));
        complete(file);
        store.publish(FileId(0)).unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), fs::read(&copy).unwrap());
    }
}

#[test]
fn the_page_cache_of_a_file_that_nobody_has_open_is_released() {
    let scratch = Scratch::new(Kind::Disk);
    let store = scratch.open(&[blocks("a", 3)]);
    store.publish(FileId(0)).unwrap();
    let file = &store.files()[0];
    complete(file);
    store.persist().unwrap();
    assert_eq!(file.memory(), Some(3 * B));
    let reader = fs::File::open(file.path()).unwrap();
    assert_eq!(file.release_cache().unwrap(), Freed::InUse);
    drop(reader);
    assert_eq!(file.release_cache().unwrap(), Freed::Bytes(3 * B));
    assert_eq!(file.memory(), Some(0));
    assert!(file.is_complete() && ready_blocks_are_right(file));
}
