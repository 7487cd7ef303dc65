//! The program: options, port file, log, and its end by a signal.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oss_server::synthetic;

use crate::client::Client;

/// The program under test; killed if a test fails.
struct Program(Child);

impl Program {
    /// Starts it and waits for its first line.
    fn start(arguments: &[&str]) -> (Self, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_oss-server"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let program = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        (program, line.trim_end().to_owned())
    }

    /// Sends a signal; gives the exit status.
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn it_serves_until_a_signal_comes() {
    let dir = tempfile::tempdir().unwrap();
    let [files, log, port] = ["files", "log", "port"].map(|name| dir.path().join(name));
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a.txt"), "from the folder").unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (program, line) = Program::start(&[
            "--public",
            "--bucket=b",
            "--dir",
            text(&files),
            "--synthetic=m/c.bin=700G,seed=3",
            "--synthetic=m/t.bin=1M,tiled",
            "--fault=error=503:ServiceUnavailable,key=m/t.bin,nth=1",
            "--rate=1G",
            "--log",
            text(&log),
            "--port-file",
            text(&port),
        ]);
        let port: u16 = fs::read_to_string(&port).unwrap().trim().parse().unwrap();
        assert_eq!(line, format!("listening on http://127.0.0.1:{port}"));
        let mut client = Client::connect_to(([127, 0, 0, 1], port).into());
        assert_eq!(client.get("/b/a.txt").text(), "from the folder");
        let first = (700 << 30) - 1000;
        let body = client.get_range("/b/m/c.bin", &format!("bytes={first}-")).body;
        assert_eq!((synthetic::check(3, first, &body), body.len()), (None, 1000));
        assert_eq!(client.get("/b/m/t.bin").status(), 503);
        let body = client.get("/b/m/t.bin").body;
        let seed = synthetic::seed_of("m/t.bin");
        assert_eq!((synthetic::check_tiled(seed, 0, &body), body.len()), (None, 1 << 20));
        assert_eq!(program.end(signal), Some(0));
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 4);
    }
}

#[test]
fn its_authority_is_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let (program, line) = Program::start(&["--public", "--tls", "--ca-file", text(&ca), "--synthetic=k=10"]);
    let address = line.strip_prefix("listening on https://").unwrap().parse().unwrap();
    let pem = fs::read_to_string(&ca).unwrap();
    let mut client = Client::connect_tls_to(address, &pem, "localhost");
    assert_eq!(client.get("/test-bucket/k").body.len(), 10);
    assert_eq!(program.end(Signal::SIGTERM), Some(0));
}

#[test]
fn wrong_options_are_refused_with_their_reason() {
    for (argument, reason) in [
        ("--fault=short=x", "not a whole number"),
        ("--fault=close,op=x", "there is no such operation"),
        ("--rate=fast", "is not a size"),
        ("--synthetic=a", "expected KEY=SIZE"),
        ("--access-key=a", "--access-key is not ID:SECRET"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_oss-server")).arg(argument).output().unwrap();
        assert!(!output.status.success(), "{argument}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(reason), "{argument}: {said}");
    }
}
