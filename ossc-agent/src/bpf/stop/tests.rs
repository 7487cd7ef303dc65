//! The programs against the running kernel, without a gate: who is stopped, and what releases him. Needs root.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::*;
use crate::sys::reader::{Doing, threads};

const PATIENCE: Duration = Duration::from_secs(30);

/// A gated file on a tmpfs, and programs that stop whoever maps it.
struct Scene {
    dir: TempDir,
    stopper: Stopper,
}

impl Scene {
    fn new(at: At) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::create_new(dir.path().join("f")).unwrap();
        file.set_len(1 << 20).unwrap();
        let mut stopper = Stopper::start(at).unwrap();
        stopper.spare_own().unwrap();
        stopper.gate(file.as_fd()).unwrap();
        Self { dir, stopper }
    }

    /// A Python child with the file open as `f`; says what `print` says.
    fn python(&self, script: &str) -> Reader {
        let script = format!("import mmap,os,sys,signal\nf=os.open(sys.argv[1],os.O_RDONLY)\n{script}");
        let child = Command::new("python3")
            .args(["-uc", &script])
            .arg(self.dir.path().join("f"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Reader(child)
    }

    /// Waits until this process is held and has stopped.
    fn held(&self, reader: &Reader) -> Stopped {
        let pid = reader.0.id();
        eventually("the process is held and stopped", || {
            let stopped = self.stopper.stopped().unwrap().into_iter().find(|stopped| stopped.pid == pid)?;
            reader.is_stopped().then_some(stopped)
        })
    }

    fn let_go(&mut self, stopped: Stopped) {
        let process = Handle::open(stopped.pid).unwrap();
        self.stopper.let_go(stopped, &process).unwrap();
    }
}

struct Reader(Child);

impl Reader {
    fn is_stopped(&self) -> bool {
        threads(self.0.id()).unwrap().iter().all(|(_, doing)| *doing == Doing::Stopped)
    }

    /// Signals of another process: what this one sends is the agent's.
    fn user(&self, script: &str) {
        let script = script.replace("PID", &self.0.id().to_string());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    fn printed(mut self) -> String {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success());
        text
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const MAP: &str = "m=mmap.mmap(f,65536,mmap.MAP_PRIVATE,mmap.PROT_READ)\nprint(m[5])";

/// The programs leave the kernel one after the other, and whoever is inside a call then is on the map.
#[test]
fn whoever_is_stopped_is_told_of_where_the_end_of_his_call_was_not_seen() {
    let mut scene = Scene::new(At::Mmap);
    drop(scene.stopper.links.remove(attach::exits()));
    let reader = scene.python(MAP);
    let mut doorbell = [PollFd::new(scene.stopper.doorbell(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut doorbell, patience), Ok(1), "nobody would look at a process that was stopped");
    let stopped = scene.held(&reader);
    scene.let_go(stopped);
    assert_eq!(reader.printed(), "0\n");
}

#[test]
fn who_maps_a_gated_file_sees_nothing_before_he_is_let_go() {
    for (name, script) in [
        ("private", MAP.to_owned()),
        ("shared", MAP.replace("PRIVATE", "SHARED")),
        ("populated", MAP.replace("mmap.MAP_PRIVATE", "mmap.MAP_SHARED|mmap.MAP_POPULATE")),
    ] {
        let mut scene = Scene::new(At::Mmap);
        let reader = scene.python(&script);
        let stopped = scene.held(&reader);
        assert!(scene.stopper.has_mapped(stopped.pid) && !scene.stopper.is_mapping(stopped.pid, stopped.pid));
        fs::write(scene.dir.path().join("f"), [7; 1 << 20]).unwrap();
        scene.let_go(stopped);
        assert_eq!(reader.printed(), "7\n", "{name}");
        eventually("an ended process is forgotten", || {
            scene.stopper.held.keys().next().is_none().then_some(())
        });
    }
}

#[test]
fn a_file_that_is_not_gated_stops_nobody() {
    let mut scene = Scene::new(At::Mmap);
    let inode = inode::of(File::open(scene.dir.path().join("f")).unwrap().as_fd()).unwrap();
    scene.stopper.ungate(inode);
    assert_eq!(scene.python(MAP).printed(), "0\n");
    let scene = Scene::new(At::Growth);
    assert_eq!(scene.python(MAP).printed(), "0\n");
}

#[test]
fn a_strangers_sigcont_does_not_set_it_free() {
    let mut scene = Scene::new(At::Mmap);
    let reader = scene.python(MAP);
    let mut after = scene.held(&reader);
    // One after the other: a second one before the first has been answered may take the answer back.
    for _ in 0..20 {
        let before = after;
        reader.user("kill -CONT PID");
        after = eventually("it has stopped again", || {
            let stopped = scene.held(&reader);
            (stopped.at_ns != before.at_ns).then_some(stopped)
        });
        assert!(after.at_ns > before.at_ns);
    }
    fs::write(scene.dir.path().join("f"), [7; 1 << 20]).unwrap();
    scene.let_go(after);
    assert_eq!(reader.printed(), "7\n");
}

/// Each SIGCONT may take back the stop that answers an earlier one, so some readers get to their missing bytes.
#[test]
fn a_storm_of_sigconts_shows_nobody_a_hole() {
    for _ in 0..10 {
        let mut scene = Scene::new(At::Mmap);
        let mut reader = scene.python(MAP);
        scene.held(&reader);
        let storm = format!("for n in $(seq 200); do kill -CONT {} || exit 0; done", reader.0.id());
        let strangers: Vec<_> = (0..3)
            .map(|_| Command::new("sh").args(["-c", &storm]).stderr(Stdio::null()).spawn().unwrap())
            .collect();
        for mut stranger in strangers {
            stranger.wait().unwrap();
        }
        let ended =
            eventually("it has stopped again, or was killed", || match reader.0.try_wait().unwrap() {
                Some(status) => Some(Some(status)),
                None => reader.is_stopped().then_some(None),
            });
        if let Some(status) = ended {
            let mut printed = String::new();
            reader.0.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
            assert_eq!((status.signal(), printed.as_str()), (Some(Signal::SIGKILL as i32), ""));
            assert!(scene.stopper.quiet().iter().any(|(pid, _)| *pid == reader.0.id()), "nobody is told");
            continue;
        }
        fs::write(scene.dir.path().join("f"), [7; 1 << 20]).unwrap();
        let stopped = scene.held(&reader);
        scene.let_go(stopped);
        assert_eq!(reader.printed(), "7\n");
    }
}

#[test]
fn a_users_stop_outlives_ours() {
    let mut scene = Scene::new(At::Mmap);
    let reader = scene.python(MAP);
    let stopped = scene.held(&reader);
    reader.user("kill -STOP PID");
    scene.let_go(stopped);
    assert!(reader.is_stopped() && scene.stopper.is_stopped_by_user(stopped.pid));
    reader.user("kill -CONT PID");
    assert_eq!(reader.printed(), "0\n");
}

/// A local user may send signals to a child of his own that has ended and that he has not waited for. The next process of
/// its id is somebody else's.
#[test]
fn a_users_stop_of_a_process_that_has_ended_is_not_remembered() {
    let scene = Scene::new(At::Mmap);
    let reader = scene.python("pass");
    let pid = reader.0.id();
    eventually("it has ended", || {
        threads(pid).unwrap().iter().all(|(_, doing)| *doing == Doing::Ended).then_some(())
    });
    reader.user("kill -STOP PID");
    assert!(!scene.stopper.is_stopped_by_user(pid));
}

/// Signals of others meet the end of a process at every moment of it.
#[test]
fn an_end_amid_signals_leaves_nothing_on_the_maps() {
    const READERS: usize = 64;
    let scene = Scene::new(At::Mmap);
    let readers: Vec<_> = (0..READERS).map(|_| scene.python(MAP)).collect();
    for reader in &readers {
        scene.held(reader);
    }
    let pids: Vec<_> = readers.iter().map(|reader| reader.0.id().to_string()).collect();
    let script = |signal: &str| format!("for n in $(seq 20); do kill -{signal} {}; done", pids.join(" "));
    let strangers = ["CONT", "CONT", "STOP", "KILL"].map(|signal| {
        Command::new("sh").args(["-c", &script(signal)]).stderr(Stdio::null()).spawn().unwrap()
    });
    for mut stranger in strangers {
        stranger.wait().unwrap();
    }
    drop(readers);
    assert_eq!(scene.stopper.held.keys().count(), 0, "held");
    assert_eq!(scene.stopper.user_stops.keys().count(), 0, "user_stops");
    assert_eq!(scene.stopper.released.keys().count(), 0, "released");
}

#[test]
fn a_read_in_flight_has_a_range_and_one_that_ended_has_none() {
    let scene = Scene::new(At::Mmap);
    let path = scene.dir.path().join("f");
    let inode = inode::of(File::open(&path).unwrap().as_fd()).unwrap();
    let mut reader = scene.python("os.read(f,100)\nos.pread(f,10,4096)\nprint('done')\nsys.stdin.read()");
    let mut done = [0; 5];
    reader.0.stdout.as_mut().unwrap().read_exact(&mut done).unwrap();
    assert_eq!(scene.stopper.read_in_flight(reader.0.id(), inode), None);
    reader.0.stdin.take().unwrap().write_all(b"x").unwrap();
    reader.0.wait().unwrap();
}
