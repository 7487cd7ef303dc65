//! The orders learned of one model, and their form outside: what `shelf` keeps on disk and `ossc-agent plan export`
//! gives away. One JSON object:
//!
//! ```text
//! {"format":"ossc-order","version":1,"source":"oss://bucket/prefix/",
//!  "files":[[key,bytes],...],
//!  "commands":{NAME:[{"version":digest of the ETags,"started_ms":since 1970,"steps":[[file,first,count,ms],...]},...]}}
//! ```
//!
//! Runs stand newest first. A step is a number of a file in `files`, its first grain and how many of them (2 MiB,
//! which every block size is a multiple of, so that a load may choose another), and when they were touched.
//! Parsing is total and allocates in proportion to the text, whose length `shelf` bounds; a refused text is no
//! loss but of time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::MAX_NAME;
use super::merge::KEPT_RUNS;
use super::model::{Model, ModelId};
use super::recorder::{MAX_STEPS, Step};
use crate::base::{BlockSize, ByteRange, FileId};

const FORMAT: &str = "ossc-order";
/// Raised when an older agent would misread the text.
const VERSION: u32 = 1;
/// Commands kept of a model. With the bounds of runs and steps a text stays below 64 MiB.
const MAX_COMMANDS: usize = 8;

/// Why a text is no order.
#[derive(Debug, thiserror::Error)]
pub enum BadOrders {
    /// Not JSON, or not of this shape.
    #[error("it is not the JSON of a learned order")]
    Json(#[from] serde_json::Error),
    /// Another format, or a version from the future.
    #[error("it is of format '{format}' version {version}; this agent knows '{FORMAT}' version {VERSION}")]
    Format {
        /// Its format.
        format: String,
        /// Its version.
        version: u32,
    },
    /// It contradicts itself.
    #[error("{0}")]
    Content(&'static str),
}

/// What was learned of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// Where the model was loaded from last, for people.
    pub source: String,
    /// Keys and sizes in bytes, indexed by `FileId`.
    pub files: Vec<(String, u64)>,
    /// The runs of each command, newest first.
    pub commands: BTreeMap<String, Vec<Run>>,
}

/// One recorded load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Digest of the ETags it read.
    pub version: String,
    /// When it began, in milliseconds since 1970. Tells the runs of a command apart.
    pub started_ms: u64,
    /// What it touched, in order.
    pub steps: Vec<Step>,
}

impl Run {
    /// Bytes it touched.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.range.len()).sum()
    }
}

impl Orders {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        Self { source: model.source.clone(), files: model.files.clone(), commands: BTreeMap::new() }
    }

    /// The model they are about.
    #[must_use]
    pub fn id(&self) -> ModelId {
        ModelId::of(&self.files)
    }

    /// Bytes of the model.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// The runs to plan a load of this version from, newest first: those of the version itself, or, while it has
    /// none, those of the versions before, which had the same keys and sizes.
    #[must_use]
    pub fn runs(&self, command: &str, version: &str) -> Vec<&Run> {
        let all: Vec<&Run> = self.commands.get(command).into_iter().flatten().collect();
        let own: Vec<&Run> = all.iter().copied().filter(|run| run.version == version).collect();
        if own.is_empty() { all } else { own }
    }

    /// Adds a run, or replaces the one that began at the same time. The oldest run beyond those kept is dropped,
    /// and so is the command that was not run for longest.
    pub fn add(&mut self, command: &str, run: Run) {
        let runs = self.commands.entry(command.to_owned()).or_default();
        runs.retain(|other| other.started_ms != run.started_ms);
        runs.push(run);
        runs.sort_by_key(|run| std::cmp::Reverse(run.started_ms));
        runs.truncate(KEPT_RUNS);
        while self.commands.len() > MAX_COMMANDS {
            let last_run = |runs: &[Run]| runs.first().map(|run| run.started_ms);
            let oldest = self.commands.iter().min_by_key(|(_, runs)| last_run(runs));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.commands.remove(&oldest);
        }
    }

    /// Takes the commands of `other`, which is about the same model, instead of those of the same name here.
    pub fn adopt(&mut self, other: Self) {
        for (command, runs) in other.commands {
            self.commands.remove(&command);
            runs.into_iter().for_each(|run| self.add(&command, run));
        }
    }

    /// The text.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = Text {
            format: FORMAT.to_owned(),
            version: VERSION,
            source: self.source.clone(),
            files: self.files.clone(),
            commands: self
                .commands
                .iter()
                .map(|(name, runs)| (name.clone(), runs.iter().map(RunText::from).collect()))
                .collect(),
        };
        // Fails only for keys that are no strings and for a writer that fails; neither is here.
        serde_json::to_vec(&text).unwrap_or_default()
    }

    /// Reads a text.
    pub fn parse(text: &[u8]) -> Result<Self, BadOrders> {
        let head: Head = serde_json::from_slice(text)?;
        if head.format != FORMAT || head.version != VERSION {
            return Err(BadOrders::Format { format: head.format, version: head.version });
        }
        let text: Text = serde_json::from_slice(text)?;
        if text.commands.len() > MAX_COMMANDS {
            return Err(BadOrders::Content("it has too many commands"));
        }
        let mut commands = BTreeMap::new();
        for (name, runs) in text.commands {
            if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
                return Err(BadOrders::Content("a command's name is empty, too long or not printable"));
            }
            if runs.is_empty() || runs.len() > KEPT_RUNS {
                return Err(BadOrders::Content("a command has no or too many runs"));
            }
            let runs = runs.into_iter().map(|run| run.check(&text.files)).collect::<Result<_, _>>()?;
            commands.insert(name, runs);
        }
        Ok(Self { source: text.source, files: text.files, commands })
    }
}

