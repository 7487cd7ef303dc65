//! Readers of known patterns under `ossc-agent trace`, and whether it tells what they read.
//!
//! A pattern is a Python script and the bytes it touches. The trace may round to pages, or, for page faults, to what
//! the kernel maps around them; more than that, or less than was touched, is wrong. On a kernel that lacks the
//! probes nothing is seen, which the trace must say itself.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use e2e::agent::Build;
use e2e::scratch::{FileSystem, Scratch};
use serde_json::Value;

use crate::report::{Seen, Trace};

/// Bytes of the file that is read.
pub(crate) const SIZE: u64 = 32 << 20;
/// It is written in pieces of so many bytes.
const PIECE: usize = 64 << 10;
const PAGE: u64 = 4096;
/// How far from the touched byte a fault may map pages (`fault_around_bytes`, mm/memory.c).
const FAULT_AROUND: u64 = 64 << 10;

/// What a reader does.
pub(crate) struct Pattern {
    /// In reports.
    pub(crate) name: &'static str,
    /// Kind of the accesses, as the trace names it.
    kind: &'static str,
    /// Finds the file in `a`.
    script: &'static str,
    /// The touched ranges, in order of their offsets.
    touched: fn() -> Vec<Range<u64>>,
}

/// One for each way to read.
pub(crate) const PATTERNS: [Pattern; 3] = [
    Pattern {
        name: "sequential read",
        kind: "read",
        script: "
f = open(a, 'rb', 0)
while f.read(1 << 20): pass
",
        touched: || std::iter::once(0..SIZE).collect(),
    },
    Pattern {
        name: "strided pread of 4 threads",
        kind: "read",
        script: "
f = os.open(a, os.O_RDONLY)
def run(k):
    for i in range(8): os.pread(f, 100000, (4 * i + k << 20) + 1000)
threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
",
        touched: || (0..32).map(|mib| (mib << 20) + 1000).map(|start| start..start + 100_000).collect(),
    },
    Pattern {
        name: "mmap",
        kind: "fault",
        // To and fro, by more than a large folio.
        script: "
f = os.open(a, os.O_RDONLY)
m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
sum(m[(i * 3 % 8 << 22) + 20000] for i in range(8))
",
        touched: || (0..8).map(|i| (i << 22) + 20_000).map(|at| at..at + 1).collect(),
    },
];

/// Runs the reader on a new file of the disk; also gives the names of the probes that the trace said it lacks.
pub(crate) fn check(
    disk: &Scratch,
    file_system: FileSystem,
    pattern: &Pattern,
) -> anyhow::Result<(Trace, Vec<String>)> {
    let path = disk.path().join("model.gguf");
    write(&path).context("write the file to read")?;
    let script = format!("import mmap, os, sys, threading\na = sys.argv[1]\n{}", pattern.script);
    let output = Command::new(Build::UnderTest.binary()?)
        .args(["trace", "--format", "json", "--path"])
        .arg(&path)
        .args(["--", "python3", "-c", &script])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .context("run ossc-agent trace")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ossc-agent trace ended with {}: {log}", output.status);
    let records = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<Vec<Value>, _>>()
        .context("the lines of the trace")?;
    let summary = records.last().context("the trace is empty")?;
    ensure!(summary["dropped"] == 0, "the trace dropped accesses: {summary}");
    let seen: Vec<_> =
        records.iter().filter(|record| record["kind"] == pattern.kind).filter_map(range).collect();
    let (seen, detail) = match judge(pattern.kind, (pattern.touched)(), seen) {
        Ok(seen) => (seen, String::new()),
        Err(detail) => (Seen::Wrong, detail),
    };
    let (file_system, pattern) = (file_system.name().to_owned(), pattern.name.to_owned());
    Ok((Trace { file_system, pattern, seen, detail }, missing(summary)))
}

/// In pieces, as files come: the kernel maps the 2 MiB folios of a single large write without a word
/// (`filemap_map_pmd`, mm/filemap.c).
fn write(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    (0..SIZE / PIECE as u64).try_for_each(|_| file.write_all(&[7; PIECE]))
}

fn range(access: &Value) -> Option<Range<u64>> {
    Some(access["start"].as_u64()?..access["end"].as_u64()?)
}

/// The names of probes in "what is not known (name: why)".
fn missing(summary: &Value) -> Vec<String> {
    let spots = summary["blind_spots"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let names = spots.filter_map(|spot| Some(spot.split_once(" (")?.1.split_once(": ")?.0));
    names.map(str::to_owned).collect()
}

/// How well `touched` was seen, or what is wrong.
fn judge(kind: &str, touched: Vec<Range<u64>>, seen: Vec<Range<u64>>) -> Result<Seen, String> {
    if seen.is_empty() {
        return Ok(Seen::Nothing);
    }
    let merged = union(seen.clone());
    if merged == touched {
        return Ok(Seen::Exact);
    }
    let pages = touched.iter().map(|range| range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE));
    if merged == union(pages.collect()) {
        return Ok(Seen::Pages);
    }
    let near = |range: &Range<u64>| {
        let with_byte =
            touched.iter().any(|touched| range.start <= touched.start && touched.end <= range.end);
        with_byte && range.end - range.start <= FAULT_AROUND
    };
    let covered =
        |touched: &Range<u64>| seen.iter().any(|seen| seen.start <= touched.start && touched.end <= seen.end);
    if kind == "fault" && seen.iter().all(near) && touched.iter().all(covered) {
        return Ok(Seen::Windows);
    }
    Err(format!("touched {touched:?}, seen {seen:?}"))
}

/// The same bytes as few ranges in order.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_judged_by_what_was_touched() {
        let list = |ranges: &[(u64, u64)]| ranges.iter().map(|&(start, end)| start..end).collect::<Vec<_>>();
        let touched = list(&[(1000, 9000), (100_000, 100_001)]);
        for (kind, seen, expected) in [
            ("read", list(&[]), Some(Seen::Nothing)),
            ("read", list(&[(100_000, 100_001), (1000, 5000), (5000, 9000)]), Some(Seen::Exact)),
            ("read", list(&[(0, 12288), (98304, 102_400)]), Some(Seen::Pages)),
            ("read", list(&[(0, 65536), (65536, 131_072)]), None),
            ("fault", list(&[(0, 65536), (65536, 131_072)]), Some(Seen::Windows)),
            ("fault", list(&[(0, 65536)]), None),
            ("fault", list(&[(0, 65536), (65536, 131_072), (131_072, 135_168)]), None),
            ("fault", list(&[(0, 131_072)]), None),
        ] {
            assert_eq!(judge(kind, touched.clone(), seen.clone()).ok(), expected, "{kind} {seen:?}");
        }
    }

    #[test]
    fn missing_probes_are_named() {
        let summary =
            serde_json::json!({ "blind_spots": ["what is touched (mm_filemap_fault: no such: file)"] });
        assert_eq!(missing(&summary), ["mm_filemap_fault"]);
    }
}
