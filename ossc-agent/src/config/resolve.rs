//! File, environment and flags into one checked [`Config`], each overriding the one before. Reads the
//! configuration file and nothing else; creates nothing.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use zeroize::Zeroizing;

use super::raw::{self, Level, Raw};
use super::{
    Config, DEFAULT_FILE, DEFAULT_RESTART_DEADLINE, DEFAULT_STATE_DIR, DEFAULT_TAKEOVER_DEADLINE,
    Environment, Error, Flags, Log, LogFormat, LogLevel, OnChange, Room, SECRETS, Targets,
};
use crate::base::{BlockSize, Bytes, Nic};
use crate::{fetch, oss, spans, store};

/// A guard against a slip of the finger, far above any use.
const MOST_THREADS: u32 = 1024;
const MOST_CONNECTIONS: u32 = 1024;
const MOST_TRIES: u32 = 1000;
/// An hour.
const LONGEST_TIMEOUT: u32 = 3600;

/// Builds the configuration of a run. Called by `cli` with the real environment, by tests with made-up ones.
pub fn resolve(flags: &Flags, env: &Environment) -> Result<Config, Error> {
    merged(flags, env, &read_file(flags)?)
}

/// The same when the configuration file has been read.
pub(super) fn merged(flags: &Flags, env: &Environment, raw: &Raw) -> Result<Config, Error> {
    let mut remarks = remarks(env, raw);
    let (bucket, prefix) = super::oss_path::parse(&required(
        flags
            .oss_path
            .clone()
            .or_else(|| env.get("OSS_PATH").map(str::to_owned))
            .or_else(|| raw.oss_path.clone()),
        ["model path", "--oss-path", "OSS_PATH", "ossPath"],
    )?)?;
    let endpoint = required(
        flags
            .oss_endpoint
            .clone()
            .or_else(|| env.get("OSS_ENDPOINT").map(str::to_owned))
            .or_else(|| raw.endpoint.clone()),
        ["OSS endpoint", "--oss-endpoint", "OSS_ENDPOINT", "endpoint"],
    )?;
    let model_dir = model_dir_of(flags, env, raw)?;
    let state_dir = state_dir_of(flags, env, raw);
    let fetch = fetch(flags, env, raw)?;
    let exit_when_complete = flags.exit_when_complete;
    if exit_when_complete && !flags.command.is_empty() {
        remarks.push(
            "--exit-when-complete has no effect with a COMMAND: the agent ends when the command ends"
                .to_owned(),
        );
    }
    Ok(Config {
        oss: oss::Config {
            endpoint,
            bucket,
            prefix,
            region: flags
                .oss_region
                .clone()
                .or_else(|| env.get("OSS_REGION").map(str::to_owned))
                .or_else(|| raw.region.clone()),
            cname: flags.cname || raw.cname.unwrap_or(false),
            proxy: proxy(flags, env, raw)?,
            ca_file: flags.ca_file.clone().or_else(|| raw.ca_file.clone()),
            credentials: super::credentials::resolve(flags, env, raw)?,
            request_timeout: request_timeout(flags, raw)?,
            sources: fetch.sources.clone(),
        },
        store: store::Config { model_dir, block_size: block_size(flags, raw)? },
        peers: super::peers::resolve(flags, env, raw, &fetch.sources)?,
        fetch,
        targets: Targets { pids: flags.pids.clone(), cgroups: flags.cgroups.clone() },
        state_dir,
        takeover_deadline: flags
            .takeover_deadline
            .or(raw.takeover_deadline_sec)
            .map_or(DEFAULT_TAKEOVER_DEADLINE, |seconds| Duration::from_secs(seconds.into())),
        on_change: on_change(flags, raw)?,
        restart_deadline: flags
            .restart_deadline
            .or(raw.restart_deadline_sec)
            .map_or(DEFAULT_RESTART_DEADLINE, |seconds| Duration::from_secs(seconds.into())),
        secrets: match on_change(flags, raw)? {
            OnChange::Fail => Vec::new(),
            OnChange::Restart => secrets(env),
        },
        room: room(flags, raw)?,
        offline: flags.offline || raw.offline.unwrap_or(false),
        // Who names targets wants them observed, whatever the file says.
        observe: !flags.no_observe
            && (raw.observe.unwrap_or(true) || !flags.pids.is_empty() || !flags.cgroups.is_empty()),
        exit_when_complete,
        command: flags.command.clone(),
        log: log(flags, raw)?,
        http: http(flags, env, raw)?,
        audit_path: flags.audit_path.clone().or_else(|| path(raw.audit_path.as_ref())),
        otlp: otlp(flags, raw)?,
        #[cfg(debug_assertions)]
        gate_off: env.get("OSSC_TEST_GATE") == Some("off"),
        remarks,
    })
}

