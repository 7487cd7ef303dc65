//! The soak: random loads of random models under random readers, faults, kills, restarts and evictions, one step
//! after the other, for as long as one likes. `ossc-soak` runs it for hours, `tests/soak.rs` for half a minute.
//!
//! Each step has a seed of its own, from that of the soak and its number, which decides everything but time; a step
//! that fails is told with both, and is repeated by itself with `--step`. What every step asserts:
//!
//! 1. No reader sees a wrong byte. Where nothing but agents and keepers is killed, none sees an errno either.
//! 2. Nothing hangs: readers, agents and keepers end, and loads complete, within [`PATIENCE`].
//! 3. A load completes, or the agent names what is lost, or why it ends, in an error of its log; without the faults
//!    the next agent completes it.
//! 4. Every file has the object's bytes afterwards, and nothing is left in `.ossc/incoming`.
//! 5. A complete load holds no mark and no descriptor of a held reader, and no more descriptors than it had before.
//! 6. No agent takes more memory than promised ([`checks::LIMIT_KIB`]).
//! 7. No process, mount or loop device is left of a step; no descriptor or thread of the whole soak.

pub mod checks;
mod plan;
mod step;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::agent::PATIENCE;

pub use plan::Plan;

/// What to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Decides everything but time.
    pub seed: u64,
    /// No step begins after this.
    pub time: Duration,
    /// The only step to take; all that the time allows when there is none.
    pub step: Option<u64>,
    /// Whether this process does nothing else, so that its own descriptors and threads tell what a step left.
    pub alone: bool,
    /// The reader binary.
    pub reader: PathBuf,
}

/// What was done. The figures of all steps, summed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    /// Steps taken.
    pub steps: u64,
    /// Agents started.
    pub agents: u64,
    /// Agents killed.
    pub agent_kills: u64,
    /// Keepers killed.
    pub keeper_kills: u64,
    /// Agents stopped by a signal before the load was complete.
    pub stops: u64,
    /// Models removed with all their state, and loaded anew.
    pub removals: u64,
    /// Files whose pages were dropped from the page cache.
    pub evictions: u64,
    /// Objects replaced during a load.
    pub replacements: u64,
    /// Rules by which the server spoiled replies, up to a dozen each.
    pub faults: u64,
    /// Readers that saw right bytes only.
    pub readers_right: u64,
    /// Readers that got an errno where one was allowed.
    pub readers_refused: u64,
    /// Losses that the agent named in its log.
    pub stated_losses: u64,
    /// Bytes of objects sent.
    pub bytes: u64,
    /// The highest VmHWM of an agent, in KiB.
    pub peak_kib: u64,
    /// The most descriptors of an agent whose load was complete.
    pub descriptors: u64,
    /// The longest step, in milliseconds.
    pub longest_ms: u64,
}

impl Figures {
    fn add(&mut self, step: &Self) {
        self.steps += step.steps;
        self.agents += step.agents;
        self.agent_kills += step.agent_kills;
        self.keeper_kills += step.keeper_kills;
        self.stops += step.stops;
        self.removals += step.removals;
        self.evictions += step.evictions;
        self.replacements += step.replacements;
        self.faults += step.faults;
        self.readers_right += step.readers_right;
        self.readers_refused += step.readers_refused;
        self.stated_losses += step.stated_losses;
        self.bytes += step.bytes;
        self.peak_kib = self.peak_kib.max(step.peak_kib);
        self.descriptors = self.descriptors.max(step.descriptors);
        self.longest_ms = self.longest_ms.max(step.longest_ms);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "steps {}, longest {} ms; {} MiB sent", self.steps, self.longest_ms, self.bytes >> 20)?;
        writeln!(
            f,
            "agents started {}, killed {}, stopped early {}; keepers killed {}",
            self.agents, self.agent_kills, self.stops, self.keeper_kills
        )?;
        writeln!(
            f,
            "models removed {}, files evicted {}, objects replaced {}, rules of faults {}",
            self.removals, self.evictions, self.replacements, self.faults
        )?;
        writeln!(
            f,
            "readers right {}, refused {} (where allowed), wrong 0; losses named by the agent {}",
            self.readers_right, self.readers_refused, self.stated_losses
        )?;
        write!(
            f,
            "agent's peak {} KiB of {}; descriptors of a complete load {}",
            self.peak_kib,
            checks::LIMIT_KIB,
            self.descriptors
        )
    }
}

/// Takes steps until the time is over. Each failure is given to `tell` with what repeats it, and the soak goes on; the
/// error at the end says how many there were.
pub fn run(config: &Config, mut tell: impl FnMut(&str)) -> anyhow::Result<Figures> {
    let (began, before) = (Instant::now(), checks::Own::look()?);
    let (mut sum, mut failed) = (Figures::default(), 0);
    let mut number = config.step.unwrap_or(1);
    loop {
        let plan = Plan::new(config.seed, number);
        let (started, mut figures) = (Instant::now(), Figures { steps: 1, ..Figures::default() });
        let outcome = step::take(&plan, &config.reader, &mut figures);
        figures.longest_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        sum.add(&figures);
        let seed = config.seed;
        match outcome {
            Ok(()) => tell(&format!("step {number}: ok, {} ms: {plan}", figures.longest_ms)),
            Err(error) => {
                failed += 1;
                tell(&format!(
                    "step {number} FAILED, repeat with --seed {seed} --step {number}: {plan}\n{error:#}"
                ));
            }
        }
        number += 1;
        if config.step.is_some() || began.elapsed() >= config.time {
            break;
        }
    }
    if config.alone {
        before.is_left_alone(PATIENCE)?;
    }
    ensure!(failed == 0, "{failed} of {} steps failed\n{sum}", sum.steps);
    Ok(sum)
}
