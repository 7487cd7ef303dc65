//! The threads that move bytes: each has its own single-threaded runtime and its own connections, one task a
//! connection (`worker`). This file starts and ends them.
//!
//! On drain every task ends at its next block; at the deadline the rest is cut off, which loses only the blocks
//! begun. A task that panics ends alone, with a line in the log; what it had in flight stays held, never wrong.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet, spawn_local};

use super::StartError;
use super::queue::Queue;
use super::source::Source;
use super::worker::{Connect, Connection, Shared};
use crate::sys::privileges;

/// How far the threads are on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Blocks begun may end; no waiting for a retry any more.
    Draining,
    /// Everything is dropped where it stands.
    Halted,
}

/// The running threads. Dropping it halts them without waiting.
pub(super) struct Threads {
    phase: watch::Sender<Phase>,
    running: Mutex<Running>,
}

struct Running {
    handles: Vec<JoinHandle<()>>,
    /// Closed when the last thread has ended; nothing is ever sent.
    ended: Receiver<()>,
}

impl Threads {
    pub(super) fn start<S: Source + 'static>(
        shared: &Arc<Shared>,
        connect: &Connect<S>,
        threads: u32,
        connections: u32,
    ) -> Result<Self, StartError> {
        let (phase, _) = watch::channel(Phase::Running);
        let (alive, ended) = channel();
        let started = Self { phase, running: Running { handles: Vec::new(), ended }.into() };
        for number in 0..threads {
            let fail = |source| StartError { number, source };
            let runtime = Builder::new_current_thread().enable_all().build().map_err(fail)?;
            let thread = Thread {
                shared: Arc::clone(shared),
                connect: Arc::clone(connect),
                phase: started.phase.subscribe(),
                _alive: alive.clone(),
            };
            let handle = std::thread::Builder::new()
                .name(format!("ossc-fetch-{number}"))
                .spawn(move || {
                    privileges::keep_only(privileges::FETCH);
                    thread.run(&runtime, connections);
                })
                .map_err(fail)?;
            started.with_running(|running| running.handles.push(handle));
        }
        Ok(started)
    }

    /// Ends the threads: gives blocks in flight until the deadline, then cuts off. Joins them all.
    pub(super) fn drain(&self, queue: &Queue, timeout: Duration) {
        queue.close();
        self.phase.send_replace(Phase::Draining);
        self.with_running(|running| {
            if running.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!(?timeout, "requests still running at the end of the drain time are cut off");
                self.phase.send_replace(Phase::Halted);
            }
            for handle in running.handles.drain(..) {
                if handle.join().is_err() {
                    tracing::error!("a fetch thread had panicked");
                }
            }
        });
    }

    fn with_running<R>(&self, act: impl FnOnce(&mut Running) -> R) -> R {
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Halted);
    }
}

/// One thread's share.
struct Thread<S> {
    shared: Arc<Shared>,
    connect: Connect<S>,
    phase: watch::Receiver<Phase>,
    /// Dropped when the thread ends.
    _alive: Sender<()>,
}

impl<S: Source + 'static> Thread<S> {
    fn run(self, runtime: &Runtime, connections: u32) {
        LocalSet::new().block_on(runtime, async {
            // In a task of its own, so that it is looked at when a connection ends and not whenever bytes come.
            let supervisor = spawn_local(async move {
                let mut tasks = JoinSet::new();
                for _ in 0..connections {
                    let (shared, connect) = (Arc::clone(&self.shared), Arc::clone(&self.connect));
                    tasks.spawn_local(Connection::new(shared, connect, self.phase.clone()).run());
                }
                let mut phase = self.phase.clone();
                let all = async {
                    while let Some(ended) = tasks.join_next().await {
                        if let Err(error) = ended {
                            tracing::error!(%error, "a connection is out of service");
                        }
                    }
                };
                tokio::select! {
                    () = all => {}
                    _ = phase.wait_for(|phase| *phase == Phase::Halted) => {}
                }
            });
            if let Err(error) = supervisor.await {
                tracing::error!(%error, "a fetch thread is out of service");
            }
        });
    }
}
