//! `ossc-agent verify`: says whether the files of a model are what OSS has, as a table for people or as JSON. The
//! answer goes to standard output, what went wrong to standard error.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::exit::{self, Exit};
use super::logging;
use crate::agent::{self, Report, Status};
use crate::base::{Bytes, Nic};
use crate::config::{self, Config, Environment, Flags, LogLevel};

/// Arguments of `ossc-agent verify`.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Read every byte again from the disk and compare checksums with OSS
    #[arg(long)]
    deep: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    access: Access,
}

/// Which model in OSS, how to get at it, and where its files are; the arguments mean what they mean for a load.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// JSON configuration [default: /etc/oss-connector/config.json if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The model: oss://BUCKET/PREFIX/ or one object [env: OSS_PATH]
    #[arg(long, value_name = "URL")]
    oss_path: Option<String>,

    /// OSS endpoint; https when no scheme is given [env: OSS_ENDPOINT]
    #[arg(long, value_name = "HOST|URL")]
    oss_endpoint: Option<String>,

    /// Region id such as cn-hangzhou [env: OSS_REGION]
    #[arg(long, value_name = "ID")]
    oss_region: Option<String>,

    /// The endpoint is a domain name bound to the bucket (CNAME)
    #[arg(long)]
    cname: bool,

    /// HTTP proxy on the way to OSS, http://HOST:PORT; one with user and password must come by the environment or
    /// the file [env: OSSC_ORIGIN_PROXY]
    #[arg(long, value_name = "URL")]
    origin_proxy: Option<String>,

    /// NICs to connect through, each by an address of it or by its name, comma-separated [env: HTTP_SOURCE_IP]
    #[arg(long = "source", value_name = "IP|NAME", value_delimiter = ',')]
    sources: Vec<Nic>,

    /// PEM file of certificate authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Where credentials come from: auto, env, file, ecs, oidc or anonymous [default: auto]
    #[arg(long, value_name = "SOURCE")]
    credentials: Option<String>,

    /// Credentials file, JSON or ini [default: ~/.alibabacloud/credentials]
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,

    /// RAM role of the ECS instance
    #[arg(long, value_name = "NAME")]
    ecs_role: Option<String>,

    /// Directory of the model [env: MODEL_DIR]
    #[arg(long, value_name = "DIR")]
    model_dir: Option<PathBuf>,

    /// Silence after which a request is given up and sent again [default: 20]
    #[arg(long, value_name = "SECONDS")]
    request_timeout: Option<u32>,

    /// Least severe level that is logged, to standard error
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    log_level: LogLevel,
}

impl Verify {
    /// Does it.
    pub(super) fn run(self) -> Exit {
        let (deep, json) = (self.deep, self.json);
        let config = match prepare(&self.access.flags()) {
            Ok(config) => config,
            Err(exit) => return exit,
        };
        match agent::verify(&config, deep) {
            Ok(report) => show(&report, json),
            Err(error) => exit::report(&error, true),
        }
    }
}

/// The checked settings of a task that works on a model and its objects, with logging to standard error. Else what to
/// end with.
pub(super) fn prepare(flags: &Flags) -> Result<Config, Exit> {
    let config = config::resolve(flags, &Environment::of_process())
        .map_err(|error| exit::report(&agent::Error::from(error), false))?;
    let log = config::Log { path: None, ..config.log.clone() };
    match logging::start(&log) {
        Ok(_) => Ok(config),
        Err(error) => Err(exit::report(&error, false)),
    }
}

/// Prints what was found, and says it by the exit status.
pub(super) fn show(report: &Report, json: bool) -> Exit {
    let text = if json { as_json(report) } else { Ok(as_table(report)) };
    let shown = text.and_then(|text| io::stdout().write_all(text.as_bytes()));
    match shown {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("ossc-agent: cannot print the report: {error}");
            Exit::INTERNAL
        }
        _ => Exit::of_verify(report.status),
    }
}

impl Access {
    /// As a load's flags.
    pub(super) fn flags(self) -> Flags {
        Flags {
            config: self.config,
            oss_path: self.oss_path,
            oss_endpoint: self.oss_endpoint,
            oss_region: self.oss_region,
            cname: self.cname,
            origin_proxy: self.origin_proxy,
            sources: self.sources,
            ca_file: self.ca_file,
            credentials: self.credentials,
            credentials_file: self.credentials_file,
            ecs_role: self.ecs_role,
            model_dir: self.model_dir,
            request_timeout: self.request_timeout,
            log_level: Some(self.log_level),
            ..Flags::default()
        }
    }
}

fn as_json(report: &Report) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// One line a file, and below it what is wrong with it and what to do.
fn as_table(report: &Report) -> String {
    let width = report.files.iter().map(|file| file.name.len()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        writeln!(text, "{args}").unwrap_or_default();
    };
    line(format_args!("{:<width$}  {:<10}  {:>10}  {:>10}  CHECKSUM", "FILE", "STATUS", "SIZE", "THERE"));
    for file in &report.files {
        let checksum = if file.checksum_agrees { "agrees" } else { "-" };
        let (size, ready) = (Bytes(file.size).to_string(), Bytes(file.ready).to_string());
        let status = word(file.status);
        line(format_args!("{:<width$}  {status:<10}  {size:>10}  {ready:>10}  {checksum}", file.name));
        for finding in &file.findings {
            line(format_args!("    {}; {}", finding.what, finding.advice));
        }
    }
    let bad = report.files.iter().filter(|file| file.status != Status::Ok).count();
    let how = if report.deep { "every byte was read again" } else { "by size, version and record" };
    line(format_args!(
        "{} of {} files in {} are as in {} ({how})",
        report.files.len() - bad,
        report.files.len(),
        report.model_dir.display(),
        report.oss_path
    ));
    text
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Incomplete => "incomplete",
        Status::Different => "different",
    }
}
