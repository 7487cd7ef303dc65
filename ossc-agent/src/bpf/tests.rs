//! The real programs in the real kernel, watching real processes. Needs root and tracefs, which
//! `cargo xtask setup` mounts.
//!
//! Readers are shells held on a pipe until they are targets, so nothing happens before it can be seen. All
//! programs write into one ring buffer, in order: when the reader that comes last has been seen, whatever was
//! to be seen of the readers before it has been too.

mod calls;
mod flood;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::base::{AccessKind, ByteRange};

/// How long an access may take to arrive before a test fails: far more than the slowest machine needs.
const DEADLINE: Duration = Duration::from_secs(30);

/// On a disk file system also where /tmp is a tmpfs.
const DISK: &str = "/var/tmp";
const TMPFS: &str = "/dev/shm";

/// Bytes of the file the readers read.
const SIZE: usize = 64 * 4096;

/// A file to watch, on a file system of the test's choice.
struct Watchable {
    _folder: TempDir,
    path: PathBuf,
}

impl Watchable {
    fn on_disk() -> Self {
        Self::below(Path::new(DISK))
    }

    fn below(parent: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("ossc-bpf-").tempdir_in(parent).unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, vec![7; SIZE]).unwrap();
        Self { _folder: folder, path }
    }

    fn watch(&self, probes: &Probes, id: u32) {
        probes.watch(File::open(&self.path).unwrap(), FileId(id)).unwrap();
    }
}

/// A shell that waits for a line, runs its script and ends. Ended with the test whatever happens.
struct Reader(Child);

