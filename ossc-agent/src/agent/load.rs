//! The running load: one loop over everything that can happen, then the stop in its order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::guard::Guard;
use super::heads::{HeadReady, Heads};
use super::learn::Learner;
use super::prepare::Prepared;
use super::{Error, Outcome};
use crate::base::{Bytes, FileId};
use crate::config::Config;
use crate::fetch::{self, Fetcher};
use crate::status::{Progress, Reporter};
use crate::store::Store;
use crate::sys::command::Command;
use crate::sys::signals::{Caught, Signals};

/// Between two looks at the progress; a bar feels live at this pace.
const TICK: Duration = Duration::from_millis(250);
/// Between two writes of the ready files; committed blocks are in the journals meanwhile.
const PERSIST_EVERY: Duration = Duration::from_secs(2);
/// How long a stop lets blocks in flight finish: under the 10 s that container runtimes give before SIGKILL.
const DRAIN: Duration = Duration::from_secs(5);

/// Between two tries to start a keeper, during which the loop does nothing else: without one, little matters.
const KEEPER_RETRY: Duration = Duration::from_millis(500);

/// Everything the loop reacts to.
enum Event {
    Fetch(fetch::Event),
    Head(HeadReady),
    Signal(Caught),
    CommandEnded(u8),
    KeeperEnded,
    Tick,
    Persist,
}

/// A load in progress.
struct Load<'a> {
    config: &'a Config,
    store: Arc<Store>,
    /// Files whose completion was not heard of yet.
    incomplete: BTreeSet<FileId>,
    fetcher: Fetcher,
    learner: Arc<Learner>,
    guard: Option<Guard>,
    reporter: Reporter,
    /// The writing of the ready files that was begun last.
    persisting: Option<JoinHandle<()>>,
    started: std::time::Instant,
}

/// Runs the load to its end in the sense of the config, and stops it in order.
pub(super) async fn run(config: &Config, prepared: Prepared) -> Result<Outcome, Error> {
    let Prepared { store, incomplete, fetcher, learner, guard, mut events, started } = prepared;
    let mut signals = Signals::take().map_err(|source| Error::System { what: "receive signals", source })?;
    let mut heads = Heads::plan(&store, &fetcher, learner.plan());
    fetcher.start_background();
    tracing::info!(
        files = store.files().len(),
        model_dir = %config.store.model_dir.display(),
        ms = started.elapsed().as_millis(),
        "files visible"
    );
    // After the load has begun: attaching programs takes the kernel some hundred milliseconds.
    let probes = super::observe::start(config, &store, &learner).await;
    let watch = |pid| {
        learner.add_pid(pid);
        probes.add_pid(pid);
    };
    let command = Command::start(&config.command, watch);
    let mut load = Load::new(config, (store, incomplete), fetcher, learner, guard, started);
    let mut command = match command {
        Ok(command) => command,
        Err(source) => {
            load.stop().await?;
            let program = config.command.first().map(|word| word.to_string_lossy().into_owned());
            return Err(Error::Command { program: program.unwrap_or_default(), source });
        }
    };
    load.say_if_complete();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut persist = interval(PERSIST_EVERY);
    persist.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let outcome = loop {
        if config.exit_when_complete && config.command.is_empty() && load.is_complete() {
            break Outcome::Complete;
        }
        let event = tokio::select! {
            biased;
            caught = signals.next() => Event::Signal(caught),
            status = ended(command.as_mut()) => Event::CommandEnded(status),
            Some(event) = events.recv() => Event::Fetch(event),
            ready = heads.next() => Event::Head(ready),
            () = keeper_ended(load.guard.as_ref()) => Event::KeeperEnded,
            _ = tick.tick() => Event::Tick,
            _ = persist.tick() => Event::Persist,
        };
        match event {
            Event::Signal(caught) => match &command {
                Some(command) => command.forward(caught.0),
                None if caught.ends_agent() => break Outcome::Stopped,
                None => {}
            },
            Event::CommandEnded(status) => break Outcome::CommandExited(status),
            Event::Fetch(event) => load.on_fetch(event),
            Event::Head(ready) => heads.look(&load.store, &load.fetcher, ready),
            Event::KeeperEnded => load.replace_keeper().await,
            Event::Tick => load.report(),
            Event::Persist => {
                load.persist();
                load.guard.iter_mut().for_each(Guard::tidy);
            }
        }
    };
    load.stop().await?;
    Ok(outcome)
}

/// The command's end, or never if there is none.
async fn ended(command: Option<&mut Command>) -> u8 {
    match command {
        Some(command) => command.ended().await,
        None => std::future::pending().await,
    }
}

