//! The running load: one loop over everything that can happen, then the stop in its order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::guard::{Choice, Guard};
use super::heads::{HeadReady, Heads};
use super::prepare::Prepared;
use super::restart::{self, Before};
use super::room::{self, Room};
use super::service::Service;
use super::view::Controls;
use super::{Error, Outcome};
use crate::base::{Bytes, FileId, millis};
use crate::config::{self, Config, OnChange};
use crate::fetch;
use crate::peer::Peers;
use crate::spans;
use crate::status::{Evict, Progress, Reporter, View};
use crate::store::File;
use crate::sys::signals::{Caught, Signals};
use crate::sys::{self, command::Command, privileges};
use crate::systemd;

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
    Restart,
    Cancelled,
    Evict(Evict),
    Room(room::Done),
    Tick,
    Persist,
}

/// How the loop ended.
pub(super) enum Ending {
    /// The load is over.
    Outcome(Outcome),
    /// An object changed: the agent is to begin anew. Nothing was taken from readers.
    Changed {
        /// Process id of the COMMAND, if there is one.
        command: Option<u32>,
    },
}

/// What becomes of readers of incomplete files when the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// They fail, and the files lose their names.
    Deny,
    /// They wait with the keeper for the next agent.
    HandOver,
}

/// A load in progress.
struct Load<'a> {
    config: &'a Config,
    parts: Prepared,
    room: Room,
    view: Arc<View>,
    reporter: Reporter,
    /// The writing of the ready files that was begun last.
    persisting: Option<JoinHandle<()>>,
    /// When the last file became complete.
    complete_at: Option<Instant>,
    /// When to begin anew, because an object changed.
    restart_at: Option<Instant>,
}

/// Runs the load to its end in the sense of the config, and stops it in order.
pub(super) async fn run(config: &Config, mut parts: Prepared) -> Result<Ending, Error> {
    let (cancel, mut cancelled) = unbounded_channel();
    let (evict, mut evictions) = unbounded_channel();
    let room = Room::start(config, &parts.store)?;
    let (view, _server) = super::view::serve(config, &mut parts, &room, Controls { cancel, evict });
    let mut signals = Signals::take().map_err(sys::Error::when("receive signals"))?;
    let mut heads = Heads::plan(&parts.store, &parts.fetcher, parts.learner.plan());
    parts.fetcher.start_background();
    tracing::info!(
        files = parts.store.files().len(),
        model_dir = %config.store.model_dir.display(),
        ms = millis(parts.started.elapsed()),
        "files visible"
    );
    let mut load = Load::new(config, parts, room, view);
    // After the load has begun: attaching programs takes the kernel some hundred milliseconds.
    let mut service = Service::ready(&load.progress());
    let learner = Arc::clone(&load.parts.learner);
    let mut probes = super::observe::start(config, &load.parts.store, &learner).await;
    let watch = |pid| {
        learner.add_pid(pid);
        probes.add_pid(pid);
    };
    let command = match restart::before() {
        Before::Nothing => Command::start(&config.command, &hidden(), watch),
        Before::NoCommand => Ok(None),
        Before::Command(pid) => {
            watch(pid);
            Command::adopt(pid).map(Some)
        }
    };
    // All that needs more is set up; but who begins anew sets it up again.
    if config.on_change == OnChange::Fail {
        privileges::keep_only(privileges::AGENT);
        tracing::debug!("capabilities that are not needed any more are given up");
    }
    let mut command = match command {
        Ok(command) => command,
        Err(source) => {
            load.stop(Stop::Deny).await?;
            let program = config.command.first().map(|word| word.to_string_lossy().into_owned());
            return Err(Error::Command { program: program.unwrap_or_default(), source });
        }
    };
    load.say_if_complete();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut persist = interval(PERSIST_EVERY);
    persist.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stop = Stop::Deny;
    let outcome = loop {
        if config.exit_when_complete && config.command.is_empty() && load.is_over() {
            break Some(Outcome::Complete);
        }
        let event = tokio::select! {
            biased;
            caught = signals.next() => Event::Signal(caught),
            status = ended(command.as_mut()) => Event::CommandEnded(status),
            Some(event) = load.parts.events.recv() => Event::Fetch(event),
            ready = heads.next() => Event::Head(ready),
            () = keeper_ended(load.parts.guard.as_ref()) => Event::KeeperEnded,
            () = time_of(load.restart_at) => Event::Restart,
            Some(()) = cancelled.recv() => Event::Cancelled,
            Some(evict) = evictions.recv() => Event::Evict(evict),
            done = load.room.done() => Event::Room(done),
            _ = tick.tick() => Event::Tick,
            _ = persist.tick() => Event::Persist,
        };
        match event {
            Event::Signal(caught) => match &command {
                Some(command) => command.forward(caught.0),
                None if caught.ends_agent() => {
                    if caught.is_from_manager() && !config.restart_deadline.is_zero() {
                        stop = Stop::HandOver;
                    }
                    break Some(Outcome::Stopped);
                }
                None => {}
            },
            Event::CommandEnded(status) => break Some(Outcome::CommandExited(status)),
            Event::Fetch(event) => load.on_fetch(event),
            Event::Head(ready) => heads.look(&load.parts.store, &load.parts.fetcher, ready),
            Event::KeeperEnded => load.replace_keeper().await,
            Event::Restart => break None,
            Event::Cancelled => {
                tracing::info!("the load ends, as an operator asks");
                break Some(Outcome::Stopped);
            }
            Event::Evict(evict) => {
                load.room.ask(evict);
                load.give_room();
            }
            Event::Room(done) => {
                load.room.settle(done, load.parts.guard.as_ref(), &load.parts.fetcher);
                load.give_room();
            }
            Event::Tick => {
                load.report();
                service.tick(&load.progress());
            }
            Event::Persist => {
                load.persist();
                load.room.look();
                let is_whole = load.parts.store.files().iter().all(|file| file.is_complete());
                load.parts.guard.iter_mut().for_each(|guard| guard.tidy(is_whole));
                if load.is_complete() && probes.is_over(learner.touched(), Instant::now()) {
                    probes.end();
                    load.keep_order();
                }
            }
        }
    };
    let Some(outcome) = outcome else {
        load.leave_to_keeper().await;
        return Ok(Ending::Changed { command: command.map(|command| command.pid()) });
    };
    Service::stopping();
    load.stop(stop).await?;
    Ok(Ending::Outcome(outcome))
}

