//! Every refusal: its words, and that it leaves everything as it was.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::super::{Config, Error, Store, recorded};
use super::scratch::{B, BOOT, KINDS, Kind, Mount, Scratch, blocks, complete, fill_block, object, version};
use crate::base::{FileId, Object};

/// Opens, expects this message, and that nothing on disk changed.
#[track_caller]
fn refused(scratch: &Scratch, objects: &[Object], message: &str) -> Error {
    let before = scratch.listing();
    let error = scratch.try_open(BOOT, objects).unwrap_err();
    assert_eq!(scratch.listing(), before);
    let text = error.to_string().replace(&scratch.outer().display().to_string(), "OUTER");
    assert_eq!(text, message);
    error
}

#[test]
fn names() {
    let scratch = Scratch::new(Kind::Disk);
    for (name, problem) in [
        ("../x", "its name has a component '.' or '..'"),
        ("/x", "its name begins with '/'"),
        ("a//x", "its name has an empty component ('//')"),
        ("a\0", "its name contains a NUL byte"),
        (".ossc/lock", "names that begin with '.ossc' are for the state of ossc-agent"),
    ] {
        let objects = [blocks("good/file", 1), object(name, 5)];
        let message = format!(
            "object {:?} cannot be a file below the model directory: {problem}; \
             rename it in OSS or choose an OSS path without it",
            objects[1].key
        );
        refused(&scratch, &objects, &message);
    }
    refused(
        &scratch,
        &[object("a", 1), object("a/b", 1)],
        "objects \"models/q/a\" and \"models/q/a/b\" cannot both be laid out: a path is either a file or a \
         directory, and only once; rename one in OSS",
    );
    refused(
        &scratch,
        &[object("a", u64::MAX)],
        "object \"models/q/a\" of 18446744073709551615 bytes is larger than a file can be",
    );
}

