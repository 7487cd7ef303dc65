//! The lock that makes a state directory one agent's alone: flock(2) on `lock`, with the pid of its owner in it for messages
//! and for [`Lock::take`], which refuses at once where that agent lives.
//!
//! The kernel keeps such a lock until the last descriptor of it is closed. A child of the agent has one from its fork to its
//! exec, so the lock can outlive an agent that was killed while it started a keeper, or anything else, by the
//! milliseconds of a busy machine: whoever finds the lock of an agent that has ended waits for that.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::{FILE_MODE, remove};
use crate::store::error::Error;
use crate::store::undo::Undo;
use crate::sys::file::{self, Facts};

/// Its name in the state directory.
const LOCK: &str = "lock";
/// How long an agent that starts waits for the lock of one that has ended: a thousand times what a fork takes.
pub(in crate::store) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(10);
/// What is read of the lock, which has a pid and a line end.
const PID_MAX: usize = 16;

/// The locked file. Unlocked explicitly, because a child between fork and exec has a descriptor, too.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the state directory could not be unlocked");
        }
    }
}

impl Lock {
    /// Takes the lock of the state directory at `path` and writes our pid into it. Waits up to `patience` for what an agent
    /// that has ended left behind.
    pub(super) fn take(
        dir: &Arc<File>,
        path: &Path,
        patience: Duration,
        undo: &mut Undo,
    ) -> Result<Arc<Self>, Error> {
        let failed = |error: io::Error| Error::io("lock", &path.join(LOCK))(error);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
        let open = || file::open_beneath(dir.as_fd(), Path::new(LOCK), flags, FILE_MODE).map_err(failed);
        let facts = |file: &File| Facts::of(file).map_err(failed);
        let deadline = Instant::now() + patience;
        let (mut lock, mut is_told) = (open()?, false);
        loop {
            match lock.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    let owner = owner(&lock);
                    let living = owner.filter(|pid| has_open(*pid, &lock));
                    if living.is_some() || Instant::now() >= deadline {
                        let path = path.parent().unwrap_or(path).to_owned();
                        return Err(Error::Busy { path, pid: living });
                    }
                    if !is_told {
                        tracing::info!(
                            lock = %path.join(LOCK).display(),
                            ?owner,
                            ?patience,
                            "the lock of an agent that has ended is still held; waiting"
                        );
                        is_told = true;
                    }
                    thread::sleep(RETRY);
                    continue;
                }
                Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            }
            // An agent whose start failed may have removed the file between our open and our lock.
            let now = open()?;
            if facts(&now)?.ino == facts(&lock)?.ino {
                break;
            }
            lock = now;
        }
        let is_new = facts(&lock)?.size == 0;
        lock.set_len(0).map_err(failed)?;
        lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0).map_err(failed)?;
        let lock = Arc::new(Self(lock));
        // The step keeps the lock, so that nobody comes in while the set-up is taken back.
        let (dir, held) = (Arc::clone(dir), Arc::clone(&lock));
        undo.push(move || {
            let _held = held;
            if is_new { remove(&dir, LOCK) } else { Ok(()) }
        });
        Ok(lock)
    }
}

/// Whose lock it is, by its own word; `None` in the moment before that is written.
fn owner(lock: &File) -> Option<u32> {
    let mut bytes = [0; PID_MAX];
    let length = lock.read_at(&mut bytes, 0).ok()?;
    str::from_utf8(bytes.get(..length)?).ok()?.trim().parse().ok()
}

/// Whether a process has this file open, so that it is no other one with the number of an agent that has ended; in a
/// container that may be our own. Where the kernel does not tell, a process that exists has it.
fn has_open(pid: u32, lock: &File) -> bool {
    let Ok(ours) = lock.metadata() else { return true };
    // This one.
    let own = usize::from(pid == std::process::id());
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(descriptors) => {
            // One may be closed meanwhile.
            let files = descriptors.flatten().filter_map(|descriptor| fs::metadata(descriptor.path()).ok());
            let same = files.filter(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()));
            same.count() > own
        }
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::sync::Mutex;

    use tracing::{Event, Subscriber};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt};

    use super::*;

    /// Ends the process that has the lock when the log says that it is waited for, and counts how often that is said.
    struct Release(Arc<Mutex<(Child, usize)>>);

    impl<S: Subscriber> Layer<S> for Release {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            if event.metadata().target().ends_with("lock") {
                let mut state = self.0.lock().unwrap();
                state.1 += 1;
                state.0.kill().unwrap();
                state.0.wait().unwrap();
            }
        }
    }

    /// A state directory whose lock says `owner` and is held by a process that is none of this test's.
    fn held_by(owner: u32) -> (tempfile::TempDir, Arc<File>, Child) {
        let scratch = tempfile::tempdir().unwrap();
        let lock = File::create(scratch.path().join(LOCK)).unwrap();
        lock.lock().unwrap();
        lock.write_all_at(format!("{owner}\n").as_bytes(), 0).unwrap();
        // Closed here and left to the child, as by an agent that is killed between fork and exec. It ends with this process.
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::from(lock)).spawn().unwrap();
        let dir = Arc::new(File::open(scratch.path()).unwrap());
        (scratch, dir, child)
    }

    /// A number that no process has.
    fn dead() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn a_lock_that_outlives_its_agent_is_waited_for() {
        // The second one is alive, and has no lock: as in a container, where each agent has the same number.
        for owner in [dead(), std::process::id()] {
            let (scratch, dir, child) = held_by(owner);
            let mut undo = Undo::default();
            let busy = Lock::take(&dir, scratch.path(), Duration::ZERO, &mut undo).unwrap_err();
            assert!(matches!(busy, Error::Busy { pid: None, .. }), "{busy}");
            let state = Arc::new(Mutex::new((child, 0)));
            let subscriber = tracing_subscriber::registry().with(Release(Arc::clone(&state)));
            let taken = tracing::subscriber::with_default(subscriber, || {
                Lock::take(&dir, scratch.path(), Duration::from_secs(60), &mut undo)
            });
            let lock = taken.unwrap();
            assert_eq!(state.lock().unwrap().1, 1, "it is said once");
            assert_eq!(owner_of(&scratch), Some(std::process::id()));
            undo.keep();
            drop(lock);
        }
    }

    #[test]
    fn the_lock_of_a_living_agent_is_not_waited_for() {
        let (scratch, dir, mut child) = held_by(0);
        fs::write(scratch.path().join(LOCK), format!("{}\n", child.id())).unwrap();
        // With more than the whole test may take.
        let busy = Lock::take(&dir, scratch.path(), Duration::from_hours(24), &mut Undo::default());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(busy, Err(Error::Busy { pid, .. }) if pid == Some(child.id())), "{busy:?}");
    }

    fn owner_of(scratch: &tempfile::TempDir) -> Option<u32> {
        owner(&File::open(scratch.path().join(LOCK)).unwrap())
    }
}
