//! Room in memory and on the disk: complete files that nobody uses give it back, when they have been idle for long
//! (`expireTimeSec`), when all together take too much memory (`--memory-budget`), or when an operator asks
//! (`ossc-agent evict`). On a disk the first two release the page cache; in a file system in memory, and for the operator,
//! the file is emptied, and its readers are held again until it has been fetched anew.
//!
//! Never under an open descriptor or a mapping. Driven by `load`'s loop, one file at a time; what blocks runs on a thread
//! of the runtime. The order of the steps of emptying is what makes a hole invisible: readers are held and the keeper has
//! its copies, then [`File::empty`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::Error;
use super::guard::Guard;
use crate::base::{Bytes, FileId, chain};
use crate::config::{self, Config};
use crate::fetch::Fetcher;
use crate::metrics::{self, Cause};
use crate::status::Evict;
use crate::store::{self, File, Freed, Store};
use crate::sys;
use crate::sys::uses::Uses;

/// What is known of one file.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// When it was complete, or was last seen in use.
    used: Instant,
    /// It has given up since what it can.
    is_done: bool,
}

/// A file that is to give something up.
#[derive(Debug)]
struct Wanted {
    file: Arc<File>,
    cause: Cause,
    /// Who asked, if anybody did.
    asked: Option<Evict>,
}

/// What a blocking step has come to.
#[derive(Debug)]
pub(super) enum Done {
    Looked(Look),
    Freed(Result<Freed, store::Error>),
}

/// What there is to give up.
#[derive(Debug)]
pub(super) struct Look {
    /// Bytes of memory that all files take.
    memory: u64,
    in_use: Vec<usize>,
    chosen: Vec<(usize, Cause)>,
}

/// Gives room back.
#[derive(Debug)]
pub(super) struct Room {
    limits: config::Room,
    store: Arc<Store>,
    uses: Option<Uses>,
    known: Vec<Known>,
    waiting: VecDeque<Wanted>,
    /// What is given up at this moment; none while the job is a look.
    current: Option<Wanted>,
    job: Option<JoinHandle<Done>>,
    numbers: metrics::Room,
    /// Takes SIGIO, whose default action would end the agent (`store::File::is_in_use`).
    _sigio: Signal,
}

impl Room {
    /// Begins to see when files are used, if that matters.
    pub(super) fn start(config: &Config, store: &Arc<Store>) -> Result<Self, Error> {
        let sigio = signal(SignalKind::io()).map_err(sys::Error::when("receive SIGIO"))?;
        let limits = config.room;
        let uses = if limits.is_limited() { watch(store) } else { None };
        let known = Known { used: Instant::now(), is_done: false };
        Ok(Self {
            limits,
            store: Arc::clone(store),
            uses,
            known: vec![known; store.files().len()],
            waiting: VecDeque::new(),
            current: None,
            job: None,
            numbers: metrics::Room::default(),
            _sigio: sigio,
        })
    }

    /// What is counted here.
    pub(super) fn numbers(&self) -> metrics::Room {
        self.numbers.clone()
    }

    /// A file is complete: its time begins.
    pub(super) fn completed(&mut self, id: FileId) {
        self.used(id.index());
    }

    fn used(&mut self, index: usize) {
        if let Some(known) = self.known.get_mut(index) {
            *known = Known { used: Instant::now(), is_done: false };
        }
    }

    /// An operator wants this.
    pub(super) fn ask(&mut self, asked: Evict) {
        if let Some(file) = self.store.file(asked.file).cloned() {
            self.waiting.push_back(Wanted { file, cause: Cause::Asked, asked: Some(asked) });
        }
    }

