//! The bench's part on what is observed of readers: what the attached probes cost those who are watched and those who
//! are not, and what a learned order saves a reader. A section of the report of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::reader::{self, Printed, Reader};
use super::settle;
use super::table::{median, sorted};
use crate::cmd::{self, Guarded};
use crate::server::{Server, Settings};

/// Bytes of the file that the probes' readers go through: in the page cache for certain.
const WARM_BYTES: u64 = 256 << 20;
/// Small reads of a run: about a second of them.
const SMALL_READS: u32 = 400_000;
/// Passes of a sequential run: about half a second.
const PASSES: u32 = 16;
/// Pairs of runs, with and without probes: the median of their ratios stands some disturbed ones.
const PAIRS: usize = 15;
const QUICK_PAIRS: usize = 3;

/// Key prefix of the model whose order is learned.
const PREFIX: &str = "shuffled/";
const FILES: u64 = 4;
const FILE_BYTES: u64 = 512 << 20;
const QUICK_FILE_BYTES: u64 = 64 << 20;
/// Bytes of a read (reader.c).
const PIECE: u64 = 4 << 20;
/// Bytes a second of the link; the reader pauses so that it reads half as many.
const LINK: u64 = 200_000_000;

/// Measures both and gives their section of the report.
pub(super) fn section(quick: bool, scratch: &Path) -> Result<String> {
    let reader = Reader::compile()?;
    let probes = probes(&reader, if quick { QUICK_PAIRS } else { PAIRS }, scratch)?;
    let learned = learned(&reader, if quick { QUICK_FILE_BYTES } else { FILE_BYTES }, scratch)?;
    Ok(format!("\n{probes}\n{learned}"))
}

/// One reader with and without probes.
struct Case {
    name: &'static str,
    mode: &'static str,
    count: u32,
    is_target: bool,
}

const CASES: [Case; 3] = [
    Case { name: "somebody else, 4 KiB preads", mode: "small", count: SMALL_READS, is_target: false },
    Case {
        name: "somebody else, sequential, 1 MiB reads",
        mode: "sequential",
        count: PASSES,
        is_target: false,
    },
    Case { name: "the target, sequential, 1 MiB reads", mode: "sequential", count: PASSES, is_target: true },
];

fn probes(reader: &Reader, pairs: usize, scratch: &Path) -> Result<String> {
    let path = scratch.join("warm.bin");
    let mut file = File::create(&path)?;
    let piece = vec![1; 1 << 20];
    (0..WARM_BYTES >> 20).try_for_each(|_| file.write_all(&piece)).context("cannot write the warm file")?;
    drop(file);
    let memory = settle(WARM_BYTES)?;
    drop(memory);
    let mut lines = String::new();
    for case in &CASES {
        let arguments = [case.mode.into(), case.count.to_string(), path.display().to_string()];
        reader.run(&arguments)?;
        let mut ratios = Vec::new();
        let mut without = Vec::new();
        for pair in 0..pairs {
            let watched = |is_watched: bool| -> Result<f64> {
                let _trace = if is_watched { Some(Trace::start(&path, case.is_target)?) } else { None };
                Ok(reader.run(&arguments)?.seconds)
            };
            // Which of the two comes first changes, so that neither has the better cache each time.
            let first_is_watched = pair % 2 == 0;
            let first = watched(first_is_watched)?;
            let second = watched(!first_is_watched)?;
            let (with, bare) = if first_is_watched { (first, second) } else { (second, first) };
            ratios.push(with / bare);
            without.push(bare);
        }
        let ratios = sorted(ratios.into_iter());
        let bare = median(&sorted(without.into_iter()));
        let bytes = match case.mode {
            "small" => f64::from(case.count) * 4096.0,
            _ => f64::from(case.count) * WARM_BYTES as f64,
        };
        let (low, high) = (ratios.first().unwrap_or(&f64::NAN), ratios.last().unwrap_or(&f64::NAN));
        let line = format!(
            "| {} | {:.2} | {:.3} ({low:.3}-{high:.3}) |\n",
            case.name,
            bytes / bare / 1e9,
            median(&ratios)
        );
        eprint!("{line}");
        lines.push_str(&line);
    }
    fs::remove_file(&path)?;
    Ok(format!(
        "## Cost of the probes\n\n\
         A reader of a file in the page cache, with a trace of that file attached or not, {pairs} pairs that take turns. The \
         trace is of everybody, so that the reader is its target, or of another process. The ratio is of the times in a \
         pair; its median, with the lowest and highest in brackets.\n\n\
         | reader | GB/s without probes | time with probes / without |\n|---|---|---|\n{lines}"
    ))
}

/// A trace that is attached; ended when dropped.
struct Trace {
    _trace: Guarded,
    _stranger: Guarded,
}

