//! A forward proxy that others wrote: `proxy.py`, with a user and a password.
//!
//! Driven by the tests of `--origin-proxy`. It ends, with its helper processes, when it is dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::process::Process;
use crate::python;

/// Who may use it.
pub const USER: &str = "model";
/// The password, as it stands in an address and in the word that the proxy compares.
pub const PASSWORD: &str = "open-sesame-7";

/// Says its port when it listens.
const PROGRAM: &str = "import proxy, sys, time
with proxy.Proxy(sys.argv[1:]) as started:
    print(started.flags.port, flush=True)
    while True: time.sleep(3600)
";

/// A running proxy.
#[derive(Debug)]
pub struct Forward {
    _process: Process,
    address: SocketAddr,
}

impl Forward {
    /// Starts one on a free port and waits until it listens.
    pub fn start() -> anyhow::Result<Self> {
        let mut process = Process::spawn(
            Command::new(python::interpreter()?)
                .args(["-c", PROGRAM, "--hostname", "127.0.0.1", "--port", "0"])
                .args(["--num-workers", "1", "--num-acceptors", "1", "--log-level", "ERROR"])
                .args(["--basic-auth", &format!("{USER}:{PASSWORD}")])
                .stdin(Stdio::null())
                .stdout(Stdio::piped()),
        )?;
        let output = process.child().stdout.take().context("its output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("read the proxy's port")?;
        let port: u16 = line.trim().parse().with_context(|| {
            format!("the proxy said {line:?} instead of its port: run `cargo xtask setup`, which installs it")
        })?;
        Ok(Self { _process: process, address: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as somebody has it who may use it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{USER}:{PASSWORD}@{}", self.address)
    }
}
