//! The flags of the main command, as the user typed them. `cli` flattens this into its parser; `resolve`
//! reads it. Nothing is checked here beyond the type of a value.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{LogFormat, LogLevel, OnChange};
use crate::base::{Bytes, Nic};

/// Flags of `ossc-agent`; each overrides its environment variable and its key in the JSON file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Observe this process and its descendants (repeatable)
    #[arg(long = "pid", value_name = "N")]
    pub pids: Vec<u32>,

    /// Observe every process of this cgroup v2 directory and of those below it (repeatable)
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<PathBuf>,

    /// Observe nobody: without eBPF in the way of reads no order is learned, and the background fetches file by file
    #[arg(long, conflicts_with_all = ["pids", "cgroups"])]
    pub no_observe: bool,

    /// JSON configuration, in the format of the OSS Connector [default: /etc/oss-connector/config.json if
    /// there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The model: oss://BUCKET/PREFIX/ or one object [env: OSS_PATH]
    #[arg(long, value_name = "URL")]
    pub oss_path: Option<String>,

    /// OSS endpoint; https when no scheme is given [env: OSS_ENDPOINT]
    #[arg(long, value_name = "HOST|URL")]
    pub oss_endpoint: Option<String>,

    /// Region id such as cn-hangzhou; inferred from the endpoint where possible [env: OSS_REGION]
    #[arg(long, value_name = "ID")]
    pub oss_region: Option<String>,

    /// The endpoint is a domain name bound to the bucket (CNAME)
    #[arg(long)]
    pub cname: bool,

    /// HTTP proxy on the way to OSS, http://HOST:PORT; one with user and password must come by the environment or the
    /// file [env: OSSC_ORIGIN_PROXY]
    #[arg(long, value_name = "URL")]
    pub origin_proxy: Option<String>,

    /// PEM file of certificate authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Where credentials come from: auto, env, file, ecs, oidc or anonymous [default: auto]
    #[arg(long, value_name = "SOURCE")]
    pub credentials: Option<String>,

    /// Credentials file, JSON or ini [default: ~/.alibabacloud/credentials]
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,

    /// RAM role of the ECS instance; asked from the metadata service when not given
    #[arg(long, value_name = "NAME")]
    pub ecs_role: Option<String>,

    /// Directory in which the model appears [env: MODEL_DIR]
    #[arg(long, value_name = "DIR")]
    pub model_dir: Option<PathBuf>,

    /// What outlives a run besides the model [env: OSSC_STATE_DIR] [default: /var/lib/ossc]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// NICs to connect through, each by an address of it or by its name, comma-separated [env: HTTP_SOURCE_IP]
    #[arg(long = "source", value_name = "IP|NAME", value_delimiter = ',')]
    pub sources: Vec<Nic>,

    /// Sharing blocks with other nodes.
    #[command(flatten)]
    pub peers: super::peers::PeerFlags,

    /// Fetch threads [JSON: prefetch.vcpus] [default: CPUs, at most 16]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,

    /// Most connections of each fetch thread [JSON: prefetch.workers]
    #[arg(long, value_name = "N")]
    pub connections: Option<u32>,

    /// Most bytes a second to fetch, such as 500M [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub bandwidth_limit: Option<Bytes>,

    /// Most bytes a second that this node and all its peers together read from OSS, such as 2G: each keeps to its part;
    /// give all nodes the same [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub origin_max_rate: Option<Bytes>,

    /// Block size: a power of two from 128K to 16M [default: by model size]
    #[arg(long, value_name = "SIZE")]
    pub block_size: Option<Bytes>,

    /// Silence after which a request is given up and sent again [default: 20]
    #[arg(long, value_name = "SECONDS")]
    pub request_timeout: Option<u32>,

    /// Tries of a request before readers that wait for its bytes get an error [default: 8]
    #[arg(long, value_name = "N")]
    pub request_tries: Option<u32>,

    /// How long a file is left alone after that before its rest is tried again [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub retry_pause: Option<u32>,

    /// How long readers wait for another agent when this one dies, before they get an error [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub takeover_deadline: Option<u32>,

    /// When an object changes in OSS during the load: fail its readers, or list again and load the new version
    /// too [default: fail]
    #[arg(long, value_name = "WHAT")]
    pub on_change: Option<OnChange>,

    /// How long readers wait for the next agent after SIGTERM, before they get an error; 0 = not at all [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub restart_deadline: Option<u32>,

    /// How long nobody may have used a complete file before its memory is given back; 0 = for ever [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub expire_time: Option<u64>,

    /// Most memory that the files may take, such as 64G, before complete ones that nobody uses give theirs back
    #[arg(long, value_name = "BYTES")]
    pub memory_budget: Option<Bytes>,

    /// Start from the files on disk without asking OSS; all must be complete
    #[arg(long)]
    pub offline: bool,

    /// End with status 0 once every file is complete
    #[arg(long)]
    pub exit_when_complete: bool,

    /// Least severe level that is logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// Form of a log line [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Append the log to this file instead of standard error [JSON: logPath]
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,

    /// Append a JSON line for each request to OSS to this file [JSON: auditPath]
    #[arg(long, value_name = "FILE")]
    pub audit_path: Option<PathBuf>,

    /// Send spans of the load to an OpenTelemetry collector (OTLP, protobuf over HTTP), such as http://127.0.0.1:4318
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,

    /// Serve a page with the state of the load, /status.json and /metrics at this address, such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,

    /// Let --http be an address that other machines reach: whoever does sees names of files and programs
    #[arg(long)]
    pub http_remote: bool,

    /// Program to start once the files are visible; the agent ends when it ends, with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
