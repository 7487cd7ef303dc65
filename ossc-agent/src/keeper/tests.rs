//! Keepers on threads, with real groups and a reader that is really held. Needs root, and a disk file system
//! that takes pre-content marks at /var/tmp.

use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use tempfile::TempDir;

use super::process::{Config, serve};
use super::{Error, Guards, Inherited, Keeper, Passed, Pending, Record, Settings, Wanted, ask, place};
use crate::base::ByteRange;
use crate::store::{Inode, STATE_DIR};
use crate::sys::fanotify::{Buffer, Group, Mark, Names};
use crate::sys::rights;

/// Long enough that no test meets it.
const LONG: Duration = Duration::from_secs(1000);

/// One file behind a gate that a keeper holds, and a first agent.
struct Scene {
    dir: TempDir,
    /// Opened before the mark.
    file: File,
    inode: Inode,
    group: Group,
    record: Record,
    keeper: JoinHandle<()>,
    agent: Keeper,
}

impl Scene {
    fn new(deadline: Duration) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        DirBuilder::new().mode(0o700).create(dir.path().join(STATE_DIR)).unwrap();
        let path = dir.path().join("model");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(8192).unwrap();
        let stat = nix::sys::stat::fstat(&file).unwrap();
        let inode = Inode { dev: stat.st_dev, ino: stat.st_ino };
        let (group, record) = (Group::new(Names::Processes).unwrap(), Record::create().unwrap());
        let (ours, theirs) = rights::pair().unwrap();
        let config = Config { model_dir: dir.path().to_owned() };
        let keeper = thread::spawn(move || serve(&config, theirs).unwrap());
        let guards = Guards::new(&group, &record, &[]).unwrap();
        let files = [file.as_fd()];
        let agent = Keeper::meet(settings(&dir, deadline), (ours, None), guards, &files, Vec::new()).unwrap();
        group.mark(Mark::PreAccess, file.as_fd()).unwrap();
        Self { dir, file, inode, group, record, keeper, agent }
    }

    /// A thread in a blocking read of the file; its own process's events pass no gate by themselves.
    fn reader(&self) -> JoinHandle<std::io::Result<[u8; 4]>> {
        let path = self.dir.path().join("model");
        thread::spawn(move || {
            let mut bytes = [1; 4];
            File::open(path)?.read_exact(&mut bytes)?;
            Ok(bytes)
        })
    }
}

fn settings(dir: &TempDir, deadline: Duration) -> Settings {
    Settings { model_dir: dir.path().to_owned(), deadline, arguments: Vec::new() }
}

/// The agent dies: all its descriptors close.
fn die(scene: Scene) -> (TempDir, JoinHandle<()>) {
    let Scene { dir, keeper, .. } = scene;
    (dir, keeper)
}

#[test]
fn the_next_agent_gets_everything_and_the_keeper_goes_on() {
    let scene = Scene::new(LONG);
    let inode = scene.inode;
    assert!(ask(scene.dir.path(), None).unwrap().is_none(), "its agent lives");
    let wanted = Wanted::File(inode, ByteRange::new(0, 4));
    scene.record.hold(7000, 11, wanted);
    scene.record.hold(7001, 12, wanted);
    scene.record.clear(7001);
    let (dir, keeper) = die(scene);
    drop(ask(dir.path(), None).unwrap().expect("an agent that fails before it adopts the keeper"));

    let Inherited { socket, group, record, files, pending, stops } =
        ask(dir.path(), None).unwrap().expect("a keeper");
    let [Pending { number: 7000, pid: 11, wanted: found, place: Some(_) }] = &pending[..] else {
        panic!("{pending:?}");
    };
    assert_eq!(*found, wanted);
    let [(held, file)] = &files[..] else { panic!("{files:?}") };
    assert_eq!(*held, inode);
    assert!(stops.is_empty());
    let guards = Guards::new(&group, &record, &[]).unwrap();
    let file = file.as_fd();
    let next = Keeper::adopt(settings(&dir, LONG), socket.unwrap(), guards, &[file], Vec::new()).unwrap();
    assert!(ask(dir.path(), None).unwrap().is_none(), "its agent lives again");
    next.release(inode);
    next.say_goodbye(true);
    keeper.join().unwrap();
    assert!(ask(dir.path(), None).unwrap().is_none());
}

#[test]
fn readers_are_held_until_the_deadline_and_fail_then() {
    let scene = Scene::new(Duration::ZERO);
    // One reader whose event the agent has taken, and one whose event nobody has.
    let first = scene.reader();
    let mut buffer = Buffer::new();
    let mut taken = Vec::new();
    while taken.is_empty() {
        let batch = scene.group.read(Mark::PreAccess, 1, &mut buffer);
        taken = batch.map(|batch| batch.map(Result::unwrap).collect()).unwrap_or_default();
    }
    let second = scene.reader();
    let (_dir, keeper) = die(scene);
    for reader in [first, second] {
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32));
    }
    drop(taken);
    keeper.join().unwrap();
}

