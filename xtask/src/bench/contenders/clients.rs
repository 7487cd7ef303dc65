//! How each contender is run. None has credentials: the server answers unsigned reads, except for the connector's core,
//! which cannot do without. Sizes of parts divide those of the objects, because OSS answers a range that ends behind
//! the object with the whole of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::agent::{Agent, Options, used};
use crate::bench::floor::Floor;
use crate::bench::reader::{self, Printed, Reader};
use crate::bench::{PREFIX, Workload};
use crate::cmd::{self, Guarded};
use crate::server::{BUCKET, KEY_ID, KEY_SECRET, Server};

/// How long files may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);
/// The name by which the connector's core reaches the bucket: it knows no paths with buckets.
const HOST: &str = "localhost";

/// One contender.
pub(super) struct Client {
    pub(super) name: &'static str,
    way: Way,
}

enum Way {
    Agent,
    Floor,
    /// Programs that end when all files are there.
    Download(fn(&Place<'_>, &Path) -> Command),
    /// A program that stays and shows the files.
    Mount(fn(&Place<'_>, &Path) -> Command),
    Connector,
}

/// Where and what to load.
pub(super) struct Place<'a> {
    pub(super) server: &'a Server,
    pub(super) workload: Workload,
    pub(super) tools: &'a Path,
    pub(super) floor: &'a Floor,
    pub(super) reader: &'a Reader,
    pub(super) mode: &'a str,
    pub(super) work: &'a Path,
}

pub(super) const CLIENTS: [Client; 7] = [
    Client { name: "recv + pwrite (floor), then read", way: Way::Floor },
    Client { name: "ossc-agent", way: Way::Agent },
    Client { name: "connector core (osstorchconnector 1.2.3)", way: Way::Connector },
    Client { name: "s5cmd download, then read", way: Way::Download(s5cmd) },
    Client { name: "aria2 download, then read", way: Way::Download(aria2) },
    Client { name: "rclone mount, vfs-cache full", way: Way::Mount(rclone) },
    Client { name: "s3fs mount", way: Way::Mount(s3fs) },
];

fn s5cmd(place: &Place<'_>, files: &Path) -> Command {
    let mut command = bare(&place.tools.join("s5cmd/bin/s5cmd"));
    command.args(["--no-sign-request", "--endpoint-url", place.server.endpoint(), "cp"]);
    command.args(["--concurrency", "8", "--part-size", "64"]);
    command.arg(format!("s3://{BUCKET}/{PREFIX}*")).arg(format!("{}/", files.display()));
    command
}

fn aria2(place: &Place<'_>, files: &Path) -> Command {
    let urls = |file| format!("{}/{BUCKET}/{PREFIX}{file:02}.bin", place.server.endpoint());
    let mut command = bare(Path::new("aria2c"));
    command.args(["--quiet", "--no-conf", "--file-allocation=falloc", "--force-sequential=true"]);
    command.args(["--max-connection-per-server=8", "--split=8", "--max-concurrent-downloads=8", "--dir"]);
    command.arg(files).args((0..place.workload.files).map(urls));
    command
}

fn rclone(place: &Place<'_>, files: &Path) -> Command {
    let remote = format!(
        ":s3,provider=Other,list_version=2,env_auth=false,endpoint='{}':{BUCKET}/{PREFIX}",
        place.server.endpoint()
    );
    let mut command = bare(Path::new("rclone"));
    command.args([
        "--config",
        "/dev/null",
        "mount",
        "--read-only",
        "--vfs-cache-mode",
        "full",
        "--cache-dir",
    ]);
    command.arg(place.work.join("cache"));
    command.args(["--vfs-read-chunk-size", "64M", "--vfs-read-chunk-size-limit", "64M"]);
    command.arg(remote).arg(files);
    command
}

fn s3fs(place: &Place<'_>, files: &Path) -> Command {
    let mut command = bare(Path::new("s3fs"));
    command.arg(format!("{BUCKET}:/{}", PREFIX.trim_end_matches('/'))).arg(files).args(["-f", "-o"]);
    let url = place.server.endpoint();
    command.arg(format!("ro,url={url},use_path_request_style,public_bucket=1,listobjectsv2,dbglevel=err"));
    command
}

/// A program that is not disturbed by what the environment says of certificates, which Go's S3 library cannot use with
/// a client of rclone's.
fn bare(program: &Path) -> Command {
    let mut command = cmd::tied(program);
    command.env_remove("AWS_CA_BUNDLE").stdin(Stdio::null());
    command
}

impl Client {
    pub(super) fn is_agent(&self) -> bool {
        matches!(self.way, Way::Agent)
    }

    /// Whether there are files that can be mapped.
    pub(super) fn maps(&self) -> bool {
        !matches!(self.way, Way::Connector)
    }

    /// Loads and reads everything. What the reader printed, and the processor time of what stays until then, if it does.
    pub(super) fn run(&self, place: &Place<'_>) -> Result<(Printed, Option<f64>)> {
        let files = place.work.join("models");
        let named = |file| files.join(format!("{file:02}.bin"));
        let paths: Vec<PathBuf> = (0..place.workload.files).map(named).collect();
        match self.way {
            Way::Floor => {
                place.floor.keep(place.server, place.workload, place.work)?;
                let paths: Vec<PathBuf> =
                    (0..place.workload.files).map(|file| place.work.join(format!("floor-{file}"))).collect();
                Ok((place.read(&paths)?, None))
            }
            Way::Download(program) => {
                fs::create_dir(&files)?;
                cmd::output(&mut program(place, &files))?;
                Ok((place.read(&paths)?, None))
            }
            Way::Agent => {
                let connections = place.workload.connections;
                let options = Options { prefix: PREFIX, connections, sources: "", stays: true };
                let mut agent = Agent::start(place.server, options, place.work)?;
                await_files(&paths)?;
                let printed = place.read(&paths)?;
                Ok((printed, Some(used(agent.pid())?.0)))
            }
            Way::Mount(program) => {
                fs::create_dir(&files)?;
                let mut daemon = Guarded::spawn(&mut program(place, &files))?;
                let read = await_files(&paths).and_then(|()| {
                    let printed = place.read(&paths)?;
                    Ok((printed, Some(used(daemon.child().id())?.0)))
                });
                cmd::quietly(Command::new("umount").arg("--lazy").arg(&files))?;
                read
            }
            Way::Connector => Ok((place.connector()?, None)),
        }
    }
}

impl Place<'_> {
    fn read(&self, paths: &[PathBuf]) -> Result<Printed> {
        let mut arguments = vec![self.mode.to_owned(), "0".to_owned()];
        arguments.extend(paths.iter().map(|path| path.display().to_string()));
        self.reader.run(&arguments)
    }

    /// In a mount namespace of its own, where the bucket's host name is this machine's.
    fn connector(&self) -> Result<Printed> {
        let package = self.tools.join("osstorchconnector/_oss_connector");
        let core = fs::read_dir(&package).context("the connector is not installed")?;
        let core = core.filter_map(Result::ok).map(|entry| entry.path());
        let core = core.filter(|path| path.extension().is_some_and(|end| end == "so")).min();
        let core = core.with_context(|| format!("no module in {}", package.display()))?;
        let file = |name: &str, text: String| -> Result<PathBuf> {
            let path = self.work.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let hosts = fs::read_to_string("/etc/hosts").context("cannot read /etc/hosts")?;
        let hosts = file("hosts", format!("{hosts}\n127.0.0.1 {BUCKET}.{HOST}\n"))?;
        let keys = format!(r#"{{"AccessKeyId":"{KEY_ID}","AccessKeySecret":"{KEY_SECRET}"}}"#);
        let log = self.work.join("connector.log");
        let port = self.server.endpoint().rsplit(':').next().unwrap_or_default();
        let mut command = bare(Path::new("unshare"));
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(hosts);
        command.arg("python3").arg(cmd::root().join("xtask/bench/connector.py")).arg(core);
        command.arg(format!("http://{HOST}:{port}")).arg(file("keys.json", keys)?);
        command.arg(file("config.json", format!(r#"{{"logLevel":3,"logPath":{log:?}}}"#))?).arg(BUCKET);
        command.args((0..self.workload.files).map(|file| format!("{PREFIX}{file:02}.bin")));
        reader::parse(&cmd::output(&mut command)?)
    }
}

/// Waits until all files can be seen.
fn await_files(paths: &[PathBuf]) -> Result<()> {
    let began = Instant::now();
    while !paths.iter().all(|path| path.is_file()) {
        if began.elapsed() > PATIENCE {
            bail!("the files did not appear within {PATIENCE:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
