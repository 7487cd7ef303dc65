//! What the eBPF programs log reaches the agent's own log. A test binary of its own, because a process has one
//! subscriber. Needs root and tracefs, which `cargo xtask setup` mounts.

use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use ossc_agent::base::{AccessKind, FileId};
use ossc_agent::bpf::{Config, Probes, Seen, Targets};

/// How long the reader's accesses may take to arrive.
const DEADLINE: Duration = Duration::from_secs(30);

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_programs_log_through_tracing() {
    let lines = Lines::default();
    let writer = lines.clone();
    // The programs look at the level once, when they are loaded.
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    subscriber.with_writer(move || writer.clone()).init();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let (sender, seen) = mpsc::channel();
    let sink = move |seen| {
        if let Seen::Access(access) = seen {
            sender.send(access).unwrap_or(());
        }
    };
    let probes = Probes::start(&Config::new(Targets::Everybody), sink).unwrap();
    probes.watch(File::open(file.path()).unwrap(), FileId(77)).unwrap();

    let mut reader = Command::new("cat").arg(file.path()).stdout(Stdio::null()).spawn().unwrap();
    let pid = reader.id();
    assert!(reader.wait().unwrap().success());
    let opened = seen.recv_timeout(DEADLINE).unwrap();
    assert_eq!((opened.kind, opened.pid), (AccessKind::Open, pid));
    // The programs' last lines are read before this returns.
    drop(probes);
    let lines = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let lines = String::from_utf8(lines).unwrap();
    let expected = format!("DEBUG ossc_ebpf::open: process {pid} thread {pid} opened file 77");
    assert!(lines.contains(&expected), "{lines}");
}
