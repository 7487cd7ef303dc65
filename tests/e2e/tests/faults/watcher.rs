//! A reader that reads at random places of all files from their appearance to the end of the row, and remembers
//! the first wrong byte.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use e2e::content::Target;

/// Longest read, bytes: across the end of a block now and then.
const LONGEST: u64 = 64 << 10;

/// What it saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) reads: u64,
    pub(super) errnos: u64,
    wrong: Option<String>,
}

/// The reader's thread. One that is dropped ends by itself after the read it is at.
pub(super) struct Watcher {
    end: Arc<AtomicBool>,
    reads_first: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Watcher {
    /// Reads these files of these sizes; the first one only from `read_first` on, or at once.
    pub(super) fn start(files: Vec<(Target, u64)>, seed: u64, from_start: bool) -> Self {
        let (end, reads_first) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(from_start)));
        let thread = {
            let (end, reads_first) = (Arc::clone(&end), Arc::clone(&reads_first));
            std::thread::spawn(move || read_all(&files, seed, &end, &reads_first))
        };
        Self { end, reads_first, thread }
    }

    /// The first file may be read too.
    pub(super) fn read_first(&self) {
        self.reads_first.store(true, Ordering::Relaxed);
    }

    /// Ends it. An error when it saw a wrong byte.
    pub(super) fn finish(self) -> anyhow::Result<Seen> {
        self.end.store(true, Ordering::Relaxed);
        let seen = self.thread.join().map_err(|_| anyhow!("the reader panicked"))?;
        match &seen.wrong {
            Some(wrong) => Err(anyhow!("a reader saw a wrong byte: {wrong}")),
            None => Ok(seen),
        }
    }
}

fn read_all(files: &[(Target, u64)], seed: u64, end: &AtomicBool, reads_first: &AtomicBool) -> Seen {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut seen = Seen::default();
    while !end.load(Ordering::Relaxed) {
        let least = usize::from(!reads_first.load(Ordering::Relaxed));
        let Some((target, size)) = files.get(rng.usize(least..files.len().max(least + 1))) else { continue };
        let offset = rng.u64(..*size);
        let length = rng.u64(1..=LONGEST).min(size - offset);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        seen.reads += 1;
        // Opened for each read: whether a file is watched is decided then.
        let read = File::open(target.path()).and_then(|file| file.read_exact_at(&mut bytes, offset));
        match read {
            Ok(()) => {
                let checked = target.check(offset, &bytes).context(target.path().display().to_string());
                seen.wrong = seen.wrong.or(checked.err().map(|wrong| format!("{wrong:#}")));
            }
            // Not there (any more): files are hidden before their readers are told.
            Err(error) if error.raw_os_error().is_some() => seen.errnos += 1,
            Err(error) => seen.wrong = seen.wrong.or(Some(format!("{}: {error}", target.path().display()))),
        }
    }
    seen
}
