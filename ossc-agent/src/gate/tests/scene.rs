//! A gate over one scratch file, readers as child processes, and a demand that the test answers by hand.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::base::{Access, BlockSize, ByteRange, FileId, Layout};
use crate::gate::{Capacity, Demand, Found, Gate, Guarded, Mode, Ranges, Reply, new_group, probe};
use crate::keeper::{Pending, Record, Wanted};
use crate::store::Inode;
use crate::sys::fanotify::{Buffer, Event, Group, Mark};

/// A disk file system that takes pre-content marks.
pub(super) const DISK: &str = "/var/tmp";
/// A tmpfs, which does not.
pub(super) const MEMORY: &str = "/dev/shm";
/// Blocks of the scratch file; the last one is short.
pub(super) const BLOCKS: u64 = 20;
pub(super) const BLOCK: u64 = 2 << 20;
pub(super) const SIZE: u64 = BLOCKS * BLOCK - 1000;
/// After this long something that must happen has not.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The byte of the object at an offset; never 0, so that holes show.
fn byte_at(offset: u64) -> u8 {
    ((offset ^ (offset >> 12).wrapping_mul(31)) & 0xff) as u8 | 1
}

pub(super) fn bytes_of(range: ByteRange) -> Vec<u8> {
    (range.start()..range.end()).map(byte_at).collect()
}

pub(super) fn whole() -> ByteRange {
    ByteRange::new(0, SIZE)
}

/// A file with a ready map of one word.
pub(super) struct TestFile {
    file: File,
    path: PathBuf,
    inode: Inode,
    ready: AtomicU64,
}

impl TestFile {
    fn create(path: PathBuf, preallocate: bool) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(SIZE)?;
        if preallocate {
            // As the store does on disks, so that cp does not look for holes.
            fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(SIZE).unwrap())?;
        }
        let metadata = file.metadata()?;
        let inode = Inode { dev: metadata.dev(), ino: metadata.ino() };
        Ok(Self { file, path, inode, ready: AtomicU64::new(0) })
    }

    /// Writes the blocks of `range` and makes them ready.
    pub(super) fn fill(&self, range: ByteRange) {
        for block in self.layout().blocks_of(range) {
            let bytes = self.layout().range_of_blocks(block..block + 1);
            self.file.write_all_at(&bytes_of(bytes), bytes.start()).unwrap();
            self.ready.fetch_or(1 << block, Ordering::Release);
        }
    }

    /// Makes all blocks not ready.
    pub(super) fn forget(&self) {
        self.ready.store(0, Ordering::Release);
    }
}

impl Guarded for TestFile {
    fn id(&self) -> FileId {
        FileId(7)
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
    fn inode(&self) -> Inode {
        self.inode
    }
    fn layout(&self) -> Layout {
        Layout::new(SIZE, BlockSize::MIN).unwrap()
    }
    fn path(&self) -> &Path {
        &self.path
    }
    fn covers(&self, range: ByteRange) -> bool {
        let ready = self.ready.load(Ordering::Acquire);
        self.layout().blocks_of(range).all(|block| ready & (1 << block) != 0)
    }
}

/// A demand the gate made.
pub(super) struct Asked {
    pub(super) range: ByteRange,
    pub(super) reply: Reply,
}

struct Ask(Sender<Asked>);

impl Demand for Ask {
    fn demand(&self, file: FileId, range: ByteRange, reply: Reply) {
        assert_eq!(file, FileId(7));
        self.0.send(Asked { range, reply }).ok();
    }
}

pub(super) struct Scene {
    pub(super) file: Arc<TestFile>,
    pub(super) gate: Gate,
    pub(super) demands: Receiver<Asked>,
    pub(super) accesses: Receiver<Access>,
    pub(super) dir: TempDir,
}

impl Scene {
    /// A protected, empty file below `root`, with the mode found there.
    pub(super) fn on(root: &str) -> Self {
        Self::found(root, probe(Path::new(root)).unwrap(), 1000)
    }

    /// With this mode, which needs no programs.
    pub(super) fn with(root: &str, mode: Mode, capacity: usize) -> Self {
        Self::found(root, Found { mode, stopper: None }, capacity)
    }

    fn found(root: &str, found: Found, capacity: usize) -> Self {
        let (dir, file) = Self::file_on(root);
        let kernel = (new_group(found.mode).unwrap(), Record::create().unwrap());
        Self::over(dir, file, found, capacity, kernel, Vec::new())
    }

    fn file_on(root: &str) -> (TempDir, Arc<TestFile>) {
        let dir = tempfile::tempdir_in(root).unwrap();
        let file = TestFile::create(dir.path().join("model.gguf"), root == DISK).unwrap();
        (dir, Arc::new(file))
    }