impl Trace {
    /// Of everybody or of a process that does nothing.
    fn start(path: &Path, of_everybody: bool) -> Result<Self> {
        let mut stranger = Guarded::spawn(cmd::tied("cat").stdin(Stdio::piped()).stdout(Stdio::null()))?;
        let mut command = cmd::tied(cmd::root().join("target/release/ossc-agent"));
        command.args(["trace", "--format", "json", "--path"]).arg(path);
        if !of_everybody {
            command.args(["--pid", &stranger.child().id().to_string()]);
        }
        let mut trace =
            Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let mut output = BufReader::new(trace.child().stdout.take().context("the trace has no output")?);
        // Its first line comes when the probes are attached.
        let mut line = String::new();
        output.read_line(&mut line).context("cannot read the trace")?;
        ensure!(line.contains("ossc-trace"), "the trace did not start; it said {line:?}");
        // Somebody has to take what it says.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Ok(Self { _trace: trace, _stranger: stranger })
    }
}

fn learned(reader: &Reader, file_bytes: u64, scratch: &Path) -> Result<String> {
    let objects = (0..FILES).map(|file| (format!("{PREFIX}{file:02}.bin"), file_bytes));
    let settings = Settings { synthetic: objects.collect(), rate: Some(LINK), ..Settings::default() };
    let server = Server::start(&settings)?;
    let work = tempfile::tempdir_in(scratch)?;
    let model_dir = work.path().join("models");
    let paths: Vec<PathBuf> = (0..FILES).map(|file| model_dir.join(format!("{file:02}.bin"))).collect();
    // In a second: half of the link's pieces.
    let pause_us = 2 * PIECE * 1_000_000 / LINK;
    let mut arguments = vec!["shuffled".to_owned(), pause_us.to_string()];
    arguments.extend(paths.iter().map(|path| path.display().to_string()));
    let mut loads = Vec::new();
    for _ in 0..2 {
        fs::remove_dir_all(&model_dir).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        fs::create_dir(&model_dir)?;
        let _memory = settle(FILES * file_bytes)?;
        loads.push(load(&server, work.path(), &model_dir, reader, &arguments)?);
    }
    // The second load's files, all in the page cache.
    let local = reader.run(&arguments)?;
    work.close().context("cannot remove the loaded files")?;
    Ok(learned_report(file_bytes, &loads, local))
}

/// The reader as the agent's command, on a model that is not there yet.
fn load(
    server: &Server,
    work: &Path,
    model_dir: &Path,
    reader: &Reader,
    arguments: &[String],
) -> Result<Printed> {
    let mut command: Command = cmd::tied(cmd::root().join("target/release/ossc-agent"));
    command.arg("--model-dir").arg(model_dir).arg("--state-dir").arg(work.join("state"));
    command.args(["--log-level", "error", "--"]).arg(&reader.program).args(arguments);
    reader::parse(&cmd::output(command.envs(server.environment(PREFIX)).stdin(Stdio::null()))?)
}

fn learned_report(file_bytes: u64, loads: &[Printed], local: Printed) -> String {
    let stall = |load: &Printed| (load.in_reads - local.in_reads).max(0.0);
    let first_stall = loads.first().map_or(f64::NAN, stall);
    // What no order can save: the first piece comes over the wire.
    let best = local.seconds + PIECE as f64 / LINK as f64;
    let mut lines = String::new();
    for (number, load) in (1..).zip(loads) {
        let line = format!(
            "| {number} | {:.2} | {:.2} | {:.1} % | {:.3} |\n",
            load.seconds,
            stall(load),
            100.0 * stall(load) / first_stall,
            load.seconds / best
        );
        eprint!("{line}");
        lines.push_str(&line);
    }
    format!(
        "## Learned order\n\n\
         A reader goes once through {FILES} files of {} MiB in preads of 4 MiB, in a shuffled order that is always the \
         same, with pauses that make it half as fast as the link of {} MB/s. The first load knows nothing; the second has \
         the order of the first. A stall is time in read calls beyond what the same reader spends there on the same files \
         in the page cache, where it takes {:.2} s in all. The best is that and the first piece over the wire.\n\n\
         | load | wall time, s | stalled, s | of the first load's | wall time / best |\n|---|---|---|---|---|\n{lines}",
        file_bytes >> 20,
        LINK / 1_000_000,
        local.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_what_local_files_do_not_cost() {
        let printed =
            |seconds, in_reads| Printed { seconds, in_reads, ended: 0.0, cpu_seconds: 0.0, bytes: 0 };
        let report = learned_report(1 << 30, &[printed(20.0, 11.0), printed(10.5, 1.5)], printed(10.0, 1.0));
        assert!(report.contains("| 2 | 10.50 | 0.50 | 5.0 % | 1.048 |\n"), "{report}");
    }
}
