//! Memory for a run. That of a virtual machine may be its host's: what was free for a second is given back there
//! (free page reporting of the balloon), and each page that is used again is then a fault of the host, at a quarter
//! of the speed of a load. So a run is given memory that was used just before, little by little as it takes it; without
//! this the figures would tell the host's speed, and punish who is slow twice. Driven by each part of the bench.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::sysinfo::sysinfo;
use nix::unistd::gettid;

use crate::cmd;

/// Bytes given back at once.
const CHUNK: usize = 64 << 20;
/// So many bytes more than there were are kept free for the run: less than a fast load takes in the second after which
/// the host gets them, and more than it takes between two looks.
const AHEAD: u64 = 600 << 20;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(4);

/// Memory that was used, given out to whoever needs it until this is dropped.
#[derive(Debug)]
pub(super) struct Reserve {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reserve {
    /// Takes as much memory as a run of so many bytes needs, and begins to give it back.
    pub(super) fn fill(bytes: u64) -> Result<Self> {
        let chunks = usize::try_from(bytes + bytes / 4).context("more bytes than memory")? / CHUNK + 1;
        let mut held: Vec<Vec<u8>> = (0..chunks).map(|_| vec![1; CHUNK]).collect();
        let enough = free()? + AHEAD;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let give = move || {
            // Before everything else, or a busy machine would come to the end of what is free.
            let own = gettid().to_string();
            if let Err(error) = cmd::quietly(Command::new("chrt").args(["--fifo", "-p", "1", &own])) {
                eprintln!("xtask: figures may tell of the host's memory: {error:#}");
            }
            while !end.load(Ordering::Relaxed) {
                while free().is_ok_and(|free| free < enough) && held.pop().is_some() {}
                std::thread::sleep(PAUSE);
            }
        };
        Ok(Self { ended, thread: Some(std::thread::spawn(give)) })
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            thread.join().ok();
        }
    }
}

/// Bytes that nobody uses, page cache not counted.
fn free() -> Result<u64> {
    Ok(sysinfo().context("sysinfo")?.ram_unused())
}
