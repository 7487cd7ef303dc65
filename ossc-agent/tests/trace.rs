//! `ossc-agent trace` from outside: readers with a known pattern, and what the built binary says of them. Needs
//! root, eBPF, tracefs and a Python, as the tests of `bpf` do.
//!
//! Nothing sleeps: a reader that has to wait does so on a pipe, and the trace of a COMMAND ends with it.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail the test too")]

#[path = "trace/ways.rs"]
mod ways;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// The most that one fault maps: a large folio (`MAX_PAGECACHE_ORDER`, include/linux/pagemap.h, is a huge page).
const MAPPED_MAX: u64 = 2 << 20;

/// Where faults are seen: at the page cache, and as kernels without its tracepoints need it.
const HOW_FAULTS: [&str; 2] = ["auto", "address"];

/// Files to read, each of `SIZE`, that go with the value.
struct Model(TempDir);

impl Model {
    fn on(parent: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("ossc-trace-").tempdir_in(parent).unwrap();
        for name in ["a.gguf", "b.gguf"] {
            let mut file = File::create(folder.path().join(name)).unwrap();
            let piece = [7].repeat(1 << 20);
            (0..SIZE / MIB).for_each(|_| file.write_all(&piece).unwrap());
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Where models are put: a disk file system and tmpfs.
fn places() -> [PathBuf; 2] {
    [std::env::temp_dir(), PathBuf::from("/dev/shm")]
}

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossc-agent"));
    command.arg("trace").stdin(Stdio::null());
    command
}

/// One line of the trace.
#[derive(Debug, Clone, PartialEq)]
struct Access {
    file: u64,
    kind: String,
    pid: u64,
    tid: u64,
    start: u64,
    end: u64,
}

/// A trace in JSON lines.
struct Trace(Vec<Value>);

impl Trace {
    /// Of a Python script that finds the model's files in `a` and `b`.
    fn of_script(model: &Model, script: &str) -> Self {
        Self::with(model, &[], script)
    }

    /// The same with these options.
    fn with(model: &Model, options: &[&str], script: &str) -> Self {
        let script = format!("import mmap, os, sys, threading\na, b = sys.argv[1:3]\n{script}");
        let output = agent()
            .args(options)
            .args(["--format", "json", "--path"])
            .arg(model.0.path())
            .args(["--", "python3", "-c", &script])
            .args([model.path("a.gguf"), model.path("b.gguf")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = Self::parse(&output.stdout);
        let summary = trace.all("summary").next().unwrap();
        assert_eq!((&summary["dropped"], &summary["accesses_left_out"]), (&0.into(), &0.into()));
        trace
    }

    fn parse(text: &[u8]) -> Self {
        Self(text.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect())
    }

    fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |record| record["type"] == kind)
    }

    fn accesses(&self, kind: &str) -> Vec<Access> {
        let number = |record: &Value, name: &str| record[name].as_u64().unwrap();
        let accesses = self.all("access").map(|record| Access {
            file: number(record, "file"),
            kind: record["kind"].as_str().unwrap().to_owned(),
            pid: number(record, "pid"),
            tid: number(record, "tid"),
            start: number(record, "start"),
            end: number(record, "end"),
        });
        accesses.filter(|access| access.kind == kind).collect()
    }

    /// The summary of a file by its place.
    fn file(&self, place: u64) -> &Value {
        self.all("file_summary").find(|record| record["file"] == place).unwrap()
    }
}

/// Whether the lines go through the whole file, each where the one before ended.
#[track_caller]
fn assert_goes_through(accesses: &[Access]) {
    let mut at = 0;
    for access in accesses {
        assert_eq!(access.start, at, "{accesses:?}");
        at = access.end;
    }
    assert_eq!(at, SIZE);
}

#[test]
fn a_sequential_read_is_the_whole_file_in_order() {
    for place in places() {
        let model = Model::on(&place);
        let trace = Trace::of_script(&model, "f = open(a, 'rb', 0)\nwhile f.read(1 << 20): pass");
        assert_goes_through(&trace.accesses("read"));
        assert!(trace.accesses("open").iter().all(|access| access.file == 0));
        let summary = trace.file(0);
        assert_eq!(summary["order"], "sequential");
        assert_eq!(
            (&summary["touched"], &summary["opens"], &summary["faults"]),
            (&SIZE.into(), &1.into(), &0.into())
        );
        assert_eq!(trace.file(1)["first_ns"], Value::Null, "nobody touched the other file");
    }
}

#[test]
fn strided_reads_of_four_threads_are_told_apart() {
    for place in places() {
        let model = Model::on(&place);
        let trace = Trace::of_script(
            &model,
            "
f = os.open(a, os.O_RDONLY)
def run(k):
    for i in range(4): os.pread(f, 1 << 20, (16 * i + 2 * k) << 20)
threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
",
        );
        let reads = trace.accesses("read");
        for k in 0..4 {
            let expected: Vec<_> = (0..4).map(|i| (16 * i + 2 * k) * MIB).collect();
            let first = reads.iter().find(|read| read.start == expected[0]).unwrap();
            let own: Vec<_> = reads.iter().filter(|read| read.tid == first.tid).collect();
            assert_eq!(own.iter().map(|read| read.start).collect::<Vec<_>>(), expected);
            assert!(own.iter().all(|read| read.end - read.start == MIB));
        }
        let summary = trace.file(0);
        assert_eq!((&summary["order"], &summary["stride"]), (&"strided".into(), &(16 * MIB).into()));
        assert_eq!((&summary["reads"], &summary["threads"]), (&16.into(), &5.into()));
        assert_eq!(summary["touched"], 16 * MIB);
    }
}

#[test]
fn faults_of_a_mapping_cover_what_was_touched_and_little_more() {
    for (place, how) in places().into_iter().flat_map(|place| HOW_FAULTS.map(|how| (place.clone(), how))) {
        let model = Model::on(&place);
        let trace = Trace::with(
            &model,
            &["--faults", how],
            "
f = os.open(a, os.O_RDONLY)
m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
sum(m[i] for i in range(0, len(m), 4096))
g = os.open(b, os.O_RDONLY)
n = mmap.mmap(g, 0, prot=mmap.PROT_READ)
# Jumps to and fro, by more than fault-around.
sum(n[i * 7919 % 64 << 20] for i in range(20))
",
        );
        let (faults_of_b, faults_of_a): (Vec<_>, Vec<_>) =
            trace.accesses("fault").into_iter().partition(|fault| fault.file == 1);
        // Where folios are large, faults come only from one to the next; by address, 64 KiB of each are known.
        if place == Path::new("/dev/shm") || how == "auto" {
            assert_goes_through(&faults_of_a);
            assert_eq!(trace.file(0)["touched"], SIZE);
        }
        assert_eq!(faults_of_a[0].start, 0);
        assert!(faults_of_a.windows(2).all(|pair| pair[0].end <= pair[1].start), "{faults_of_a:?}");
        let wanted: Vec<_> = (0..20).map(|i| i * 7919 % 64 * MIB).collect();
        let covered = |fault: &Access, byte: u64| fault.start <= byte && byte < fault.end;
        assert_eq!(faults_of_b.len(), wanted.len(), "{faults_of_b:?}");
        for (fault, &byte) in faults_of_b.iter().zip(&wanted) {
            assert!(covered(fault, byte) && fault.end - fault.start <= MAPPED_MAX, "{fault:?} for {byte}");
        }
        let maps: Vec<_> = trace.accesses("map").iter().map(|map| (map.file, map.start, map.end)).collect();
        assert_eq!(maps, [(0, 0, SIZE), (1, 0, SIZE)]);
        assert_eq!(trace.file(0)["order"], "sequential");
        assert_eq!(trace.file(1)["order"], "random");
    }
}

#[test]
fn two_processes_are_two_readers() {
    let model = Model::on(&std::env::temp_dir());
    let script = "
child = os.fork()
f = open(b if child else a, 'rb', 0)
while f.read(1 << 20): pass
if child: os.waitpid(child, 0)
";
    let trace = Trace::of_script(&model, script);
    let (of_a, of_b): (Vec<_>, Vec<_>) = trace.accesses("read").into_iter().partition(|read| read.file == 0);
    assert_goes_through(&of_a);
    assert_goes_through(&of_b);
    assert_ne!(of_a[0].pid, of_b[0].pid);
    assert_eq!(trace.all("summary").next().unwrap()["processes"], 2);
}

#[test]
fn outsiders_leave_no_record_and_grandchildren_do() {
    let model = Model::on(&std::env::temp_dir());
    let file = model.path("a.gguf");
    let output = model.0.path().join("trace.json");
    let script = "echo ready; read -r go; sh -c 'cat \"$1\" >/dev/null; :' - \"$1\"; :";
    let mut agent = Running(
        agent()
            .args(["--format", "json", "--output"])
            .arg(&output)
            .arg("--path")
            .arg(&file)
            .args(["--", "sh", "-c", script, "-"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut said = BufReader::new(agent.0.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert_eq!(std::fs::read(&file).unwrap().len() as u64, SIZE);
    assert!(Command::new("cat").arg(&file).stdout(Stdio::null()).status().unwrap().success());
    agent.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut summary = String::new();
    said.read_to_string(&mut summary).unwrap();
    assert!(agent.0.wait().unwrap().success());

    let trace = Trace::parse(&std::fs::read(&output).unwrap());
    assert_goes_through(&trace.accesses("read"));
    let readers: Vec<_> = trace.all("thread").map(|thread| thread["process"].clone()).collect();
    assert_eq!(readers, ["cat"]);
    assert!(summary.contains("\na.gguf  64.0 MiB\n  touched  64.0 MiB (100.0 %)\n"), "{summary}");
}

#[test]
fn a_signal_ends_it_with_the_summary() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let model = Model::on(&std::env::temp_dir());
        let mut agent =
            Running(agent().arg("--path").arg(model.0.path()).stdout(Stdio::piped()).spawn().unwrap());
        let mut said = BufReader::new(agent.0.stdout.take().unwrap());
        let mut text = String::new();
        said.read_line(&mut text).unwrap();
        assert_eq!(text, "# 2 files, 128.0 MiB\n");
        assert!(
            Command::new("cat").arg(model.path("b.gguf")).stdout(Stdio::null()).status().unwrap().success()
        );
        kill(Pid::from_raw(i32::try_from(agent.0.id()).unwrap()), signal).unwrap();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(agent.0.wait().unwrap().code(), Some(0), "{text}");
        assert!(text.contains(" to 1 of 2 files: 64.0 MiB of 128.0 MiB (50.0 %) touched."), "{text}");
        assert!(text.contains("\n1 file nobody touched:\n  a.gguf  64.0 MiB\n"), "{text}");
    }
}

#[test]
fn the_end_has_the_documented_status() {
    let model = Model::on(&std::env::temp_dir());
    let file = model.path("a.gguf");
    let end = |arguments: &[&str]| -> Output {
        // Paths that do not exist lie below a folder that is ours.
        agent().current_dir(model.0.path()).arg("--path").arg(&file).args(arguments).output().unwrap()
    };
    for (arguments, status, message) in [
        (&["--", "sh", "-c", "exit 7"][..], 7, ""),
        (&["--", "sh", "-c", "kill -KILL $$"], 137, ""),
        (&["--duration", "0.05"], 0, ""),
        (&["--", "./none/program"], 127, "cannot start ./none/program"),
        (&["--pid", "4194304"], 2, "cannot watch process 4194304"),
        (&["--cgroup", "none"], 2, "cannot open cgroup"),
        (&["--path", "none"], 2, "cannot trace none"),
        (&["--output", "none/trace"], 2, "cannot write the trace to none/trace"),
        (&["--format", "xml"], 2, "invalid value 'xml'"),
        (&["--duration", "-1"], 2, ""),
    ] {
        let output = end(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
        assert!(errors.contains(message), "{arguments:?}: {errors}");
    }
    assert_eq!(agent().output().unwrap().status.code(), Some(2), "no --path");
}

#[test]
fn a_command_may_outlive_its_trace() {
    let mut traced = agent();
    traced.args(["--path", "/bin/sh", "--duration", "0.01", "--", "sh", "-c", "read -r go; exit 9"]);
    let mut agent = Running(traced.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let said = BufReader::new(agent.0.stdout.take().unwrap());
    let summary = said.lines().map(Result::unwrap).find(|line| line.starts_with("In 0."));
    assert!(summary.is_some(), "the summary comes while the command runs");
    agent.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(agent.0.wait().unwrap().code(), Some(9));
}

#[test]
fn without_the_privileges_it_says_so() {
    // Not the binary where cargo put it: its folders need not be open to everyone.
    let folder = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let binary = folder.path().join("ossc-agent");
    std::fs::copy(env!("CARGO_BIN_EXE_ossc-agent"), &binary).unwrap();
    let nobody = 65534;
    let output =
        Command::new(binary).args(["trace", "--path", "/bin/sh"]).uid(nobody).gid(nobody).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{errors}");
    assert!(errors.contains("cannot load the eBPF programs; they need Linux"), "{errors}");
}

#[test]
fn the_documents_for_other_programs_are_whole() {
    let model = Model::on(&std::env::temp_dir());
    let folder = tempfile::tempdir().unwrap();
    let write = |format: &str| {
        let output = folder.path().join(format);
        let file = model.path("a.gguf");
        let mut agent = agent();
        agent.args(["--format", format, "--output"]).arg(&output).arg("--path").arg(&file);
        let ended = agent.args(["--", "sha256sum"]).arg(&file).output().unwrap();
        assert!(ended.status.success());
        std::fs::read_to_string(output).unwrap()
    };
    let events: Value = serde_json::from_str(&write("perfetto")).unwrap();
    let slices = events["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
    let bytes: u64 = slices
        .filter(|slice| slice["cat"] == "read")
        .map(|slice| slice["args"]["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(bytes, SIZE);
    let page = write("html");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n") && page.contains("a.gguf"));
    assert!(write("text").contains("  touched  64.0 MiB (100.0 %)\n"), "the file has the summary too");
}

/// A trace that ends with the test whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
