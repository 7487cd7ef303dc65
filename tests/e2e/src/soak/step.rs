//! One step of the soak: a site, a load, what the plan says happens to it, and the checks of `super`'s list.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use oss_server::{Config, Object};

use super::plan::{Action, Plan};
use super::{Figures, checks};
use crate::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, exit};
use crate::content::{Content, Target};
use crate::events::{Event, text};
use crate::origin::ModelFile;
use crate::reader::{KINDS, Outcome, Reader, Reading, SLOW_KINDS};
use crate::scratch::Scratch;
use crate::site::Site;

/// Said by the agent.
const ANOTHER_KEEPER: &str = "another keeper runs";
/// Said of what is lost for good.
const LOSSES: [&str; 2] = ["a block is lost to its readers", "file is lost to its readers"];
/// Bytes of a file system that is made for a step; only what is written takes space.
const FILE_SYSTEM_BYTES: u64 = 3 << 29;
/// Reads of each reader; one that ends is followed by another.
const READS: u64 = 6;
/// Agents in a row that may end by themselves, or lose something, while the server is faulty.
const TRIES: u64 = 4;
/// Longest look at the log between two looks at the readers.
const LOOK: Duration = Duration::from_millis(50);

/// A step under way.
struct Step<'a> {
    plan: &'a Plan,
    figures: &'a mut Figures,
    reader: &'a Path,
    site: Site,
    /// The objects as they are now.
    files: Vec<ModelFile>,
    readers: Vec<Reader>,
    rng: fastrand::Rng,
    /// Logs of the agents before this one, for a failure's message.
    logs: Vec<String>,
}

/// Takes the step.
pub(super) fn take(plan: &Plan, reader: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    let disk = match plan.file_system {
        Some(file_system) => Scratch::mounted(file_system, FILE_SYSTEM_BYTES)?,
        None => Scratch::directory()?,
    };
    let place = disk.path().to_owned();
    let config = Config { rate: plan.rate, ..Config::default() };
    let site = Site::on(disk, config, plan.files.clone())?;
    let rng = fastrand::Rng::with_seed(plan.seed);
    let files = plan.files.clone();
    let mut step = Step { plan, figures, reader, site, files, readers: Vec::new(), rng, logs: Vec::new() };
    let outcome = step.run();
    step.figures.bytes = step.site.origin().sent();
    let outcome = outcome.with_context(|| {
        let tail: Vec<_> = step.logs.iter().map(|log| tail(log)).collect();
        format!("logs of the agents before:\n{}", tail.join("\n--- next agent\n"))
    });
    drop(step);
    outcome?;
    ensure!(!place.exists(), "{} is still there", place.display());
    checks::nothing_mounted(&place)
}

