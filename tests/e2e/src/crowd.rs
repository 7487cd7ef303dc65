//! A crowd of readers under a load: readers of every kind start at random moments while the agent fills the files,
//! and each says how it ended.
//!
//! Driven by the `readers` tests, and by `ossc-kernel-check` with a small model and few readers, since it runs on
//! emulated machines. Who comes when is decided by a seed; what a reader must see is decided by `content`.

use std::path::PathBuf;

use oss_server::Config;

use crate::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, Start, exit};
use crate::checkpoint::write_safetensors;
use crate::events::Event;
use crate::origin::{ModelFile, shards};
use crate::reader::{Outcome, Reading, SAFETENSORS, SLOW_KINDS};
use crate::scratch::{FileSystem, Scratch};
use crate::site::Site;

/// Moments are chosen up to here: the rest of the load is for the last readers to run into.
const LATEST_PERCENT: u64 = 90;

/// Which readers come to which load.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// The reader binary.
    pub reader: PathBuf,
    /// Where the model appears.
    pub file_system: FileSystem,
    /// Bytes of each of two shards.
    pub shard: u64,
    /// Tensors of 1 MiB in a third file.
    pub tensors: usize,
    /// Bytes a second that the server sends, so that the load takes as long as the readers need to start.
    pub rate: u64,
    /// Kinds of readers.
    pub kinds: Vec<&'static str>,
    /// Readers of each kind.
    pub readers_of_a_kind: u64,
    /// Reads of each thread of a quick reader.
    pub reads: u64,
    /// Decides moments, files and offsets.
    pub seed: u64,
}

/// How it went.
#[derive(Debug)]
pub struct Ended {
    /// How each reader ended, and its name.
    pub outcomes: Vec<(String, Outcome)>,
    /// The agent's log.
    pub log: Vec<Event>,
}

impl Ended {
    /// The readers that saw something else than the right bytes.
    #[must_use]
    pub fn not_right(&self) -> Vec<&(String, Outcome)> {
        self.outcomes.iter().filter(|(_, outcome)| *outcome != Outcome::Right).collect()
    }
}

impl Crowd {
    /// Loads the model with an agent started as `adapt` says; an error when the load itself does not end well.
    pub fn run(&self, adapt: impl FnOnce(Start) -> Start) -> anyhow::Result<Ended> {
        let references = Scratch::directory()?;
        let reference = references.path().join("reference");
        write_safetensors(&reference, self.seed, self.tensors, 1 << 20)?;
        let mut files = shards(2, self.shard);
        files.push(ModelFile::like("model.safetensors", reference)?);
        let site = Site::new(self.file_system, Config { rate: self.rate, ..Config::default() }, files)?;
        let (safetensors, copies) = (site.origin().files().len() - 1, site.copies());
        let targets = site.targets();

        let agent = adapt(site.start()).start()?;
        agent.wait_for(FILES_VISIBLE)?;
        let mut readers = Vec::new();
        for (moment, kind, seed) in self.plan() {
            let targets = if kind == SAFETENSORS { &targets[safetensors..] } else { &targets[..] };
            let reading = Reading::new(&self.reader, kind).scratch(&copies).seed(seed);
            let reading = match kind {
                "cp" | "sha256sum" => reading.ops(1),
                kind if kind == SAFETENSORS || SLOW_KINDS.contains(&kind) => reading.ops(3.min(self.reads)),
                _ => reading.ops(self.reads).threads(2),
            };
            site.wait_percent(moment, PATIENCE)?;
            readers.push((format!("{kind} from {moment} % on, seed {seed}"), reading.start(targets)?));
        }
        let outcomes = readers
            .into_iter()
            .map(|(name, reader)| Ok((name, reader.finish(PATIENCE)?)))
            .collect::<anyhow::Result<_>>()?;

        agent.wait_for(ALL_COMPLETE)?;
        site.check_files()?;
        let ended = agent.stop()?;
        ended.expect(exit::OK)?;
        Ok(Ended { outcomes, log: ended.log })
    }

    /// When which reader starts, in percent of the load, and its own seed; in order of time.
    fn plan(&self) -> Vec<(u64, &'static str, u64)> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut plan: Vec<_> = self
            .kinds
            .iter()
            .flat_map(|kind| (0..self.readers_of_a_kind).map(move |_| *kind))
            .map(|kind| (rng.u64(0..=LATEST_PERCENT), kind, rng.u64(..)))
            .collect();
        plan.sort_unstable();
        plan
    }
}