    /// A gate that goes on after an agent which died with three readers of `range` held: one on record with its
    /// file, one without, and one whose number something else has.
    pub(super) fn inherited(range: ByteRange) -> (Self, [Reader; 3]) {
        let (dir, file) = Self::file_on(DISK);
        let mode = Mode::PreContent { ranges: Ranges::Exact };
        let (group, record) = (new_group(mode).unwrap(), Record::create().unwrap());
        group.mark(Mark::PreAccess, file.fd()).unwrap();
        let mut buffer = Buffer::new();
        let mut next = || {
            let reader = dd(&file.path, range);
            loop {
                let batch = group.read(Mark::PreAccess, 1, &mut buffer);
                if let Some(event) = batch.ok().and_then(|mut batch| batch.next()) {
                    return (reader, event.unwrap());
                }
                thread::yield_now();
            }
        };
        let (known, unknown, unplaced) = (next(), next(), next());
        let pending = |event: Event, wanted| {
            let (number, pid) = (event.fd.as_raw_fd(), event.pid);
            Pending { number, pid, wanted, place: Some(event.fd) }
        };
        // Its descriptor stays open as that of something else.
        let number = unplaced.1.fd.into_raw_fd();
        let place = None;
        let all = vec![
            pending(known.1, Wanted::File(file.inode, range)),
            pending(unknown.1, Wanted::AnyFile(range)),
            Pending { number, pid: unplaced.1.pid, wanted: Wanted::AnyFile(range), place },
        ];
        let found = Found { mode, stopper: None };
        (Self::over(dir, file, found, 1000, (group, record), all), [known.0, unknown.0, unplaced.0])
    }

    fn over(
        dir: TempDir,
        file: Arc<TestFile>,
        found: Found,
        capacity: usize,
        kernel: (Group, Record),
        pending: Vec<Pending>,
    ) -> Self {
        let (ask, demands) = mpsc::channel();
        let (seen, accesses) = mpsc::channel();
        let observer = move |access| seen.send(access).unwrap_or_default();
        let gate = Gate::start(found, Capacity::new(capacity), kernel, Ask(ask), observer).unwrap();
        gate.protect(Arc::clone(&file) as Arc<dyn Guarded>).unwrap();
        gate.begin(pending);
        Self { file, gate, demands, accesses, dir }
    }

    /// The next demand.
    pub(super) fn asked(&self) -> Asked {
        self.demands.recv_timeout(PATIENCE).expect("a demand")
    }

    /// Fills what was asked for and says so.
    pub(super) fn serve(&self, asked: Asked) {
        self.file.fill(asked.range);
        asked.reply.answer(Ok(()));
    }

    /// A child that runs a shell line with the file as `$1`.
    pub(super) fn shell(&self, line: &str) -> Reader {
        Reader::start(Command::new("sh").args(["-c", line, "sh"]).arg(&self.file.path))
    }

    /// A child that reads `range`, given in whole pages, with one read(2) and prints it.
    pub(super) fn dd(&self, range: ByteRange) -> Reader {
        dd(&self.file.path, range)
    }
}

fn dd(path: &Path, range: ByteRange) -> Reader {
    const PAGE: u64 = 4096;
    let (skip, bytes) = (range.start() / PAGE * PAGE, range.len());
    // `exec`, so that the child is the reader and a signal reaches it.
    let line = format!("exec dd if=\"$1\" bs={bytes} count=1 iflag=skip_bytes skip={skip} status=none");
    Reader::start(Command::new("sh").args(["-c", &line, "sh"]).arg(path))
}

/// A child process; killed and reaped when dropped.
pub(super) struct Reader {
    pid: Pid,
    output: Receiver<io::Result<Output>>,
}

impl Reader {
    fn start(command: &mut Command) -> Self {
        let child = command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (done, output) = mpsc::channel();
        thread::spawn(move || done.send(child.wait_with_output()));
        Self { pid, output }
    }

    pub(super) fn pid(&self) -> u32 {
        u32::try_from(self.pid.as_raw()).unwrap()
    }

    pub(super) fn kill(&self) {
        kill(self.pid, Signal::SIGKILL).unwrap();
    }

    /// Waits for its end.
    pub(super) fn end(self) -> Output {
        self.output.recv_timeout(PATIENCE).expect("the reader ends").unwrap()
    }

    /// Waits for its end, which is a good one, and returns what it printed.
    pub(super) fn printed(self) -> Vec<u8> {
        let output = self.end();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Waits for its end, which is a bad one with `message`.
    pub(super) fn fails_with(self, message: &str) {
        let output = self.end();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "read {} bytes", output.stdout.len());
        assert!(errors.contains(message), "{errors}");
        assert_eq!(output.stdout, b"", "a failed read gives no bytes");
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Its waiting thread reaps it. Nothing to kill when that has happened, and then the channel is full
        // or used up, so the number cannot be another process's yet unless `end` has returned.
        if matches!(self.output.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            kill(self.pid, Signal::SIGKILL).ok();
            self.output.recv().ok();
        }
    }
}
