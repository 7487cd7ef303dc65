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
use super::{Guards, Inherited, Keeper, Pending, Record, Settings, Wanted, ask};
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
        let agent = Keeper::meet(settings(&dir, deadline), ours, None, guards, &[file.as_fd()]).unwrap();
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
    assert!(ask(scene.dir.path()).unwrap().is_none(), "its agent lives");
    let wanted = Wanted::File(inode, ByteRange::new(0, 4));
    scene.record.hold(7000, 11, wanted);
    scene.record.hold(7001, 12, wanted);
    scene.record.clear(7001);
    let (dir, keeper) = die(scene);
    drop(ask(dir.path()).unwrap().expect("an agent that fails before it adopts the keeper"));

    let Inherited { socket, group, record, files, pending, stops } =
        ask(dir.path()).unwrap().expect("a keeper");
    let [Pending { number: 7000, pid: 11, wanted: found, place: Some(_) }] = &pending[..] else {
        panic!("{pending:?}");
    };
    assert_eq!(*found, wanted);
    let [(held, file)] = &files[..] else { panic!("{files:?}") };
    assert_eq!(*held, inode);
    assert!(stops.is_empty());
    let guards = Guards::new(&group, &record, &[]).unwrap();
    let next = Keeper::adopt(settings(&dir, LONG), socket, guards, &[file.as_fd()], Vec::new()).unwrap();
    assert!(ask(dir.path()).unwrap().is_none(), "its agent lives again");
    next.release(inode);
    next.say_goodbye(true);
    keeper.join().unwrap();
    assert!(ask(dir.path()).unwrap().is_none());
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
