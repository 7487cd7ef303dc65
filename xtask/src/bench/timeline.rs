//! What a process has written, over time: the kernel's count of bytes in its write calls (proc_pid_io(5)), looked at
//! until it has ended.

use std::fs;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const EVERY: Duration = Duration::from_millis(20);

/// Looks at one process.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<Vec<(f64, f64)>>);

impl Watch {
    /// Begins, with the process just started.
    pub(super) fn start(pid: u32) -> Self {
        let began = Instant::now();
        Self(thread::spawn(move || {
            let mut points = Vec::new();
            while let Some(bytes) = written(pid) {
                points.push((began.elapsed().as_secs_f64(), bytes as f64 / 1e9));
                thread::sleep(EVERY);
            }
            points
        }))
    }

    /// Seconds and gigabytes; call it when the process has ended.
    pub(super) fn end(self) -> Result<Vec<(f64, f64)>> {
        self.0.join().ok().context("the thread that looks at a process panicked")
    }
}

/// `None` when the process has ended: a zombie has no such count.
fn written(pid: u32) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    if fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(')')?.1.starts_with(" Z") {
        return None;
    }
    io.lines().find_map(|line| line.strip_prefix("wchar:")?.trim().parse().ok())
}
