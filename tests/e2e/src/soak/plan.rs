//! What one step of the soak does, drawn from its seed. Pure, and printable as one line.

use std::fmt;

use oss_server::{Fault, Operation, Rule};

use crate::origin::{ModelFile, PREFIX};
use crate::scratch::FileSystem;

const MIB: u64 = 1 << 20;
/// Most files of a model, and most bytes of one: a step is to take seconds.
const MOST_FILES: u64 = 6;
const MOST_BYTES: u64 = 64 * MIB;
/// Bytes a second of the server.
const RATES: std::ops::Range<u64> = 20_000_000..200_000_000;
/// Longest time between two actions, in milliseconds.
const LONGEST_PAUSE: u64 = 900;

/// What a step does.
#[derive(Debug)]
pub struct Plan {
    /// Where the model is put; `None` is the machine's own disk.
    pub(super) file_system: Option<FileSystem>,
    /// The model.
    pub(super) files: Vec<ModelFile>,
    /// Bytes a second of the server.
    pub(super) rate: u64,
    /// Rules of misbehaviour of the server, in its command line's words and as it takes them.
    pub(super) faults: Vec<(String, Rule)>,
    /// What happens during the load, and how many milliseconds after what happened before.
    pub(super) actions: Vec<(u64, Action)>,
    /// How long readers are still started after all that.
    pub(super) last_pause: u64,
    /// How many readers at a time.
    pub(super) readers: usize,
    /// Threads and connections of the agent.
    pub(super) threads: u64,
    pub(super) connections: u64,
    /// For the choices of the readers.
    pub(super) seed: u64,
}

/// One thing that happens during a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// SIGKILL of the agent; another one is started.
    KillAgent,
    /// SIGKILL of the keeper; the agent starts another one.
    KillKeeper,
    /// SIGTERM of the agent; another one is started.
    StopAgent,
    /// Drops the pages of every file from the page cache.
    Evict,
    /// Stops the agent, removes the model directory, starts again.
    Remove,
    /// Puts another version of one object in its place; another agent is started.
    Replace,
}

impl Plan {
    /// The plan of one step.
    #[must_use]
    pub fn new(seed: u64, step: u64) -> Self {
        // Any odd constant keeps the steps' sequences apart; this one is 2^64 over the golden ratio.
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let file_system = match rng.u8(..8) {
            0 => Some(FileSystem::Ext4),
            1 => Some(FileSystem::Xfs),
            2 => Some(FileSystem::Btrfs),
            _ => None,
        };
        let files = (0..rng.u64(1..=MOST_FILES)).map(|file| any_file(&mut rng, seed, step, file)).collect();
        let faults = (0..rng.u8(..8).saturating_sub(4)).map(|_| any_fault(&mut rng)).collect();
        let count = rng.u64(..6);
        let actions = (0..count).map(|_| (rng.u64(20..LONGEST_PAUSE), any_action(&mut rng))).collect();
        Self {
            file_system,
            files,
            rate: rng.u64(RATES),
            faults,
            actions,
            last_pause: rng.u64(..LONGEST_PAUSE),
            readers: rng.usize(1..=10),
            threads: rng.u64(1..=3),
            connections: rng.u64(1..=6),
            seed: rng.u64(..),
        }
    }

    /// Whether a reader may get an errno: where OSS fails, where agents stop, and where versions end.
    pub(super) fn allows_errno(&self) -> bool {
        let ends =
            |action: &(u64, Action)| matches!(action.1, Action::StopAgent | Action::Remove | Action::Replace);
        !self.faults.is_empty() || self.actions.iter().any(ends)
    }
}

fn any_file(rng: &mut fastrand::Rng, seed: u64, step: u64, file: u64) -> ModelFile {
    let size = match rng.u8(..8) {
        0 => 0,
        1 => rng.u64(1..5000),
        // At the edge of a block.
        2 => (rng.u64(1..16) * 2 * MIB).saturating_add_signed(rng.i64(-1..=1)),
        _ => rng.u64(1..MOST_BYTES),
    };
    let folder = if rng.u8(..4) == 0 { "sub dir/" } else { "" };
    // The name decides the content, so it must be another one in each step.
    ModelFile::synthetic(&format!("{folder}m-{seed}-{step}-{file}.gguf"), size)
}

fn any_action(rng: &mut fastrand::Rng) -> Action {
    match rng.u8(..12) {
        0..=4 => Action::KillAgent,
        5..=6 => Action::KillKeeper,
        7 => Action::StopAgent,
        8..=9 => Action::Evict,
        10 => Action::Remove,
        _ => Action::Replace,
    }
}

/// A fault that passes: the load must get over it, or say what it cost.
fn any_fault(rng: &mut fastrand::Rng) -> (String, Rule) {
    let after = rng.u64(..4 * MIB);
    let text = match rng.u8(..14) {
        0 => "error=503:ServiceUnavailable".to_owned(),
        1 => "error=503:DownloadQpsLimitExceeded".to_owned(),
        2 => "error=500:InternalError".to_owned(),
        3 => "error=403:AccessDenied,op=get".to_owned(),
        4 => format!("short={after}"),
        5 => format!("reset={after}"),
        6 => format!("stall={}@{after}", rng.u64(1..3000)),
        7 => "wrong-range=4096,op=get".to_owned(),
        8 => "full-body,op=get".to_owned(),
        9 => format!("drip={},op=get", rng.u64(1 << 20..4 << 20)),
        10 => "close".to_owned(),
        11 => "close-after".to_owned(),
        12 => format!("excess={}", rng.u64(1..5000)),
        _ => "replaced,op=get".to_owned(),
    };
    let (times, skip) = (rng.u64(1..12), rng.u64(..6));
    let text = format!("{text},key={PREFIX}*,times={times},skip={skip}");
    let rule =
        text.parse().unwrap_or_else(|_| Rule::new(Fault::Close).operation(Operation::Get).times(times));
    (text, rule)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<_> = self.files.iter().map(|file| file.size).collect();
        let file_system = self.file_system.map_or("own disk", FileSystem::name);
        write!(
            f,
            "{file_system}, files {sizes:?}, {} MB/s, {} readers, ",
            self.rate / 1_000_000,
            self.readers
        )?;
        write!(f, "{}x{} connections, actions {:?}", self.threads, self.connections, self.actions)?;
        let faults: Vec<_> = self.faults.iter().map(|(text, _)| text.as_str()).collect();
        if faults.is_empty() { Ok(()) } else { write!(f, ", faults {faults:?}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_repeated_by_its_numbers_and_every_fault_is_understood() {
        let mut kinds = std::collections::BTreeSet::new();
        for step in 0..2000 {
            let plan = Plan::new(7, step);
            assert_eq!(plan.to_string(), Plan::new(7, step).to_string());
            for (text, rule) in &plan.faults {
                assert_eq!(text.parse::<Rule>().ok().as_ref(), Some(rule), "{text}");
                kinds.insert(text.split(['=', ',']).next().unwrap_or_default().to_owned());
            }
        }
        assert_eq!(kinds.len(), 11, "{kinds:?}");
    }
}