/// The keeper's end, or never if there is none.
async fn keeper_ended(guard: Option<&Guard>) {
    match guard {
        Some(guard) => guard.keeper_ended().await,
        None => std::future::pending().await,
    }
}

impl<'a> Load<'a> {
    fn new(
        config: &'a Config,
        (store, incomplete): (Arc<Store>, BTreeSet<FileId>),
        fetcher: Fetcher,
        learner: Arc<Learner>,
        guard: Option<Guard>,
        started: std::time::Instant,
    ) -> Self {
        let reporter = Reporter::start(&progress(&store, &fetcher, guard.as_ref()));
        Self { config, store, incomplete, fetcher, learner, guard, reporter, persisting: None, started }
    }

    fn is_complete(&self) -> bool {
        self.incomplete.is_empty()
    }

    fn on_fetch(&mut self, event: fetch::Event) {
        match event {
            fetch::Event::Complete(id) => {
                self.incomplete.remove(&id);
                if let Some(file) = self.store.file(id) {
                    tracing::info!(file = %file.object().name, bytes = %Bytes(file.layout().size()), "file complete");
                    if let Some(guard) = &self.guard {
                        guard.release(file);
                    }
                }
                self.say_if_complete();
            }
            fetch::Event::Failed(id, failure) => {
                if let (Some(guard), Some(file)) = (&self.guard, self.store.file(id)) {
                    guard.gate().fail(&**file, failure.errno());
                }
            }
        }
    }

    fn say_if_complete(&mut self) {
        if !self.is_complete() {
            return;
        }
        self.report();
        self.reporter.finish();
        let progress = progress(&self.store, &self.fetcher, self.guard.as_ref());
        tracing::info!(
            files = progress.files,
            bytes = %Bytes(progress.total),
            fetched = %Bytes(progress.fetched),
            ms = self.started.elapsed().as_millis(),
            "all files complete"
        );
        // The order of the load is known now, whatever becomes of this process later.
        self.keep_order();
    }

    fn report(&mut self) {
        self.reporter.update(&progress(&self.store, &self.fetcher, self.guard.as_ref()));
    }

    /// Starts another keeper, as often as it takes.
    async fn replace_keeper(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        tracing::error!(
            "the keeper has ended: readers are not safe against the agent's death until another one runs"
        );
        match guard.replace_keeper(&self.store) {
            Ok(()) => tracing::info!("another keeper runs"),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "no keeper could be started; trying again"
                );
                tokio::time::sleep(KEEPER_RETRY).await;
                guard.retry_keeper();
            }
        }
    }

    /// Writes the ready files off the loop's thread: it waits for the disk. Once at a time.
    fn persist(&mut self) {
        if self.persisting.as_ref().is_some_and(|persisting| !persisting.is_finished()) {
            return;
        }
        let store = Arc::clone(&self.store);
        self.persisting = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = store.persist() {
                tracing::warn!(%error, "progress not saved; a restart would fetch more again");
            }
        }));
    }

    /// Keeps the learned order off the loop's thread.
    fn keep_order(&self) -> JoinHandle<()> {
        let learner = Arc::clone(&self.learner);
        tokio::task::spawn_blocking(move || learner.keep())
    }

    /// No new work, incomplete files lose their name, waiting readers are told, the keeper looks after the rest.
    async fn stop(mut self) -> Result<(), Error> {
        self.reporter.finish();
        let fetcher = self.fetcher.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || fetcher.drain(DRAIN)).await {
            tracing::error!(%error, "draining the fetch threads ended early");
        }
        if let Some(persisting) = self.persisting.take()
            && let Err(error) = persisting.await
        {
            tracing::error!(%error, "saving progress ended early");
        }
        let incomplete = self.store.files().iter().filter(|file| !file.is_complete()).count();
        self.store.retire()?;
        if let Some(guard) = self.guard.take() {
            guard.stop(&self.store);
        }
        if let Err(error) = self.keep_order().await {
            tracing::error!(%error, "keeping the learned order ended early");
        }
        if incomplete > 0 {
            tracing::info!(
                incomplete,
                model_dir = %self.config.store.model_dir.display(),
                "stopped before the load was complete; start again to go on where it ended"
            );
        }
        Ok(())
    }
}

fn progress(store: &Store, fetcher: &Fetcher, guard: Option<&Guard>) -> Progress {
    let fetched = fetcher.progress();
    Progress {
        ready: fetched.bytes_ready,
        total: fetched.bytes_total,
        fetched: fetched.counts.bytes_fetched,
        files_complete: store.files().iter().filter(|file| file.is_complete()).count(),
        files: store.files().len(),
        held: guard.map_or(0, |guard| guard.gate().snapshot().held),
    }
}