    /// Looks what is to be given up, unless that or something else is under way. To be called every few seconds.
    pub(super) fn look(&mut self) {
        if !self.limits.is_limited() || self.job.is_some() || !self.waiting.is_empty() {
            return;
        }
        let used: Vec<_> = self.uses.iter().flat_map(Uses::take).collect();
        used.into_iter().for_each(|index| self.used(index));
        let (store, known, limits) = (Arc::clone(&self.store), self.known.clone(), self.limits);
        self.job = Some(tokio::task::spawn_blocking(move || Done::Looked(look(&store, &known, limits))));
    }

    /// The end of the step under way; never, if there is none. Cancel safe.
    pub(super) async fn done(&mut self) -> Done {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let done = job.await;
        self.job = None;
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "giving room back ended early");
            Done::Freed(Ok(Freed::NotNow))
        })
    }

    /// Takes note of what a step has come to.
    pub(super) fn settle(&mut self, done: Done, guard: Option<&Guard>, fetcher: &Fetcher) {
        match done {
            Done::Looked(Look { memory, in_use, chosen }) => {
                self.numbers.set_memory(memory);
                in_use.into_iter().for_each(|index| self.used(index));
                for (index, cause) in chosen {
                    let file = self.store.files().get(index).cloned();
                    self.waiting.extend(file.map(|file| Wanted { file, cause, asked: None }));
                }
            }
            Done::Freed(outcome) => {
                let Some(wanted) = self.current.take() else { return };
                if wanted.is_emptied() {
                    let is_complete = wanted.file.is_complete();
                    if let Some(guard) = guard.filter(|_| is_complete) {
                        guard.release(&wanted.file);
                    }
                    fetcher.end_emptying(wanted.file.id(), !is_complete);
                }
                self.tell(wanted, outcome.map_err(Error::from));
            }
        }
    }

    /// Begins with the next file, unless something is under way. `guard` starts what holds readers where all was complete.
    pub(super) fn go_on(
        &mut self,
        fetcher: &Fetcher,
        mut guard: impl FnMut(&Arc<File>) -> Result<(), Error>,
    ) {
        while self.job.is_none()
            && let Some(wanted) = self.waiting.pop_front()
        {
            let file = Arc::clone(&wanted.file);
            let unfit = match file.is_in_use() {
                _ if !file.is_complete() => Some(Ok(Freed::NotNow)),
                Ok(false) => None,
                Ok(true) => Some(Ok(Freed::InUse)),
                Err(error) => Some(Err(error.into())),
            };
            if let Some(outcome) = unfit {
                self.tell(wanted, outcome);
                continue;
            }
            if !wanted.is_emptied() {
                self.job = Some(tokio::task::spawn_blocking(move || Done::Freed(file.release_cache())));
                self.current = Some(wanted);
                continue;
            }
            fetcher.begin_emptying(file.id());
            if let Err(error) = guard(&file) {
                fetcher.end_emptying(file.id(), false);
                self.tell(wanted, Err(error));
                continue;
            }
            self.job = Some(tokio::task::spawn_blocking(move || Done::Freed(file.empty())));
            self.current = Some(wanted);
        }
    }

    /// Waits for the step under way: before files are hidden, and before what holds readers ends.
    pub(super) async fn end(&mut self) {
        self.waiting.clear();
        if let Some(job) = self.job.take()
            && let Err(error) = job.await
        {
            tracing::error!(%error, "giving room back ended early");
        }
    }

    fn tell(&mut self, wanted: Wanted, outcome: Result<Freed, Error>) {
        let Wanted { file, cause, asked } = wanted;
        let (name, index) = (&file.object().name, file.id().index());
        match &outcome {
            Ok(Freed::Bytes(freed)) => {
                let emptied = !file.is_complete();
                tracing::info!(file = name, %cause, emptied, freed = %Bytes(*freed), "file evicted");
                self.numbers.evicted(cause, *freed);
            }
            Ok(Freed::InUse) => self.used(index),
            Ok(Freed::NotNow) => {}
            Err(error) => {
                let error = chain(error);
                tracing::warn!(file = name, %cause, error, "a file could not be evicted");
            }
        }
        if let Some(known) = self.known.get_mut(index) {
            known.is_done = matches!(outcome, Ok(Freed::Bytes(_)) | Err(_));
        }
        if let Some(asked) = asked {
            // Who asked may have left.
            asked.reply.send(outcome.map_err(|error| chain(&error))).ok();
        }
    }
}