fn secrets(env: &Environment) -> Vec<(String, Zeroizing<String>)> {
    let names = SECRETS.iter().filter_map(|name| name.to_str().ok());
    names.filter_map(|name| Some((name.to_owned(), Zeroizing::new(env.raw(name)?.to_owned())))).collect()
}

/// The state directory alone, for tasks that need no model. Called by `cli`.
pub fn state_dir(flags: &Flags, env: &Environment) -> Result<PathBuf, Error> {
    Ok(state_dir_of(flags, env, &read_file(flags)?))
}

/// The model directory alone, for tasks that ask the agent of one. Called by `cli`.
pub fn model_dir(flags: &Flags, env: &Environment) -> Result<PathBuf, Error> {
    let given = flags.model_dir.is_some() || env.get("MODEL_DIR").is_some();
    model_dir_of(flags, env, &if given { Raw::default() } else { read_file(flags)? })
}

fn model_dir_of(flags: &Flags, env: &Environment, raw: &Raw) -> Result<PathBuf, Error> {
    let given = flags.model_dir.clone().or_else(|| env.get("MODEL_DIR").map(PathBuf::from));
    required(
        given.or_else(|| raw.model_dir.clone()),
        ["model directory", "--model-dir", "MODEL_DIR", "modelDir"],
    )
}

fn state_dir_of(flags: &Flags, env: &Environment, raw: &Raw) -> PathBuf {
    flags
        .state_dir
        .clone()
        .or_else(|| env.get("OSSC_STATE_DIR").map(PathBuf::from))
        .or_else(|| raw.state_dir.clone())
        .unwrap_or_else(|| DEFAULT_STATE_DIR.into())
}

fn read_file(flags: &Flags) -> Result<Raw, Error> {
    match &flags.config {
        Some(path) => raw::read(path),
        None if Path::new(DEFAULT_FILE).exists() => raw::read(Path::new(DEFAULT_FILE)),
        None => Ok(Raw::default()),
    }
}

