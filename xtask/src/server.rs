//! The OSS test server as `demo` and `bench` use it: its own process on a free loopback port, given the
//! same credentials as the agent, ended when the handle is dropped. A server that does not come up is
//! an error at once, with what it printed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cmd::{self, Guarded};

/// Name of the one bucket.
pub(crate) const BUCKET: &str = "models";
/// Made-up credentials: the server verifies every signature against them.
pub(crate) const KEY_ID: &str = "local-test-key";
pub(crate) const KEY_SECRET: &str = "local-test-secret";
/// A region makes the agent sign with V4.
const REGION: &str = "cn-local";
/// The server's first line is this and its address.
const GREETING: &str = "listening on ";

/// What to serve, and how.
#[derive(Debug, Default, Clone)]
pub(crate) struct Settings {
    /// A directory whose files are the objects.
    pub(crate) directory: Option<PathBuf>,
    /// Objects made from nothing: key and bytes.
    pub(crate) synthetic: Vec<(String, u64)>,
    /// Bytes per second over all connections; None is as fast as it goes.
    pub(crate) rate: Option<u64>,
    /// Bytes per second of each connection.
    pub(crate) connection_rate: Option<u64>,
    /// Whether unsigned requests are answered, too.
    pub(crate) public: bool,
    /// Speak TLS, and where the certificate of its authority goes.
    pub(crate) tls: Option<PathBuf>,
    /// Fault rules, as the server's command line takes them.
    pub(crate) faults: Vec<String>,
    /// Where each request is logged.
    pub(crate) log: Option<PathBuf>,
    /// Where it listens; a free port of the loopback network if not said.
    pub(crate) listen: Option<SocketAddr>,
    /// Network namespace to run in.
    pub(crate) within: Option<String>,
    /// The debug build.
    pub(crate) debug: bool,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: String,
    ca_file: Option<PathBuf>,
    _process: Guarded,
}

impl Server {
    /// Compiles it; `start` expects this to have been called.
    pub(crate) fn build() -> Result<()> {
        cmd::run(&mut cmd::cargo(&["build", "--release", "-p", "oss-server"]))
    }

    /// Starts it and waits until it says that it listens.
    pub(crate) fn start(settings: &Settings) -> Result<Self> {
        let profile = if settings.debug { "debug" } else { "release" };
        let program = cmd::root().join("target").join(profile).join("oss-server");
        let mut command = match &settings.within {
            Some(namespace) => {
                let mut command = cmd::tied("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
                command
            }
            None => cmd::tied(program),
        };
        let listen = settings.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        command.args(["--listen", &listen.to_string(), "--bucket", BUCKET, "--region", REGION]);
        command.args(["--access-key", &format!("{KEY_ID}:{KEY_SECRET}")]);
        if let Some(directory) = &settings.directory {
            command.arg("--dir").arg(directory);
        }
        for (key, bytes) in &settings.synthetic {
            // Tiled objects are sent from memory, so the server costs as little as the floor's; with a checksum,
            // so that the agent has the work it has with OSS.
            command.args(["--synthetic", &format!("{key}={bytes},tiled,crc")]);
        }
        if let Some(rate) = settings.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if let Some(rate) = settings.connection_rate {
            command.args(["--connection-rate", &rate.to_string()]);
        }
        if let Some(ca_file) = &settings.tls {
            command.arg("--tls").arg("--ca-file").arg(ca_file);
        }
        for fault in &settings.faults {
            command.args(["--fault", fault]);
        }
        if settings.public {
            command.arg("--public");
        }
        if let Some(log) = &settings.log {
            command.arg("--log").arg(log);
        }
        let mut process = Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = process.child().stdout.take().context("the test server has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read what the test server prints")?;
        let Some(endpoint) = line.trim().strip_prefix(GREETING) else {
            bail!("the test server did not start; it said {line:?} instead of `{GREETING}...`");
        };
        Ok(Self { endpoint: endpoint.to_owned(), ca_file: settings.tls.clone(), _process: process })
    }

    /// `http://127.0.0.1:port`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The certificate to trust, if it speaks TLS.
    pub(crate) fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// What the agent finds in its environment to load the objects under `prefix`.
    pub(crate) fn environment(&self, prefix: &str) -> [(&'static str, String); 5] {
        [
            ("OSS_ENDPOINT", self.endpoint.clone()),
            ("OSS_REGION", REGION.to_owned()),
            ("OSS_ACCESS_KEY_ID", KEY_ID.to_owned()),
            ("OSS_ACCESS_KEY_SECRET", KEY_SECRET.to_owned()),
            ("OSS_PATH", format!("oss://{BUCKET}/{prefix}")),
        ]
    }
}