impl Step<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let rules: Vec<_> = self.plan.faults.iter().map(|(_, rule)| rule.clone()).collect();
        for rule in rules {
            self.site.origin().server().faults().add(rule);
            self.figures.faults += 1;
        }
        let mut agent = self.start()?;
        for (pause, action) in &self.plan.actions {
            self.read_for(Duration::from_millis(*pause))?;
            agent = self.act(*action, agent)?;
        }
        self.read_for(Duration::from_millis(self.plan.last_pause))?;
        let agent = self.complete(agent)?;
        for reader in std::mem::take(&mut self.readers) {
            self.note(reader)?;
        }
        self.check(agent)
    }

    /// An agent whose files are visible. One that ends before has to say why; then the server's faults may have to pass
    /// first.
    fn start(&mut self) -> anyhow::Result<Agent> {
        for _ in 0..TRIES {
            self.figures.agents += 1;
            let connections = self.plan.connections.to_string();
            let start = self.site.start().option("--threads", self.plan.threads.to_string());
            let agent = start.option("--connections", connections).start()?;
            if agent.wait_for(FILES_VISIBLE).is_ok() {
                return Ok(agent);
            }
            let ended = agent.finish()?;
            ensure!(!self.plan.faults.is_empty(), "an agent ended without need: {}", ended.text());
            ensure!(ended.status.code().is_some_and(|code| code > exit::INTERNAL), "{}", ended.text());
            ensure!(ended.log.iter().any(is_error), "an agent ended without a reason: {}", ended.text());
            self.figures.stated_losses += 1;
            self.logs.push(ended.text());
        }
        self.clear_faults();
        let agent = self.site.start().start()?;
        self.figures.agents += 1;
        agent.wait_for(FILES_VISIBLE)?;
        Ok(agent)
    }

    fn act(&mut self, action: Action, mut agent: Agent) -> anyhow::Result<Agent> {
        self.measure(&mut agent)?;
        match action {
            Action::KillAgent => {
                agent.process().signal(Signal::SIGKILL)?;
                agent.process().wait(PATIENCE)?;
                self.figures.agent_kills += 1;
                self.logs.push(text(&agent.log().so_far()));
                self.start()
            }
            Action::KillKeeper => {
                // One ends by itself once the load is complete.
                let keeper = checks::processes_of(&self.site.model_dir())?.into_iter().find(|(_, is)| *is);
                let Some((keeper, _)) = keeper else { return Ok(agent) };
                let others = |agent: &Agent| said(&agent.log().so_far(), ANOTHER_KEEPER);
                let before = others(&agent);
                if kill(keeper, Signal::SIGKILL).is_err() {
                    return Ok(agent);
                }
                self.figures.keeper_kills += 1;
                // Agent and keeper must not be killed together: the documented limit.
                checks::eventually("the agent did not start another keeper", PATIENCE, || {
                    let complete = said(&agent.log().so_far(), ALL_COMPLETE) > 0;
                    Ok(complete || others(&agent) > before)
                })?;
                Ok(agent)
            }
            Action::StopAgent => {
                self.figures.stops += 1;
                self.stop(agent)?;
                self.start()
            }
            Action::Evict => {
                for file in &self.files {
                    let path = self.site.model_dir().join(&file.name);
                    let Ok(file) = File::open(&path) else { continue };
                    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
                    self.figures.evictions += 1;
                }
                Ok(agent)
            }
            Action::Remove => {
                self.end_readers()?;
                self.stop(agent)?;
                self.no_process_left()?;
                std::fs::remove_dir_all(self.site.model_dir()).context("remove the model")?;
                self.figures.removals += 1;
                self.start()
            }
            Action::Replace => {
                let old = self.rng.usize(..self.files.len());
                let seed = self.rng.u64(..);
                let file = &mut self.files[old];
                file.content = Content::Synthetic(seed);
                self.site.origin().server().put(&file.key(), Object::synthetic(seed, file.size));
                self.figures.replacements += 1;
                // Those of the old version end before an agent brings the new one.
                self.end_readers()?;
                self.stop(agent)?;
                self.start()
            }
        }
    }

    fn stop(&mut self, agent: Agent) -> anyhow::Result<()> {
        let ended = agent.stop()?;
        self.figures.stated_losses += losses(&ended.log);
        self.logs.push(ended.text());
        ended.expect(exit::OK)
    }

    /// Lets readers come and go for some time.
    fn read_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            for mut reader in std::mem::take(&mut self.readers) {
                if reader.process().is_running()? {
                    self.readers.push(reader);
                } else {
                    self.note(reader)?;
                }
            }
            while self.readers.len() < self.plan.readers {
                let kinds: Vec<_> = KINDS.into_iter().filter(|kind| !SLOW_KINDS.contains(kind)).collect();
                let kind = self.rng.choice(kinds).unwrap_or("pread");
                let reading = Reading::new(self.reader, kind).scratch(&self.site.copies());
                let reading = reading.seed(self.rng.u64(..)).ops(READS);
                self.readers.push(reading.start(&self.targets())?);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // The moment itself is what is drawn, so there is nothing to wait for.
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn targets(&self) -> Vec<Target> {
        self.files.iter().map(|file| file.target(&self.site.model_dir())).collect()
    }

    fn end_readers(&mut self) -> anyhow::Result<()> {
        std::mem::take(&mut self.readers).into_iter().try_for_each(|reader| self.note(reader))
    }

    fn note(&mut self, reader: Reader) -> anyhow::Result<()> {
        let name = reader.name().to_owned();
        match reader.finish(PATIENCE)? {
            Outcome::Right => self.figures.readers_right += 1,
            Outcome::Errno(_) if self.plan.allows_errno() => self.figures.readers_refused += 1,
            other => bail!("{name}: {other:?}"),
        }
        Ok(())
    }

    fn clear_faults(&mut self) {
        let faults = self.site.origin().server().faults();
        faults.clear();
    }

    /// Waits until the load is complete; with a fresh agent and a server without faults where something was lost.
    fn complete(&mut self, mut agent: Agent) -> anyhow::Result<Agent> {
        for _ in 0..TRIES {
            let ended = agent.log().wait_for("the end of the load", PATIENCE, |event| {
                event.message() == ALL_COMPLETE || LOSSES.contains(&event.message()) && is_error(event)
            });
            if ended?.message() == ALL_COMPLETE {
                return Ok(agent);
            }
            ensure!(
                self.plan.allows_errno(),
                "lost without a fault:\n{}",
                tail(&text(&agent.log().so_far()))
            );
            for event in agent.log().so_far().iter().filter(|event| LOSSES.contains(&event.message())) {
                ensure!(event.field("cause").is_some(), "a loss without a cause: {}", event.line());
            }
            self.clear_faults();
            self.end_readers()?;
            self.stop(agent)?;
            agent = self.start()?;
        }
        bail!("the load does not complete:\n{}", tail(&text(&agent.log().so_far())))
    }

    fn measure(&mut self, agent: &mut Agent) -> anyhow::Result<()> {
        let peak = checks::peak_kib(agent.process().pid()?);
        self.figures.peak_kib = self.figures.peak_kib.max(peak);
        ensure!(peak <= checks::LIMIT_KIB, "an agent's memory reached {peak} KiB");
        Ok(())
    }

    /// The list of `super`, with the load complete.
    fn check(&mut self, mut agent: Agent) -> anyhow::Result<()> {
        self.measure(&mut agent)?;
        let pid = agent.process().pid()?;
        checks::eventually("marks of complete files are left", PATIENCE, || Ok(checks::marks(pid)? == 0))?;
        // Event loop, log, probes and lock; a connection each; a file each, and one for each file to the keeper.
        let most = 96 + self.plan.threads * (self.plan.connections + 8) + 2 * self.files.len() as u64;
        let mut now = 0;
        checks::eventually("descriptors of a complete load are left", PATIENCE, || {
            now = checks::descriptors(pid)?;
            Ok(now <= most)
        })?;
        self.figures.descriptors = self.figures.descriptors.max(now);
        for file in &self.files {
            file.target(&self.site.model_dir()).check_whole(file.size)?;
        }
        let incoming = std::fs::read_dir(self.site.model_dir().join(".ossc/incoming"));
        ensure!(incoming.context("list the incoming files")?.count() == 0, "something is left in incoming");
        self.stop(agent)?;
        self.no_process_left()?;
        Ok(())
    }

    fn no_process_left(&self) -> anyhow::Result<()> {
        let mut left = Vec::new();
        let gone = checks::eventually("a process is left", PATIENCE, || {
            left = checks::processes_of(&self.site.model_dir())?;
            Ok(left.is_empty())
        });
        gone.with_context(|| format!("processes {left:?}"))
    }
}

fn said(log: &[Event], message: &str) -> usize {
    log.iter().filter(|event| event.message() == message).count()
}

fn losses(log: &[Event]) -> u64 {
    log.iter().filter(|event| LOSSES.contains(&event.message()) && is_error(event)).count() as u64
}

fn is_error(event: &Event) -> bool {
    event.field("level").is_some_and(|level| level == "ERROR")
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
