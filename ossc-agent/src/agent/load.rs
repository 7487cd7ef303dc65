//! The running load: one loop over everything that can happen, then the stop in its order.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::heads::{HeadReady, Heads};
use super::prepare::Prepared;
use super::{Error, Outcome};
use crate::base::Bytes;
use crate::config::Config;
use crate::fetch::{self, Fetcher};
use crate::gate::Gate;
use crate::status::{Progress, Reporter};
use crate::store::Store;
use crate::sys::command::Command;
use crate::sys::signals::{Caught, Signals};

/// Between two looks at the progress; a bar feels live at this pace.
const TICK: Duration = Duration::from_millis(250);
/// Between two writes of the ready files: at most this much of a load is fetched again after a crash.
const PERSIST_EVERY: Duration = Duration::from_secs(2);
/// How long a stop lets blocks in flight finish: under the 10 s that container runtimes give before SIGKILL.
const DRAIN: Duration = Duration::from_secs(5);

/// Everything the loop reacts to.
enum Event {
    Fetch(fetch::Event),
    Head(HeadReady),
    Signal(Caught),
    CommandEnded(u8),
    Tick,
    Persist,
}

/// A load in progress.
struct Load<'a> {
    config: &'a Config,
    store: Arc<Store>,
    fetcher: Fetcher,
    gate: Option<Gate>,
    reporter: Reporter,
    started: std::time::Instant,
}

/// Runs the load to its end in the sense of the config, and stops it in order.
pub(super) async fn run(config: &Config, prepared: Prepared) -> Result<Outcome, Error> {
    let Prepared { store, fetcher, gate, mut events, started } = prepared;
    let mut signals = Signals::take().map_err(|source| Error::System { what: "receive signals", source })?;
    let mut heads = Heads::plan(&store, &fetcher);
    fetcher.start_background();
    tracing::info!(
        files = store.files().len(),
        model_dir = %config.store.model_dir.display(),
        ms = started.elapsed().as_millis(),
        "files visible"
    );
    // After the load has begun: attaching programs takes the kernel some hundred milliseconds.
    let probes = super::observe::start(config, &store).await;
    let mut command = match Command::start(&config.command, |pid| probes.add_pid(pid)) {
        Ok(command) => command,
        Err(source) => {
            Load::new(config, store, fetcher, gate, started).stop().await?;
            let program = config.command.first().map(|word| word.to_string_lossy().into_owned());
            return Err(Error::Command { program: program.unwrap_or_default(), source });
        }
    };
    let mut load = Load::new(config, store, fetcher, gate, started);
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
            Event::Tick => load.report(),
            Event::Persist => load.persist().await,
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

impl<'a> Load<'a> {
    fn new(
        config: &'a Config,
        store: Arc<Store>,
        fetcher: Fetcher,
        gate: Option<Gate>,
        started: std::time::Instant,
    ) -> Self {
        let reporter = Reporter::start(&progress(&store, &fetcher, gate.as_ref()));
        Self { config, store, fetcher, gate, reporter, started }
    }

    fn is_complete(&self) -> bool {
        self.store.files().iter().all(|file| file.is_complete())
    }

    fn on_fetch(&mut self, event: fetch::Event) {
        match event {
            fetch::Event::Complete(id) => {
                if let Some(file) = self.store.file(id) {
                    tracing::info!(file = %file.object().name, bytes = %Bytes(file.layout().size()), "file complete");
                    if let Some(gate) = &self.gate {
                        gate.release(&**file);
                    }
                }
                self.say_if_complete();
            }
            fetch::Event::Failed(id, failure) => {
                if let (Some(gate), Some(file)) = (&self.gate, self.store.file(id)) {
                    gate.fail(&**file, failure.errno());
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
        let progress = progress(&self.store, &self.fetcher, self.gate.as_ref());
        tracing::info!(
            files = progress.files,
            bytes = %Bytes(progress.total),
            fetched = %Bytes(progress.fetched),
            ms = self.started.elapsed().as_millis(),
            "all files complete"
        );
    }

    fn report(&mut self) {
        self.reporter.update(&progress(&self.store, &self.fetcher, self.gate.as_ref()));
    }

    /// Writes the ready files off the loop's thread: it waits for the disk.
    async fn persist(&self) {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || store.persist()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "progress not saved; a restart would fetch more again"),
            Err(error) => tracing::error!(%error, "saving progress ended early"),
        }
    }

    /// No new work, incomplete files lose their name, waiting readers are told, marks go.
    async fn stop(mut self) -> Result<(), Error> {
        self.reporter.finish();
        let fetcher = self.fetcher.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || fetcher.drain(DRAIN)).await {
            tracing::error!(%error, "draining the fetch threads ended early");
        }
        let incomplete = self.store.files().iter().filter(|file| !file.is_complete()).count();
        self.store.retire()?;
        if let Some(gate) = self.gate.take() {
            gate.stop();
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

fn progress(store: &Store, fetcher: &Fetcher, gate: Option<&Gate>) -> Progress {
    let fetched = fetcher.progress();
    Progress {
        ready: fetched.bytes_ready,
        total: fetched.bytes_total,
        fetched: fetched.counts.bytes_fetched,
        files_complete: store.files().iter().filter(|file| file.is_complete()).count(),
        files: store.files().len(),
        held: gate.map_or(0, |gate| gate.snapshot().held),
    }
}
