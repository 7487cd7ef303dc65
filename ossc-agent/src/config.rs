//! What the user said, checked: the JSON of the OSS Connector, its environment and the flags become one
//! [`Config`]; each overrides the one before. `cli` calls [`resolve`] once at start; nothing is bound or
//! created until it has succeeded. Every part brings its own settings struct; only this module knows JSON
//! and environment names.

mod credentials;
mod env;
mod error;
mod flags;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod oss_path;
mod peers;
mod raw;
mod resolve;

use std::ffi::{CStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use zeroize::Zeroizing;

pub use env::Environment;
pub use error::Error;
pub use flags::Flags;
pub use resolve::{model_dir, resolve, state_dir};

use crate::{fetch, oss, peer, store};

/// Where the connector's configuration file is looked for when `--config` is not given.
pub const DEFAULT_FILE: &str = "/etc/oss-connector/config.json";
/// State directory when neither `--state-dir` nor `OSSC_STATE_DIR` names one.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/ossc";

/// How long readers wait for another agent when neither `--takeover-deadline` nor `takeoverDeadlineSec` says it:
/// longer than a service manager takes to restart one, shorter than a person waits before asking why.
pub const DEFAULT_TAKEOVER_DEADLINE: Duration = Duration::from_secs(120);

/// How long readers wait for the next agent after SIGTERM when neither `--restart-deadline` nor `restartDeadlineSec`
/// says it: many times what a restart takes, and no longer than a reader of a service that was stopped for good
/// should be kept from its error.
pub const DEFAULT_RESTART_DEADLINE: Duration = Duration::from_secs(30);

/// Environment variables whose values are secret.
pub const SECRETS: [&CStr; 5] = [
    c"OSS_ACCESS_KEY_SECRET",
    c"OSS_SESSION_TOKEN",
    c"ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    c"ALIBABA_CLOUD_SECURITY_TOKEN",
    c"OSSC_ORIGIN_PROXY",
];

/// Everything the agent needs, checked.
#[derive(Debug)]
pub struct Config {
    /// Where the objects are and how to ask for them.
    pub oss: oss::Config,
    /// Where the files go.
    pub store: store::Config,
    /// Threads, connections, source addresses.
    pub fetch: fetch::Config,
    /// Sharing blocks with other nodes; None = not at all.
    pub peers: Option<peer::Config>,
    /// Whose accesses are observed; empty = everybody's.
    pub targets: Targets,
    /// What outlives a run besides the model: learned orders, sockets.
    pub state_dir: PathBuf,
    /// How long readers wait for another agent when this one has died.
    pub takeover_deadline: Duration,
    /// What becomes of the load when an object changes in OSS.
    pub on_change: OnChange,
    /// How long readers wait for another agent after SIGTERM; zero = they fail at once.
    pub restart_deadline: Duration,
    /// The variables of [`SECRETS`] that are set, for a program that may execute itself anew; else empty.
    pub secrets: Vec<(String, Zeroizing<String>)>,
    /// When complete files give memory back.
    pub room: Room,
    /// Start from what is on disk without asking OSS.
    pub offline: bool,
    /// Accesses are observed with eBPF, and the order learned; else nobody's are.
    pub observe: bool,
    /// End with status 0 once every file is complete.
    pub exit_when_complete: bool,
    /// Program to start once the files are visible; empty = none.
    pub command: Vec<OsString>,
    /// Where log lines go and how they look.
    pub log: Log,
    /// Where the state of the load is served; None = only at the socket in the state directory of the model.
    pub http: Option<SocketAddr>,
    /// File to append a line to for each request to OSS.
    pub audit_path: Option<PathBuf>,
    /// Where spans of the load are sent; None = nowhere.
    pub otlp: Option<Uri>,
    /// Tests turn the gate off to see that they can fail without it. No release build has this.
    #[cfg(debug_assertions)]
    pub gate_off: bool,
    /// Settings that were given but mean nothing here, each a sentence for the log.
    pub remarks: Vec<String>,
}

/// What becomes of a load when an object that is being loaded is replaced or deleted in OSS. Readers of the
/// version that is gone get an error in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnChange {
    /// The file stays unreadable until another agent is started.
    #[default]
    Fail,
    /// The agent lists again and begins anew: the new version is a new file under the same name.
    Restart,
}

/// When complete files that nobody has open give memory back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// After so long without a use; None = never.
    pub expire: Option<Duration>,
    /// When all files take more bytes of memory; None = never.
    pub budget: Option<u64>,
}

impl Room {
    /// Whether there is any limit.
    #[must_use]
    pub fn is_limited(self) -> bool {
        self != Self::default()
    }
}

/// Processes whose accesses are observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Process ids; all their descendants count.
    pub pids: Vec<u32>,
    /// Cgroup v2 directories; descendant cgroups count.
    pub cgroups: Vec<PathBuf>,
}

impl Config {
    /// Whether no process, cgroup or command was named whose accesses count.
    #[must_use]
    pub fn observes_everybody(&self) -> bool {
        self.targets == Targets::default() && self.command.is_empty()
    }
}

/// Log settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// Human or JSON lines.
    pub format: LogFormat,
    /// File to append to instead of standard error.
    pub path: Option<PathBuf>,
}

/// Severity threshold. The numbers of the connector's `logLevel` map to the first four (PhotonLibOS
/// `common/alog.h`: `ALOG_DEBUG` 0, `ALOG_INFO` 1, `ALOG_WARN` 2, `ALOG_ERROR` 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Everything an investigation needs.
    Debug,
    /// State changes an operator acts on.
    Info,
    /// Trouble that was handled.
    Warn,
    /// Trouble that was not.
    Error,
    /// Each block and each gate event.
    Trace,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests;