impl Reader {
    fn held(script: &str, file: &Path) -> Self {
        let script = format!("read -r go && {script}");
        let child = Command::new("sh")
            .args(["-c", &script])
            .env("FILE", file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Lets it run and waits for its end.
    fn run(mut self) {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

const CAT: &str = r#"exec cat "$FILE""#;
const MAP: &str = r#"exec python3 -c '
import mmap, sys
with open(sys.argv[1], "rb") as f:
    m = mmap.mmap(f.fileno(), 8192, prot=mmap.PROT_READ, offset=4096)
    sys.exit(m[0] != 7)
' "$FILE""#;

fn start(targets: Targets) -> (Probes, Receiver<Access>) {
    let (sender, seen) = mpsc::channel();
    let sink = move |seen| match seen {
        Seen::Access(access) => sender.send(access).unwrap_or(()),
        Seen::Stall(stall) => panic!("nobody asked for {stall:?}"),
    };
    let probes = Probes::start(&Config::new(targets), sink).unwrap();
    assert_eq!(probes.summary().missing, [], "every probe is attached on the kernels tests run on");
    (probes, seen)
}

fn chosen(pids: &[u32], cgroups: &[&Path]) -> Targets {
    let cgroups = cgroups.iter().map(|path| path.to_path_buf()).collect();
    Targets::Chosen { pids: pids.to_vec(), cgroups }
}

/// The accesses up to and with the first one that `last` names.
fn until(seen: &Receiver<Access>, last: impl Fn(&Access) -> bool) -> Vec<Access> {
    let deadline = Instant::now() + DEADLINE;
    let mut accesses = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let access =
            seen.recv_timeout(left).unwrap_or_else(|error| panic!("{error}; seen so far: {accesses:?}"));
        accesses.push(access);
        if last(&access) {
            return accesses;
        }
    }
}

#[test]
fn open_and_mmap_of_a_target_are_seen_on_every_file_system() {
    let btrfs = Btrfs::mount();
    for parent in [DISK.into(), TMPFS.into(), btrfs.subvolume()] {
        let file = Watchable::below(&parent);
        let reader = Reader::held(MAP, &file.path);
        let pid = reader.pid();
        let (probes, seen) = start(chosen(&[pid], &[]));
        file.watch(&probes, 5);
        reader.run();

        let accesses = until(&seen, |access| access.kind == AccessKind::Fault);
        let kinds: Vec<_> = accesses.iter().map(|access| access.kind).collect();
        let expected = [AccessKind::Open, AccessKind::Map, AccessKind::Fault];
        assert_eq!(kinds, expected, "in {}", parent.display());
        assert!(accesses.iter().all(|a| a.file == FileId(5) && a.pid == pid && a.tid == pid));
        assert!(accesses.is_sorted_by_key(|access| access.at_ns));
        assert_eq!(accesses[1].range, ByteRange::new(4096, 3 * 4096));
        assert!(accesses[2].range.start() <= 4096 && accesses[2].range.end() >= 2 * 4096);
        assert_eq!(probes.dropped(), 0);
    }
}

#[test]
fn reads_are_seen_once_with_the_range_asked_for() {
    // Every call, aligned or not, with gaps, beyond the end, and longer than the page cache takes at once.
    let script = r#"exec python3 -c '
import os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
os.read(f, 100)
os.read(f, 5000)
os.pread(f, 10, 70000)
os.readv(f, [bytearray(7), bytearray(8)])
os.preadv(f, [bytearray(4096), bytearray(1)], 200000)
os.preadv(f, [bytearray(131072)], 65536, os.RWF_HIPRI)
os.pread(f, 1000000, 250000)
os.sendfile(os.open("/dev/null", os.O_WRONLY), f, 32768, 8192)
os.read(f, 1)
' "$FILE""#;
    let reads = |parent: &Path| {
        let file = Watchable::below(parent);
        let reader = Reader::held(script, &file.path);
        let (probes, seen) = start(chosen(&[reader.pid()], &[]));
        file.watch(&probes, 0);
        reader.run();
        drop(probes);
        let reads = seen.iter().filter(|access| access.kind != AccessKind::Open);
        reads.map(|access| (access.kind, access.range)).collect::<Vec<_>>()
    };
    let read = |start, length| (AccessKind::Read, ByteRange::new(start, start + length));
    let by_call = [
        read(0, 100),
        read(100, 5000),
        read(70000, 10),
        read(5100, 15),
        read(200_000, 4097),
        read(65536, 131_072),
        read(250_000, 1_000_000),
    ];
    let last = read(5115, 1);
    assert_eq!(reads(Path::new(TMPFS)), [&by_call[..], &[last]].concat(), "by call; sendfile is not seen");

    let page = 4096;
    let pages = |(kind, range): (AccessKind, ByteRange)| {
        (kind, ByteRange::new(range.start() / page * page, range.end().div_ceil(page) * page))
    };
    let all = [&by_call[..], &[read(32768, 8192), last]].concat();
    let all: Vec<_> = all.into_iter().map(pages).collect();
    assert_eq!(reads(Path::new(DISK)), all, "at the page cache");
}

#[test]
fn strangers_and_the_agent_are_not_seen_and_descendants_are() {
    let file = Watchable::on_disk();
    let other = Watchable::on_disk();
    let target = Reader::held(r#"cat "$FILE" && sh -c "sh -c 'cat \"\$FILE\"; :'; :""#, &file.path);
    let (probes, seen) = start(chosen(&[target.pid()], &[]));
    file.watch(&probes, 1);

    Reader::held(CAT, &file.path).run();
    assert_eq!(fs::read(&file.path).unwrap().len(), SIZE);
    Reader::held(CAT, &other.path).run();
    let parent = target.pid();
    target.run();
    drop(probes);
    let openers: Vec<_> = seen.iter().filter(|a| a.kind == AccessKind::Open).map(|a| a.pid).collect();
    let [child, grandchild] = openers[..] else { panic!("opened by {openers:?}") };
    assert!(child != parent && grandchild != parent && child != grandchild);
}

#[test]
fn a_family_that_exists_already_is_adopted_and_exits_are_forgotten() {
    let file = Watchable::on_disk();
    // The child waits in the shell that the parent started before it became a target.
    let mut family = Command::new("sh")
        .args(["-c", "sh -c 'echo $$; read -r go; cat \"$FILE\" >&2; :'; :"])
        .env("FILE", &file.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(family.stdout.take().unwrap()), &mut line)
        .unwrap();
    let child: u32 = line.trim().parse().unwrap();
    assert_ne!(child, family.id());

    let (probes, seen) = start(chosen(&[], &[]));
    file.watch(&probes, 2);
    probes.add_pid(family.id()).unwrap();
    let target_count = || lock(&probes.targets).pids().len();
    assert_eq!(target_count(), 2);
    family.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(family.wait().unwrap().success());
    assert_eq!(until(&seen, |access| access.kind == AccessKind::Open).len(), 1);
    assert_eq!(target_count(), 0, "everything that exited is forgotten");
    assert!(matches!(probes.add_pid(child), Err(Error::Process { pid, .. }) if pid == child));
}

#[test]
fn everybody_but_the_agent_is_seen_and_an_unwatched_file_is_not() {
    let file = Watchable::on_disk();
    let other = Watchable::on_disk();
    let (probes, seen) = start(Targets::Everybody);
    file.watch(&probes, 1);
    other.watch(&probes, 2);
    fs::read(&file.path).unwrap();
    Reader::held(CAT, &file.path).run();
    probes.unwatch(FileId(1));
    Reader::held(CAT, &file.path).run();
    Reader::held(CAT, &other.path).run();
    drop(probes);
    let opened: Vec<_> = seen.iter().filter(|a| a.kind == AccessKind::Open).map(|a| a.file).collect();
    assert_eq!(opened, [FileId(1), FileId(2)]);
}

#[test]
fn a_cgroup_stands_for_its_processes_and_those_below() {
    let cgroup = Cgroup::create();
    let file = Watchable::on_disk();
    let (probes, seen) = start(chosen(&[], &[&cgroup.path]));
    file.watch(&probes, 1);
    let stranger = Reader::held(CAT, &file.path);
    let stranger_pid = stranger.pid();
    stranger.run();
    let members = [&cgroup.below, &cgroup.path].map(|folder| {
        // The member itself, then a child of its child.
        let script = r#"read -r line <"$FILE"; sh -c "sh -c 'cat \"\$FILE\"; :'; :""#;
        let member = Reader::held(script, &file.path);
        let pid = member.pid();
        fs::write(folder.join("cgroup.procs"), pid.to_string()).unwrap();
        member.run();
        pid
    });
    drop(probes);
    let openers: Vec<_> = seen.iter().filter(|a| a.kind == AccessKind::Open).map(|a| a.pid).collect();
    let [first, of_first, second, of_second] = openers[..] else { panic!("opened by {openers:?}") };
    assert_eq!([first, second], members);
    assert!(![first, second, stranger_pid].iter().any(|pid| [of_first, of_second].contains(pid)));
}

#[test]
fn wrong_targets_are_refused_by_name() {
    let message = |targets| {
        let error = Probes::start(&Config::new(targets), drop).unwrap_err();
        assert!(!error.is_unsupported());
        error.to_string()
    };
    assert!(message(chosen(&[0], &[])).contains("process 0"));
    let missing = Path::new("/sys/fs/cgroup/no such group");
    assert!(message(chosen(&[], &[missing])).contains("no such group"));
    let folder = std::env::temp_dir();
    assert!(message(chosen(&[], &[&folder])).contains("cgroup v2"));
    let many = vec![folder.as_path(); 17];
    assert!(message(chosen(&[], &many)).contains("17 cgroups"));
}

/// A cgroup v2 folder with one below it; removed when dropped, which needs their processes to be gone.
struct Cgroup {
    path: PathBuf,
    below: PathBuf,
}

impl Cgroup {
    fn create() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root =
            mounts.find(|fields| fields[2] == "cgroup2").expect("a cgroup v2 tree is mounted")[1].to_owned();
        let path = Path::new(&root).join(format!("ossc-bpf-{}", std::process::id()));
        let below = path.join("below");
        fs::create_dir_all(&below).unwrap();
        Self { path, below }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in [&self.below, &self.path] {
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("{} is left behind: {error}", folder.display());
            }
        }
    }
}

/// A btrfs with a subvolume, on a loop device; unmounted when dropped.
struct Btrfs(TempDir);

impl Btrfs {
    /// Smallest image mkfs.btrfs takes, rounded up.
    const BYTES: u64 = 128 << 20;

    fn mount() -> Self {
        let folder = tempfile::Builder::new().prefix("ossc-btrfs-").tempdir().unwrap();
        let (image, root) = (folder.path().join("image"), folder.path().join("root"));
        File::create(&image).unwrap().set_len(Self::BYTES).unwrap();
        fs::create_dir(&root).unwrap();
        succeed(Command::new("mkfs.btrfs").arg("--quiet").arg(&image));
        succeed(Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).args([&image, &root]));
        let mounted = Self(folder);
        succeed(Command::new("btrfs").args(["subvolume", "create"]).arg(mounted.subvolume()));
        mounted
    }

    fn subvolume(&self) -> PathBuf {
        self.0.path().join("root/subvolume")
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path().join("root")).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is left mounted", self.0.path().display());
        }
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