/// That moment, or never if there is none.
async fn time_of(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Variables that are for the agent alone.
fn hidden() -> Vec<&'static str> {
    let secrets = config::SECRETS.iter().filter_map(|name| name.to_str().ok());
    systemd::VARIABLES.into_iter().chain(secrets).collect()
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
    fn new(config: &'a Config, parts: Prepared, room: Room, view: Arc<View>) -> Self {
        let reporter = Reporter::start(&progress(&parts));
        Self { config, parts, room, view, reporter, persisting: None, complete_at: None, restart_at: None }
    }

    fn is_complete(&self) -> bool {
        self.parts.incomplete.is_empty()
    }

    /// Whether every file is complete, and peers had time to take them from here.
    fn is_over(&self) -> bool {
        let linger = self.config.peers.as_ref().map_or(Duration::ZERO, |peers| peers.linger);
        self.is_complete() && self.complete_at.is_some_and(|complete| complete.elapsed() >= linger)
    }

    fn on_fetch(&mut self, event: fetch::Event) {
        match event {
            fetch::Event::Complete(id) => {
                let is_first = self.parts.incomplete.remove(&id);
                self.room.completed(id);
                if let Some(file) = self.parts.store.file(id) {
                    tracing::info!(file = %file.object().name, bytes = %Bytes(file.layout().size()), "file complete");
                    if let Some(guard) = &self.parts.guard {
                        guard.release(file);
                    }
                    if is_first {
                        self.show_file(file);
                    }
                }
                if is_first {
                    self.say_if_complete();
                }
            }
            fetch::Event::Failed(id, failure) => {
                if let (Some(guard), Some(file)) = (&self.parts.guard, self.parts.store.file(id)) {
                    guard.gate().fail(&**file, failure.errno());
                }
                if failure.is_changed() && self.config.on_change == OnChange::Restart {
                    self.plan_restart(id);
                }
            }
        }
    }

    fn say_if_complete(&mut self) {
        if !self.is_complete() {
            return;
        }
        self.complete_at.get_or_insert_with(Instant::now);
        self.report();
        self.reporter.finish();
        let progress = self.progress();
        tracing::info!(
            files = progress.files,
            bytes = %Bytes(progress.total),
            fetched = %Bytes(progress.fetched),
            ms = millis(self.parts.started.elapsed()),
            "all files complete"
        );
        self.parts.spans.iter().for_each(|spans| spans.step("complete", self.parts.visible, []));
        self.end_spans(&progress);
        self.parts.peers.iter().for_each(Peers::log_counts);
        // The order of the load is known now, whatever becomes of this process later.
        self.keep_order();
    }

    /// A file is complete that was not when it became visible.
    fn show_file(&self, file: &File) {
        let Some(spans) = &self.parts.spans else { return };
        let name = file.object().name.clone().into();
        let about = [("ossc.file", name), ("ossc.bytes", spans::number(file.layout().size()))];
        spans.step("file", self.parts.visible, about);
    }

    /// The load is complete, or over.
    fn end_spans(&self, progress: &Progress) {
        let Some(spans) = &self.parts.spans else { return };
        spans.end(progress.files, self.parts.incomplete.len(), progress.fetched);
    }

    fn progress(&self) -> Progress {
        progress(&self.parts)
    }

    fn report(&mut self) {
        self.reporter.update(&self.progress());
    }

    /// Has complete files give back what they are to; starts what holds readers where nobody had to be held before.
    fn give_room(&mut self) {
        let Prepared { store, fetcher, learner, guard, .. } = &mut self.parts;
        self.room.go_on(fetcher, |file| {
            if guard.as_ref().is_some_and(Guard::has_done_stopping) {
                *guard = guard.take().and_then(|guard| guard.retire(store));
            }
            if guard.is_none() {
                let started = Guard::start(self.config, store, fetcher, learner, (None, Choice::NONE))?;
                self.view.gate_started(started.gate().mode().to_string(), started.gate().numbers());
                *guard = Some(started);
            }
            guard.as_mut().map_or(Ok(()), |guard| guard.hold(file))
        });
    }

    /// Starts another keeper, as often as it takes.
    async fn replace_keeper(&mut self) {
        let Some(guard) = &mut self.parts.guard else { return };
        tracing::error!(
            "the keeper has ended: readers are not safe against the agent's death until another one runs"
        );
        match guard.replace_keeper(&self.parts.store) {
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
        let store = Arc::clone(&self.parts.store);
        self.persisting = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = store.persist() {
                tracing::warn!(%error, "progress not saved; a restart would fetch more again");
            }
        }));
    }

    /// Keeps the learned order off the loop's thread.
    fn keep_order(&self) -> JoinHandle<()> {
        let learner = Arc::clone(&self.parts.learner);
        tokio::task::spawn_blocking(move || learner.keep())
    }

    /// An object is not what was listed.
    fn plan_restart(&mut self, id: FileId) {
        let file = self.parts.store.file(id).map(|file| file.object().name.clone()).unwrap_or_default();
        let at = (self.parts.started + restart::LEAST_TIME).max(Instant::now());
        tracing::warn!(file, "an object changed in OSS: everything is listed again");
        self.restart_at.get_or_insert(at);
    }

    /// Records what there is and leaves the rest as it stands, as if this process died: the keeper holds readers.
    async fn leave_to_keeper(mut self) {
        self.end_spans(&self.progress());
        self.room.end().await;
        self.reporter.finish();
        self.parts.peers.iter().for_each(Peers::drain);
        if let Some(persisting) = self.persisting.take()
            && let Err(error) = persisting.await
        {
            tracing::error!(%error, "saving progress ended early");
        }
        let store = Arc::clone(&self.parts.store);
        match tokio::task::spawn_blocking(move || store.persist()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "progress not saved; more is fetched again"),
            Err(error) => tracing::error!(%error, "saving progress ended early"),
        }
        if let Err(error) = self.keep_order().await {
            tracing::error!(%error, "keeping the learned order ended early");
        }
        self.parts.peers.iter().for_each(Peers::stop);
        tracing::info!("beginning anew");
        // The gate's end would answer the readers that are held.
        std::mem::forget(self.parts.guard.take());
    }

    /// Ends the load. With [`Stop::Deny`]: no new work, incomplete files lose their name, waiting readers are told, the
    /// keeper looks after the rest. With [`Stop::HandOver`] the gate fails nobody while the fetcher ends; then files keep
    /// their names, and the keeper has all until the next agent takes it over.
    async fn stop(mut self, stop: Stop) -> Result<(), Error> {
        self.end_spans(&self.progress());
        self.room.end().await;
        self.reporter.finish();
        self.parts.peers.iter().for_each(Peers::drain);
        let is_handed_over =
            stop == Stop::HandOver && self.parts.store.files().iter().any(|file| !file.is_complete());
        if let Some(guard) = self.parts.guard.as_ref().filter(|_| is_handed_over) {
            guard.gate().spare();
        }
        let fetcher = self.parts.fetcher.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || fetcher.drain(DRAIN)).await {
            tracing::error!(%error, "draining the fetch threads ended early");
        }
        if let Some(peers) = &self.parts.peers {
            peers.finish().await;
        }
        self.parts.peers.iter().for_each(Peers::stop);
        if let Some(persisting) = self.persisting.take()
            && let Err(error) = persisting.await
        {
            tracing::error!(%error, "saving progress ended early");
        }
        let dormant = self.parts.fetcher.dormant();
        let missing = |file: &&Arc<File>| !file.is_complete() && !dormant.contains(&file.id());
        let incomplete = self.parts.store.files().iter().filter(missing).count();
        match self.parts.guard.take() {
            Some(guard) if is_handed_over => {
                // What cannot be saved is fetched again: no reason to fail a reader.
                if let Err(error) = self.parts.store.persist() {
                    tracing::warn!(%error, "progress not saved; the next start fetches more again");
                }
                guard.hand_over(&self.parts.store, self.config.restart_deadline);
            }
            guard => {
                self.parts.store.retire()?;
                if let Some(guard) = guard {
                    guard.stop(&self.parts.store);
                }
            }
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

fn progress(parts: &Prepared) -> Progress {
    let fetched = parts.fetcher.progress();
    let files = parts.store.files();
    Progress {
        ready: fetched.bytes_ready,
        total: fetched.bytes_total,
        fetched: fetched.counts.bytes_fetched,
        files_complete: files.iter().filter(|file| file.is_complete()).count(),
        files_evicted: parts.fetcher.dormant().len(),
        files: files.len(),
        held: parts.guard.as_ref().map_or(0, |guard| guard.gate().snapshot().held),
    }
}