#[test]
fn after_a_goodbye_readers_fail_for_as_long_as_they_have_the_file_open() {
    let scene = Scene::new(LONG);
    let mut open = File::open(scene.dir.path().join("model")).unwrap();
    let Scene { dir: _dir, keeper, agent, .. } = scene;
    agent.say_goodbye(false);
    let mut bytes = [1; 4];
    let error = open.read_exact(&mut bytes).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32));
    assert!(!keeper.is_finished());
    drop(open);
    keeper.join().unwrap();
}

#[test]
fn a_keeper_whose_agent_has_completed_everything_ends_with_it() {
    let scene = Scene::new(LONG);
    scene.agent.release(scene.inode);
    scene.group.unmark(Mark::PreAccess, scene.file.as_fd()).unwrap();
    let (_dir, keeper) = die(scene);
    keeper.join().unwrap();
}

/// A message of this version and kind.
fn message(version: u64, kind: u64) -> Vec<u8> {
    [0x6f73_7363_6b65_6570 + version, kind, 0, 0].map(u64::to_ne_bytes).concat()
}
/// The one before ours, and the one after.
const OTHERS: [u64; 2] = [1, 3];

#[test]
fn an_agent_names_the_version_of_a_keeper_it_does_not_understand() {
    for other in OTHERS {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        DirBuilder::new().mode(0o700).create(dir.path().join(STATE_DIR)).unwrap();
        let listener = place::listen(dir.path()).unwrap();
        let keeper = thread::spawn(move || {
            let agent = rights::accept(listener.as_fd()).unwrap();
            rights::send(agent.as_fd(), &message(other, 8), &[], true).unwrap();
            // The agent closes without a word, and so changes nothing.
            assert_eq!(rights::receive(agent.as_fd(), &mut [0; 64]).unwrap().0, 0);
        });
        let error = ask(dir.path(), None).unwrap_err();
        let Error::Version { theirs, ours: 2, .. } = error else { panic!("{error:?}") };
        assert_eq!(theirs, other);
        assert!(error.to_string().contains("start that version again"), "{error}");
        keeper.join().unwrap();
    }
}

#[test]
fn a_keeper_waits_on_after_an_agent_that_it_does_not_understand() {
    let scene = Scene::new(LONG);
    scene.record.hold(7000, 11, Wanted::File(scene.inode, ByteRange::new(0, 4)));
    // A kind of message that a later agent may have is passed over.
    rights::send(scene.agent.socket(), &message(3, 1), &[], true).unwrap();
    let (dir, keeper) = die(scene);
    for other in OTHERS {
        let successor = loop {
            // Refused while the other one is there.
            let successor = place::connect(dir.path()).unwrap().unwrap();
            if rights::receive(successor.as_fd(), &mut [0; 64]).unwrap().0 > 0 {
                break successor;
            }
        };
        rights::send(successor.as_fd(), &message(other, 6), &[], true).unwrap();
    }
    let Inherited { socket, group, record, files, pending, .. } = loop {
        // Refused while the other one is there.
        if let Some(inherited) = ask(dir.path(), None).unwrap() {
            break inherited;
        }
    };
    assert_eq!(pending.len(), 1);
    let guards = Guards::new(&group, &record, &[]).unwrap();
    let file = files[0].1.as_fd();
    let next = Keeper::adopt(settings(&dir, LONG), socket.unwrap(), guards, &[file], Vec::new()).unwrap();
    next.release(files[0].0);
    next.say_goodbye(true);
    keeper.join().unwrap();
}

#[test]
fn an_agent_that_leaves_says_how_long_readers_wait() {
    let scene = Scene::new(LONG);
    let reader = scene.reader();
    let Scene { dir: _dir, file, group, record, keeper, agent, .. } = scene;
    agent.leave(Duration::ZERO);
    drop((group, record, file));
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32));
    keeper.join().unwrap();
}

#[test]
fn copies_of_a_service_manager_stand_in_for_a_keeper() {
    let scene = Scene::new(LONG);
    let wanted = Wanted::File(scene.inode, ByteRange::new(0, 4));
    scene.record.hold(7000, 11, wanted);
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let passed = || {
        let files = vec![own(scene.file.as_fd())];
        let (group, record) = (own(scene.group.as_fd()), own(scene.record.as_fd()));
        Passed { group, record, stops: vec![own(scene.file.as_fd())], files }
    };
    let with_keeper = passed().out_of_the_way().unwrap();
    let alone = passed().out_of_the_way().unwrap();
    assert!(std::os::fd::AsRawFd::as_raw_fd(&alone.group) > 7000, "out of the way of held readers");
    // A keeper that lives knows better.
    assert!(ask(scene.dir.path(), Some(with_keeper)).unwrap().is_none(), "its agent lives");
    place::forget(scene.dir.path()).unwrap();
    let inherited = ask(scene.dir.path(), Some(alone)).unwrap().expect("what was passed");
    assert!(inherited.socket.is_none());
    assert_eq!(inherited.stops.len(), 1);
    let [Pending { number: 7000, pid: 11, wanted: found, place: Some(_) }] = &inherited.pending[..] else {
        panic!("{:?}", inherited.pending);
    };
    assert_eq!(*found, wanted);
    assert_eq!(inherited.files[0].0, scene.inode);
    drop(inherited);
    scene.agent.release(scene.inode);
    scene.agent.say_goodbye(true);
    scene.keeper.join().unwrap();
}