fn required<T>(value: Option<T>, [what, flag, env, key]: [&'static str; 4]) -> Result<T, Error> {
    value.ok_or(Error::Missing { what, flag, env, key })
}

/// A path of the file; the connector writes an empty one for none.
fn path(raw: Option<&PathBuf>) -> Option<PathBuf> {
    raw.filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// Settings of the connector that mean nothing here, and keys nobody knows.
fn remarks(env: &Environment, raw: &Raw) -> Vec<String> {
    let mut remarks = Vec::new();
    let is_preloaded = env.get("LD_PRELOAD").is_some_and(|list| list.contains("libossc_preload"));
    if is_preloaded || env.get("ENABLE_CONNECTOR").is_some() {
        remarks.push(
            "LD_PRELOAD and ENABLE_CONNECTOR of the OSS Connector are not needed: take them away from the program \
             that reads, which would load the model once more by itself"
                .to_owned(),
        );
    }
    if raw.fast_list.is_some() {
        remarks.push("fastList is not needed: one listing serves the whole load".to_owned());
    }
    let below = |section: &'static str| move |key: &String| format!("{section}.{key}");
    let unknown = raw.unknown.keys().cloned();
    let unknown = unknown.chain(raw.prefetch.unknown.keys().map(below("prefetch")));
    let unknown = unknown.chain(raw.peers.unknown.keys().map(below("peers")));
    remarks
        .extend(unknown.map(|key| format!("the configuration key '{key}' is not known and was passed over")));
    remarks
}

fn fetch(flags: &Flags, env: &Environment, raw: &Raw) -> Result<fetch::Config, Error> {
    let mut config = fetch::Config { sources: sources(flags, env, raw)?, ..fetch::Config::default() };
    if let Some(threads) = flags.threads.or(raw.prefetch.vcpus) {
        config.threads = count("threads", threads, MOST_THREADS)?;
    }
    if let Some(connections) = flags.connections.or(raw.prefetch.workers) {
        config.connections_per_thread = count("connections", connections, MOST_CONNECTIONS)?;
    }
    if let Some(tries) = flags.request_tries.or(raw.request_tries) {
        config.tries = count("request tries", tries, MOST_TRIES)?;
    }
    if let Some(pause) = flags.retry_pause.or(raw.retry_pause_sec) {
        config.retry_pause = Duration::from_secs(count("retry pause", pause, LONGEST_TIMEOUT)?.get().into());
    }
    config.bandwidth_limit = rate("bandwidth limit", flags.bandwidth_limit, raw.bandwidth_limit.as_ref())?;
    config.origin_max_rate = rate("origin max rate", flags.origin_max_rate, raw.origin_max_rate.as_ref())?;
    Ok(config)
}

/// The proxy's address, which may have a password: not on the command line, which everybody sees.
fn proxy(flags: &Flags, env: &Environment, raw: &Raw) -> Result<Option<oss::Secret>, Error> {
    if flags.origin_proxy.as_ref().is_some_and(|text| text.contains('@')) {
        return Err(Error::Value {
            name: "--origin-proxy",
            value: "***".to_owned(),
            wanted: "user and password would be seen by every user: give them in OSSC_ORIGIN_PROXY, or as \
                     \"originProxy\" in the configuration file"
                .to_owned(),
        });
    }
    let flag = flags.origin_proxy.as_deref();
    let text = flag.or_else(|| env.get("OSSC_ORIGIN_PROXY")).or(raw.origin_proxy.as_deref());
    Ok(text.map(oss::Secret::new))
}

fn request_timeout(flags: &Flags, raw: &Raw) -> Result<Duration, Error> {
    match flags.request_timeout.or(raw.request_timeout_sec) {
        Some(seconds) => {
            Ok(Duration::from_secs(count("request timeout", seconds, LONGEST_TIMEOUT)?.get().into()))
        }
        None => Ok(oss::DEFAULT_REQUEST_TIMEOUT),
    }
}

fn rate(name: &'static str, flag: Option<Bytes>, raw: Option<&String>) -> Result<Option<NonZeroU64>, Error> {
    bytes(name, "bytes a second such as 500M", flag, raw)
}

fn room(flags: &Flags, raw: &Raw) -> Result<Room, Error> {
    let expire = flags.expire_time.or(raw.expire_time_sec).filter(|seconds| *seconds > 0);
    let budget =
        bytes("memory budget", "bytes such as 64G", flags.memory_budget, raw.memory_budget.as_ref())?;
    Ok(Room { expire: expire.map(Duration::from_secs), budget: budget.map(NonZeroU64::get) })
}

/// A number of bytes, more than 0, from the flag or else the file.
fn bytes(
    name: &'static str,
    wanted: &str,
    flag: Option<Bytes>,
    raw: Option<&String>,
) -> Result<Option<NonZeroU64>, Error> {
    let fail =
        |value: String| Error::Value { name, value, wanted: format!("{wanted} are needed, more than 0") };
    let bytes = match (flag, raw) {
        (Some(bytes), _) => bytes,
        (None, Some(text)) => text.parse::<Bytes>().map_err(|_| fail(text.clone()))?,
        (None, None) => return Ok(None),
    };
    NonZeroU64::new(bytes.0).map(Some).ok_or_else(|| fail(bytes.to_string()))
}

fn count(name: &'static str, given: u32, most: u32) -> Result<NonZeroU32, Error> {
    NonZeroU32::new(given).filter(|n| n.get() <= most).ok_or_else(|| Error::Value {
        name,
        value: given.to_string(),
        wanted: format!("a number from 1 to {most} is needed"),
    })
}

fn sources(flags: &Flags, env: &Environment, raw: &Raw) -> Result<Vec<Nic>, Error> {
    if !flags.sources.is_empty() {
        return Ok(flags.sources.clone());
    }
    let Some(list) = env.get("HTTP_SOURCE_IP") else { return Ok(raw.sources.clone()) };
    let parse = |item: &str| {
        item.trim().parse().map_err(|_| Error::Value {
            name: "HTTP_SOURCE_IP",
            value: list.to_owned(),
            wanted: format!(
                "'{}' is neither an IP address of this machine nor a network interface; separate several by commas",
                item.trim()
            ),
        })
    };
    list.split(',').map(parse).collect()
}

fn on_change(flags: &Flags, raw: &Raw) -> Result<OnChange, Error> {
    match (flags.on_change, &raw.on_change) {
        (Some(what), _) => Ok(what),
        (None, None) => Ok(OnChange::default()),
        (None, Some(text)) => clap::ValueEnum::from_str(text, true).map_err(|_| Error::Value {
            name: "onChange",
            value: text.clone(),
            wanted: "write restart or fail".to_owned(),
        }),
    }
}

/// Where the state of the load is served. Not to other machines by mistake.
fn http(flags: &Flags, env: &Environment, raw: &Raw) -> Result<Option<SocketAddr>, Error> {
    let fail = |value: &str, wanted: &str| Error::Value {
        name: "http",
        value: value.to_owned(),
        wanted: wanted.to_owned(),
    };
    let of_env = env.get("OSSC_HTTP").map(|text| {
        text.parse().map_err(|_| fail(text, "an IP address and a port are needed, such as 127.0.0.1:9464"))
    });
    let address = flags.http.or(of_env.transpose()?).or(raw.http);
    let is_remote = flags.http_remote || raw.http_remote.unwrap_or(false);
    match address {
        Some(address) if !address.ip().is_loopback() && !is_remote => Err(fail(
            &address.to_string(),
            "other machines reach it: give an address of loopback such as 127.0.0.1, or say --http-remote",
        )),
        address => Ok(address),
    }
}

fn otlp(flags: &Flags, raw: &Raw) -> Result<Option<Uri>, Error> {
    let Some(text) = flags.otlp.as_ref().or(raw.otlp.as_ref()) else { return Ok(None) };
    let uri: Option<Uri> = text.parse().ok().filter(spans::is_collector);
    uri.map(Some).ok_or_else(|| Error::Value {
        name: "otlp",
        value: text.clone(),
        wanted: "the address of a collector is needed, such as http://127.0.0.1:4318, without TLS".to_owned(),
    })
}

fn block_size(flags: &Flags, raw: &Raw) -> Result<Option<BlockSize>, Error> {
    let fail = |value: String| Error::Value {
        name: "block size",
        value,
        wanted: "a power of two from 128K to 16M is needed".to_owned(),
    };
    let bytes = match (flags.block_size, &raw.block_size) {
        (Some(bytes), _) => bytes,
        (None, Some(text)) => text.parse::<Bytes>().map_err(|_| fail(text.clone()))?,
        (None, None) => return Ok(None),
    };
    BlockSize::new(bytes.0).map(Some).ok_or_else(|| fail(bytes.to_string()))
}

fn log(flags: &Flags, raw: &Raw) -> Result<Log, Error> {
    let word = |name, text: &str, wanted: &str| Error::Value {
        name,
        value: text.to_owned(),
        wanted: wanted.to_owned(),
    };
    let level = match (&flags.log_level, &raw.log_level) {
        (Some(level), _) => *level,
        (None, None) => LogLevel::Info,
        (None, Some(Level::Number(number))) => match number {
            0 => LogLevel::Debug,
            1 => LogLevel::Info,
            2 => LogLevel::Warn,
            3 => LogLevel::Error,
            _ => {
                return Err(word(
                    "logLevel",
                    &number.to_string(),
                    "write 0 (debug), 1 (info), 2 (warn) or 3 (error)",
                ));
            }
        },
        (None, Some(Level::Word(text))) => <LogLevel as clap::ValueEnum>::from_str(text, true)
            .map_err(|_| word("logLevel", text, "write debug, info, warn or error, or 0 to 3"))?,
    };
    let format = match (&flags.log_format, &raw.log_format) {
        (Some(format), _) => *format,
        (None, None) => LogFormat::Human,
        (None, Some(text)) => <LogFormat as clap::ValueEnum>::from_str(text, true)
            .map_err(|_| word("logFormat", text, "write human or json"))?,
    };
    Ok(Log { level, format, path: flags.log_path.clone().or_else(|| path(raw.log_path.as_ref())) })
}