impl Wanted {
    /// Whether its bytes go from the file, too, and not from the page cache alone.
    fn is_emptied(&self) -> bool {
        self.cause == Cause::Asked || !self.file.is_on_disk()
    }
}

fn watch(store: &Store) -> Option<Uses> {
    let watch = || {
        let mut uses = Uses::new()?;
        store.files().iter().try_for_each(|file| uses.watch(file.fd(), file.id().index()))?;
        Ok(uses)
    };
    let failed = |error: &std::io::Error| {
        tracing::warn!(
            %error,
            "when files are opened is not seen: only those open for long count as used; see fs.inotify.max_user_watches"
        );
    };
    watch().inspect_err(failed).ok()
}

fn look(store: &Store, known: &[Known], limits: config::Room) -> Look {
    let now = Instant::now();
    let (mut memory, mut in_use, mut files) = (0, Vec::new(), Vec::new());
    for (index, (file, known)) in store.files().iter().zip(known).enumerate() {
        // Where the kernel does not tell, all of a file counts until it was released.
        let whole = if known.is_done { 0 } else { file.layout().size() };
        let bytes = file.memory().unwrap_or(whole);
        memory += bytes;
        if !file.is_complete() || known.is_done || bytes == 0 {
            continue;
        }
        if file.is_in_use().unwrap_or(true) {
            in_use.push(index);
        } else {
            files.push(Idle { index, time: now.saturating_duration_since(known.used), bytes });
        }
    }
    Look { memory, in_use, chosen: choose(files, memory, limits) }
}

/// A complete file that nobody has open.
#[derive(Debug, Clone, Copy)]
struct Idle {
    index: usize,
    /// Since it was used last.
    time: Duration,
    /// Of memory.
    bytes: u64,
}

/// Those that were idle for too long, then of the others the ones idle for longest while `memory` is above the budget.
fn choose(mut files: Vec<Idle>, mut memory: u64, limits: config::Room) -> Vec<(usize, Cause)> {
    files.sort_by_key(|file| (std::cmp::Reverse(file.time), file.index));
    let mut chosen = Vec::new();
    for Idle { index, time, bytes } in files {
        let cause = if limits.expire.is_some_and(|expire| time >= expire) {
            Cause::Expired
        } else if limits.budget.is_some_and(|budget| memory > budget) {
            Cause::Budget
        } else {
            break;
        };
        memory = memory.saturating_sub(bytes);
        chosen.push((index, cause));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_go_first_and_no_more_than_needed() {
        let files = || {
            let idle = |(index, seconds)| Idle { index, time: Duration::from_secs(seconds), bytes: 10 };
            [(0, 5), (1, 50), (2, 7), (3, 50)].map(idle).to_vec()
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (expire, budget, chosen) in [
            (None, None, vec![]),
            (seconds(50), None, vec![(1, Cause::Expired), (3, Cause::Expired)]),
            (seconds(51), None, vec![]),
            // 20 bytes of 60 are those of files in use.
            (None, Some(60), vec![]),
            (None, Some(59), vec![(1, Cause::Budget)]),
            (None, Some(41), vec![(1, Cause::Budget), (3, Cause::Budget)]),
            (seconds(50), Some(35), vec![(1, Cause::Expired), (3, Cause::Expired), (2, Cause::Budget)]),
            (
                None,
                Some(0),
                vec![(1, Cause::Budget), (3, Cause::Budget), (2, Cause::Budget), (0, Cause::Budget)],
            ),
        ] {
            assert_eq!(choose(files(), 60, config::Room { expire, budget }), chosen, "{expire:?} {budget:?}");
        }
    }
}
