//! The thread that empties the ring buffers: what they tell goes to the sink, log lines of the programs
//! go to the `log` facade. It sleeps in poll(2) and ends, after a last look, when the consumer is dropped.
//!
//! The programs wake it for the first record after a pause, not for each: once woken it looks again by itself
//! until there is nothing left.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ossc_common::WAKE_INTERVAL_MS;

use super::resolve::Resolver;
use super::{Error, Seen, lock, record};
use crate::sys::privileges;

/// Reads what the programs log and passes it to the process's `log` logger.
pub(super) type Logger = EbpfLogger<&'static dyn log::Log>;

/// How long to sleep while records keep coming: twice the programs' pause between wake-ups, in milliseconds, so
/// that a record they did not wake us for has long arrived.
const BUSY: u16 = 2 * WAKE_INTERVAL_MS;
/// How long to sleep otherwise, in milliseconds. Only a processor held up between deciding not to wake us and
/// delivering its record makes us wait so long.
const IDLE: u16 = 1000;

/// The running thread.
#[derive(Debug)]
pub(super) struct Consumer {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Consumer {
    pub(super) fn start(
        mut records: RingBuf<MapData>,
        mut logger: Option<Logger>,
        resolver: Arc<Mutex<Resolver>>,
        mut sink: impl FnMut(Seen) + Send + 'static,
    ) -> Result<Self, Error> {
        let start_failed = |error: Errno| Error::Consumer(io::Error::from(error));
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Arc::new(EventFd::from_value_and_flags(0, flags).map_err(start_failed)?);
        let stopped = Arc::clone(&stop);
        let run = move || {
            privileges::keep_only(privileges::PROBES);
            let (mut running, mut patience) = (true, IDLE);
            while running {
                running = wait(&records, logger.as_ref(), &stopped, patience);
                patience = IDLE;
                while let Some(entry) = records.next() {
                    patience = BUSY;
                    match record::entry(&entry) {
                        Some(entry) => lock(&resolver).take(entry, &mut sink),
                        None => {
                            tracing::debug!(bytes = entry.len(), "an entry of the ring buffer is no record")
                        }
                    }
                }
                if let Some(logger) = &mut logger {
                    logger.flush();
                }
            }
        };
        let thread = thread::Builder::new().name("ossc-bpf".into()).spawn(run).map_err(Error::Consumer)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Err(error) = self.stop.write(1) {
            tracing::error!(%error, "cannot tell the thread that reads eBPF records to end");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that reads eBPF records panicked");
        }
    }
}

/// Sleeps until there is something to read; whether to go on after having read it.
fn wait(records: &RingBuf<MapData>, logger: Option<&Logger>, stop: &EventFd, patience: u16) -> bool {
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = vec![readable(stop.as_fd()), readable(records.as_fd())];
    fds.extend(logger.map(|logger| readable(logger.as_fd())));
    match poll(&mut fds, PollTimeout::from(patience)) {
        Ok(_) => fds.first().is_none_or(|stop| stop.any() != Some(true)),
        Err(Errno::EINTR) => true,
        Err(error) => {
            // Without poll there is no way to be told to end either.
            tracing::error!(%error, "cannot wait for eBPF records; no further access is seen");
            false
        }
    }
}