#[test]
fn unsupported_file_system() {
    let config = Config { model_dir: PathBuf::from("/proc"), block_size: None };
    let error = Store::open(&config, vec![blocks("a", 1)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model directory \"/proc\" is on proc, which ossc does not support; \
         use a directory on ext4, xfs, btrfs or tmpfs"
    );
}

#[test]
fn no_space() {
    let scratch = Scratch::new(Kind::Disk);
    let error = scratch.try_open(BOOT, &[object("a", 1), object("d/b", 40 << 40)]).unwrap_err();
    assert!(matches!(error, Error::Space { .. }), "{error}");
    assert_eq!(error.errno(), Errno::ENOSPC);
    assert!(scratch.listing().is_empty(), "the model directory is taken back, too");

    let mut scratch = Scratch::new(Kind::Tmpfs);
    let _small = Mount::new(scratch.path(""), "size=8m,nr_inodes=20");
    scratch.config.model_dir = scratch.path("m");
    refused(
        &scratch,
        &[blocks("a", 4)],
        "not enough space for the model in \"OUTER/model/m\": 9.0 MiB more needed, 8.0 MiB free; free some \
         space or use another model directory",
    );
    let many: Vec<_> = (0..8).map(|n| object(&n.to_string(), 0)).collect();
    refused(
        &scratch,
        &many,
        "not enough inodes for the model in \"OUTER/model/m\": 17 more needed, 14 free; remove some files or \
         use another model directory",
    );
    // What is there already needs no space again.
    let objects = [blocks("a", 3)];
    let store = scratch.open(&objects);
    complete(&store.files()[0]);
    drop(store);
    assert!(scratch.open(&objects).files()[0].is_complete());
}

#[test]
fn space_that_disappears_later_is_an_error_of_the_write() {
    let scratch = Scratch::new(Kind::Tmpfs);
    let _small = Mount::new(scratch.path(""), "size=8m");
    let store = scratch.open(&[blocks("a", 3)]);
    fs::write(scratch.path("other"), vec![1; 7 << 20]).unwrap();
    let error = store.files()[0].write_at(0, &vec![1; 2 << 20]).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot write {:?} at byte 0", store.files()[0].path()));
    assert_eq!((error.errno(), error.is_retryable()), (Errno::ENOSPC, false));
}

#[test]
fn read_only_file_system() {
    let scratch = Scratch::new(Kind::Tmpfs);
    let small = Mount::new(scratch.path(""), "size=8m");
    mount(None::<&str>, &small.0, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
        .unwrap();
    let error = refused(&scratch, &[blocks("a", 1)], "cannot create directory \"OUTER/model/.ossc\"");
    assert_eq!(error.errno(), Errno::EROFS);
}

#[test]
fn model_directory_is_a_file() {
    let scratch = Scratch::new(Kind::Disk);
    fs::write(&scratch.config.model_dir, "x").unwrap();
    let error = refused(&scratch, &[blocks("a", 1)], "cannot open \"OUTER/model\"");
    assert_eq!(error.errno(), Errno::ENOTDIR);
}

#[test]
fn in_use() {
    let scratch = Scratch::new(Kind::Disk);
    let store = scratch.open(&[]);
    let message = format!(
        "model directory \"OUTER/model\" is in use by another ossc-agent (pid {}); stop it or use another \
         model directory",
        std::process::id()
    );
    refused(&scratch, &[blocks("a", 1)], &message);
    drop(store);
    drop(scratch.open(&[blocks("a", 1)]));
}

#[test]
fn something_in_the_way() {
    type Plant = fn(&Path);
    let cases: [(&str, Plant, &str); 4] = [
        ("a", |p| fs::write(p, "mine").unwrap(), "model/a\" is in the way: it is a file"),
        ("a", |p| fs::create_dir(p).unwrap(), "model/a\" is in the way: it is a directory"),
        (
            "a",
            |p| std::os::unix::fs::symlink("x", p).unwrap(),
            "model/a\" is in the way: it is neither a file nor a directory",
        ),
        (
            "b",
            |p| fs::write(p, "mine").unwrap(),
            "model/b\" is in the way: it is a file where a directory is needed",
        ),
    ];
    for (name, plant, message) in cases {
        let scratch = Scratch::new(Kind::Disk);
        fs::create_dir(&scratch.config.model_dir).unwrap();
        plant(&scratch.path(name));
        let message = format!(
            "\"OUTER/{message} and not made by ossc-agent; move it away or use another model directory"
        );
        refused(&scratch, &[blocks("a", 1), blocks("b/c", 1)], &message);
    }
    let scratch = Scratch::new(Kind::Disk);
    fs::create_dir(&scratch.config.model_dir).unwrap();
    fs::write(scratch.path("d"), "mine").unwrap();
    refused(
        &scratch,
        &[object("d/", 0)],
        "\"OUTER/model/d\" is in the way: it is a file and not made by ossc-agent; move it away or use \
         another model directory",
    );
}

#[test]
fn a_copy_of_our_file_is_somebody_elses() {
    let scratch = Scratch::new(Kind::Disk);
    let objects = [blocks("a", 1)];
    let store = scratch.open(&objects);
    store.publish(FileId(0)).unwrap();
    complete(&store.files()[0]);
    drop(store);
    let (from, to) = (scratch.path("a"), scratch.path("copy"));
    let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status().unwrap();
    assert!(copied.success());
    fs::rename(to, from).unwrap();
    let error = scratch.try_open(BOOT, &objects).unwrap_err();
    assert!(matches!(error, Error::InTheWay { .. }), "{error}");
}

#[test]
fn a_strangers_file_that_appears_late_stays() {
    for kind in KINDS {
        let scratch = Scratch::new(kind);
        let old = blocks("a", 1);
        let store = scratch.open(std::slice::from_ref(&old));
        fs::write(scratch.path("a"), "mine").unwrap();
        store.publish(FileId(0)).unwrap_err();
        assert_eq!(fs::read(scratch.path("a")).unwrap(), b"mine");
        fs::remove_file(scratch.path("a")).unwrap();
        store.publish(FileId(0)).unwrap();
        complete(&store.files()[0]);
        drop(store);
        // In the place of an old version that is to be replaced.
        let store = scratch.open(&[version(&old, "two")]);
        fs::remove_file(scratch.path("a")).unwrap();
        fs::write(scratch.path("a"), "mine").unwrap();
        let error = store.publish(FileId(0)).unwrap_err();
        assert!(matches!(error, Error::InTheWay { .. }), "{error}");
        assert_eq!(fs::read(scratch.path("a")).unwrap(), b"mine");
        // And in the place of a file that is to be hidden.
        fs::remove_file(scratch.path("a")).unwrap();
        store.publish(FileId(0)).unwrap();
        fs::remove_file(scratch.path("a")).unwrap();
        fs::write(scratch.path("a"), "mine").unwrap();
        store.retire().unwrap();
        assert_eq!(fs::read(scratch.path("a")).unwrap(), b"mine");
    }
}

#[test]
fn state_directory_of_somebody_else() {
    let scratch = Scratch::new(Kind::Disk);
    fs::create_dir(&scratch.config.model_dir).unwrap();
    fs::write(scratch.path(".ossc"), "").unwrap();
    let refusal = |problem: &str| {
        format!(
            "state directory \"OUTER/model/.ossc\" cannot be trusted: {problem}; remove it and start again"
        )
    };
    refused(&scratch, &[blocks("a", 1)], &refusal("it is not a directory"));
    fs::remove_file(scratch.path(".ossc")).unwrap();
    fs::create_dir(scratch.path(".ossc")).unwrap();
    refused(&scratch, &[blocks("a", 1)], &refusal("other users may enter it"));
    std::os::unix::fs::chown(scratch.path(".ossc"), Some(12345), None).unwrap();
    refused(&scratch, &[blocks("a", 1)], &refusal("it belongs to another user"));
}

#[test]
fn a_failure_halfway_takes_everything_back() {
    let scratch = Scratch::new(Kind::Disk);
    let old = blocks("a", 1);
    let store = scratch.open(std::slice::from_ref(&old));
    store.publish(FileId(0)).unwrap();
    complete(&store.files()[0]);
    store.retire().unwrap();
    drop(store);
    let lock = scratch.path(".ossc/lock");
    let before = scratch.listing();
    // The last file's ready file cannot be written.
    let last = blocks("z/z", 1);
    let hash = super::super::names::Name::new("z/z", 0).unwrap().hash();
    let obstacle = scratch.path(".ossc/ready").join(format!("{hash}.tmp"));
    fs::create_dir(&obstacle).unwrap();
    let objects = [version(&old, "two"), blocks("new/dir/b", 1), object("empty/", 0), last];
    let error = scratch.try_open(BOOT, &objects).unwrap_err();
    assert!(error.to_string().starts_with("cannot write ready file"), "{error}");
    fs::remove_dir(&obstacle).unwrap();
    assert!(lock.exists());
    assert_eq!(scratch.listing(), before);
    assert!(scratch.open(&[old]).files()[0].is_complete());
}

#[test]
fn misuse_and_limits_of_a_file() {
    let scratch = Scratch::new(Kind::Tmpfs);
    let store = scratch.open(&[blocks("a", 2)]);
    let file = &store.files()[0];
    fill_block(file, 1);
    let error = file.seal().unwrap_err().to_string();
    assert_eq!(error, format!("{:?} is not complete: 1 of 2 blocks are ready", file.path()));
    for offset in [file.object().size - 1, file.object().size, u64::MAX] {
        let error = file.write_at(offset, b"xx").unwrap_err();
        assert_eq!(error.errno(), Errno::EIO);
    }
    assert!(file.write_at(2 * B - 7, b"xx").is_ok());
}

#[test]
fn offline_needs_every_ready_file() {
    let scratch = Scratch::new(Kind::Disk);
    let model_dir = &scratch.config.model_dir;
    assert_eq!(recorded(model_dir).unwrap_err().errno(), Errno::ENOENT);
    fs::create_dir(model_dir).unwrap();
    assert_eq!(recorded(model_dir).unwrap(), []);
    drop(scratch.open(&[blocks("a", 1), blocks("b", 1)]));
    assert_eq!(recorded(model_dir).unwrap().len(), 2);
    let ready = fs::read_dir(scratch.path(".ossc/ready")).unwrap().next().unwrap().unwrap().path();
    fs::write(&ready, "").unwrap();
    assert_eq!(
        recorded(model_dir).unwrap_err().to_string(),
        format!(
            "ready file {ready:?} is damaged, so the model cannot be started offline; start with OSS reachable"
        )
    );
}