/// Looked at first, so that a version from the future is named as such.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Text {
    format: String,
    version: u32,
    source: String,
    files: Vec<(String, u64)>,
    commands: BTreeMap<String, Vec<RunText>>,
}

#[derive(Serialize, Deserialize)]
struct RunText {
    version: String,
    started_ms: u64,
    /// File, first grain, grains, milliseconds.
    steps: Vec<(u32, u32, u32, u32)>,
}

/// Bytes of the unit that ranges are written in.
fn grain() -> u64 {
    BlockSize::MIN.bytes()
}

impl From<&Run> for RunText {
    fn from(run: &Run) -> Self {
        let number = |grains: u64| u32::try_from(grains).unwrap_or(u32::MAX);
        let step = |step: &Step| {
            let first = step.range.start() / grain();
            let end = step.range.end().div_ceil(grain());
            (step.file.0, number(first), number(end - first), step.at_ms)
        };
        let steps = run.steps.iter().map(step).collect();
        Self { version: run.version.clone(), started_ms: run.started_ms, steps }
    }
}

impl RunText {
    /// The run, if it fits the files. No more bytes than the model has are believed, which bounds what merging it
    /// costs.
    fn check(self, files: &[(String, u64)]) -> Result<Run, BadOrders> {
        if self.steps.len() > MAX_STEPS {
            return Err(BadOrders::Content("a run has too many steps"));
        }
        let mut left = files.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        let mut steps = Vec::with_capacity(self.steps.len());
        for (file, first, count, at_ms) in self.steps {
            let size = usize::try_from(file).ok().and_then(|index| files.get(index)).map(|(_, size)| *size);
            let size = size.ok_or(BadOrders::Content("a step is of no file"))?;
            let start = u64::from(first) * grain();
            let range = ByteRange::new(start, start + u64::from(count) * grain()).clip(size);
            left = match left.checked_sub(range.len()) {
                Some(left) if !range.is_empty() => left,
                _ => return Err(BadOrders::Content("a run has steps outside of its files, or twice")),
            };
            steps.push(Step { file: FileId(file), range, at_ms });
        }
        Ok(Run { version: self.version, started_ms: self.started_ms, steps })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const G: u64 = 2 << 20;

    fn step(file: u32, start: u64, end: u64) -> Step {
        Step { file: FileId(file), range: ByteRange::new(start, end), at_ms: 7 }
    }

    fn run(version: &str, started_ms: u64) -> Run {
        Run {
            version: version.to_owned(),
            started_ms,
            steps: vec![step(1, 2 * G, 3 * G + 5), step(0, 0, 4 * G)],
        }
    }

    fn orders() -> Orders {
        let model = Model {
            source: "oss://b/m/".to_owned(),
            files: vec![("m/a".to_owned(), 4 * G), ("m/b".to_owned(), 3 * G + 5)],
            version: "v1".to_owned(),
        };
        let mut orders = Orders::new(&model);
        orders.add("llama-server", run("v1", 1));
        orders
    }

    fn starts(runs: &[&Run]) -> Vec<u64> {
        runs.iter().map(|run| run.started_ms).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut orders = orders();
        orders.add("python3 serve.py", run("v2", 2));
        assert_eq!(Orders::parse(&orders.encode()).unwrap(), orders);
    }

    #[test]
    fn a_new_version_inherits_until_it_has_a_run_of_its_own() {
        let mut orders = orders();
        orders.add("llama-server", run("v1", 2));
        assert_eq!(starts(&orders.runs("llama-server", "v2")), [2, 1]);
        orders.add("llama-server", run("v2", 3));
        assert_eq!(starts(&orders.runs("llama-server", "v2")), [3]);
        assert_eq!(starts(&orders.runs("llama-server", "v1")), [2, 1]);
        assert_eq!(starts(&orders.runs("cp", "v1")), [0; 0]);
    }

    #[test]
    fn old_runs_and_old_commands_are_dropped() {
        let mut orders = orders();
        (2..=9).for_each(|at| orders.add("llama-server", run("v1", at)));
        orders.add("llama-server", run("v1", 9));
        assert_eq!(starts(&orders.runs("llama-server", "v1")), [9, 8, 7, 6, 5]);
        (10..20).for_each(|at| orders.add(&format!("command {at}"), run("v1", at)));
        assert_eq!(orders.commands.len(), MAX_COMMANDS);
        assert!(!orders.commands.contains_key("llama-server") && orders.commands.contains_key("command 12"));
        assert!(Orders::parse(&orders.encode()).is_ok());
    }

    #[test]
    fn imported_commands_replace_those_of_the_same_name() {
        let (mut here, mut there) = (orders(), orders());
        here.add("cp", run("v1", 5));
        there.add("llama-server", run("v9", 0));
        here.adopt(there.clone());
        assert_eq!(here.commands["llama-server"], there.commands["llama-server"]);
        assert!(here.commands.contains_key("cp"));
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let good = String::from_utf8(orders().encode()).unwrap();
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            good.replacen(from, to, 1)
        };
        for (text, problem) in [
            (String::new(), "not the JSON"),
            ("[1]".to_owned(), "not the JSON"),
            (with("ossc-order", "other"), "format 'other'"),
            (with("\"version\":1", "\"version\":2"), "version 2"),
            (with("\"files\"", "\"fails\""), "not the JSON"),
            (with("[1,2,2,7]", "[2,2,2,7]"), "no file"),
            (with("[1,2,2,7]", "[1,4,1,7]"), "outside"),
            (with("[1,2,2,7]", "[1,2,0,7]"), "outside"),
            (with("[1,2,2,7]", "[0,0,4,7]"), "twice"),
            (with("[1,2,2,7]", "[1,4294967295,4294967295,7]"), "outside"),
            (with("[1,2,2,7]", "[1,-2,2,7]"), "not the JSON"),
            (with("llama-server", ""), "name"),
            (with("llama-server", "\\u001b[2J"), "name"),
            (with("[[1,2,2,7],[0,0,4,7]]", "5"), "not the JSON"),
        ] {
            let refusal = Orders::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(refusal.contains(problem), "{text}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn any_change_of_a_text_gives_an_answer(at in 0..400usize, byte: u8, cut: bool) {
            let mut text = orders().encode();
            let at = at % text.len();
            if cut { text.truncate(at) } else { text[at] = byte }
            if let Ok(orders) = Orders::parse(&text) {
                let runs = orders.commands.values().flatten();
                prop_assert!(runs.into_iter().all(|run| run.bytes() <= orders.size()));
            }
        }
    }
}
