//! One row at work: its server, its agent, its reader, and the judgement.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILE_COMPLETE, FILES_VISIBLE, Start, exit};
use e2e::events::Event;
use e2e::origin::ModelFile;
use e2e::scratch::{Scratch, own_mount_namespace};
use e2e::site::Site;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use oss_server::{Config, Fault, Operation, Rule, Server};

use super::rows::{Expect, Row};
use super::watcher::{Seen, Watcher};

/// The file that meets the faults, and one that does not.
pub(super) const A: &str = "a.bin";
const B: &str = "b.bin";
/// Four blocks of the least size, the last one short.
pub(super) const A_SIZE: u64 = (6 << 20) + 77;
const B_SIZE: u64 = (2 << 20) + 5;
/// How long one step may take. The row's own deadline comes soon after.
const LIMIT: Duration = Duration::from_secs(45);
/// The endpoint's name in the rows about names.
const NAME: &str = "oss-fault.test";
/// Loopback addresses given away, so that a server which goes away finds its port free later.
static ADDRESSES: AtomicU32 = AtomicU32::new(0);

/// What the reader of a row saw.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) reads: u64,
    pub(super) errnos: u64,
}

/// A row's places.
pub(super) struct Case {
    site: Site,
    /// Names of the row's own mount namespace.
    names: Scratch,
    start: std::cell::RefCell<Start>,
}

/// Runs one row.
pub(super) fn run(row: &Row, disk: &Path) -> anyhow::Result<Report> {
    let config = Config {
        // The certificate is for this address alone.
        listen: SocketAddr::from((if row.tls { Ipv4Addr::LOCALHOST } else { own_address() }, 0)),
        page_limit: Some(1),
        tls: row.tls,
        ..Config::default()
    };
    let files = vec![ModelFile::synthetic(A, A_SIZE), ModelFile::synthetic(B, B_SIZE), small("z.bin")];
    let site = Site::on(Scratch::below(disk)?, config, files)?;
    // What passes must not become an error because the machine is busy; what lasts need not be tried for long.
    let tries = if matches!(row.expect, Expect::Loads(_)) { 12 } else { 3 };
    let start = site
        .start()
        .option("--threads", "1")
        .option("--connections", "4")
        .option("--request-timeout", row.patience.to_string())
        .option("--request-tries", tries.to_string())
        .option("--retry-pause", "1");
    let start = match site.origin().server().ca_pem() {
        Some(pem) => {
            let authority = site.copies().join("authority.pem");
            fs::write(&authority, pem)?;
            start.option("--ca-file", authority)
        }
        None => start,
    };
    let case = Case { site, names: Scratch::directory()?, start: start.into() };
    (row.prepare)(&case).context("prepare the row")?;
    case.run(row)
}

fn small(name: &str) -> ModelFile {
    ModelFile::synthetic(name, 1000)
}

/// An address of this machine that nothing else listens on: 127.0.0.0/8 is all loopback.
fn own_address() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let [_, _, _, row] = ADDRESSES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 100 | (high & 0x7f), low, row)
}

impl Case {
    /// The server.
    pub(super) fn origin(&self) -> &Server {
        self.site.origin().server()
    }

    fn run(&self, row: &Row) -> anyhow::Result<Report> {
        let server = self.origin();
        for rule in &*row.rules {
            server.faults().add(rule.clone());
        }
        // Before the fault itself can be met: the request that is to meet it waits until all is arranged.
        let hold = row.amid.map(|_| {
            let after = row.when.offset();
            let once = |fault| Rule::new(fault).operation(Operation::Get).key("*/a.bin").at(after).times(1);
            // Held, and then of no use, so that another request is needed.
            server.faults().add(once(Fault::Reset { after }));
            server.faults().add(once(Fault::Stall { after: Some(after), time: None }))
        });
        let start = self.start.borrow().clone();
        if let Expect::Ends(status, says) = &row.expect {
            let ended = start.argument("--exit-when-complete").run()?;
            ended.expect(*status)?;
            let text = ended.text();
            let missing: Vec<_> = says.iter().filter(|part| !text.contains(**part)).collect();
            ensure!(missing.is_empty(), "no {missing:?} in the log:\n{text}");
            ensure!(!self.site.model_dir().join(A).exists(), "something is visible");
            return Ok(Report { reads: 0, errnos: 0 });
        }
        let agent = start.start()?;
        agent.wait_for(FILES_VISIBLE)?;
        let sizes = self.site.origin().files().iter().map(|file| file.size);
        let watcher =
            Watcher::start(self.site.targets().into_iter().zip(sizes).collect(), 7, row.reads_early);
        if let (Some(hold), Some(amid)) = (hold, row.amid) {
            ensure!(hold.wait_held(1, LIMIT), "nobody asked for the place");
            amid(self).context("make the fault happen")?;
            hold.release();
        }
        let judged = self.judge(row, &agent, &watcher);
        let log = || e2e::events::text(&agent.log().so_far());
        let judged = judged.with_context(|| format!("the log:\n{}", log()));
        // The agent first: it answers a reader that is held.
        let ended = agent.interrupt().and_then(|ended| ended.expect(exit::OK));
        let Seen { reads, errnos, .. } = watcher.finish()?;
        judged?;
        ended?;
        if matches!(row.expect, Expect::Loads(_)) {
            ensure!(errnos == 0, "{errnos} of {reads} reads ended with an errno");
        }
        Ok(Report { reads, errnos })
    }

    fn judge(&self, row: &Row, agent: &Agent, watcher: &Watcher) -> anyhow::Result<()> {
        let place = row.when.offset();
        match &row.expect {
            Expect::Loads(says) => {
                wait_complete(agent)?;
                watcher.read_first();
                ensure!(says.is_empty() || find(agent, says).is_some(), "no {says:?} in the log");
                self.site.check_files()
            }
            Expect::Heals(says) => {
                agent.log().wait_for(&says.join(", "), LIMIT, |event| is_error(event, says))?;
                // Whichever reads it: the request is made for each reader anew, and fails as before.
                self.expect_errno(place)?;
                self.site.origin().files().iter().zip(self.site.targets()).skip(1).try_for_each(
                    |(file, target)| self.healthy(row, file, &target).context("another file"),
                )?;
                self.origin().faults().clear();
                (row.heal)(self).context("end the fault")?;
                wait_complete(agent)?;
                self.site.check_files()
            }
            Expect::Lost(says) => {
                agent.log().wait_for(&says.join(", "), LIMIT, |event| is_error(event, says))?;
                watcher.read_first();
                // At the place and far from it.
                for offset in [place, A_SIZE - 1 - place] {
                    self.expect_errno_unless_ready(offset)?;
                }
                self.origin().faults().clear();
                self.expect_errno(place)?;
                self.site
                    .origin()
                    .files()
                    .iter()
                    .zip(self.site.targets())
                    .skip(1)
                    .try_for_each(|(file, target)| target.check_whole(file.size).context("another file"))
            }
            Expect::Ends(..) => bail!("judged elsewhere"),
        }
    }

    /// The files that do not meet the fault, unless the fault is of the whole origin.
    fn healthy(&self, row: &Row, file: &ModelFile, target: &e2e::content::Target) -> anyhow::Result<()> {
        if row.amid.is_some() { Ok(()) } else { target.check_whole(file.size) }
    }

    fn read(&self, offset: u64) -> std::io::Result<()> {
        let mut byte = [0];
        let target = &self.site.targets()[0];
        fs::File::open(target.path())?.read_exact_at(&mut byte, offset)?;
        target.check(offset, &byte).map_err(std::io::Error::other)
    }

    fn expect_errno(&self, offset: u64) -> anyhow::Result<()> {
        match self.read(offset) {
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(()),
            other => bail!("a read at {offset} gave {other:?}, not EIO"),
        }
    }

    /// A block that was there before the file was lost may be read.
    fn expect_errno_unless_ready(&self, offset: u64) -> anyhow::Result<()> {
        match self.read(offset) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(()),
            Err(error) => Err(error).context("a read of the lost file"),
        }
    }

    fn change(&self, change: impl FnOnce(Start) -> Start) {
        let start = self.start.borrow().clone();
        self.start.replace(change(start));
    }

    /// The endpoint gets a name that only this row's thread, and what it starts, can look up.
    pub(super) fn use_a_name(&self) -> anyhow::Result<()> {
        own_mount_namespace()?;
        let address = self.origin().address();
        let resolv = self.names.path().join("resolv.conf");
        fs::write(&resolv, format!("nameserver {}\noptions timeout:1 attempts:1\n", address.ip()))?;
        self.find_the_name_anew()?;
        for (file, place) in [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")] {
            let file = self.names.path().join(file);
            let real = Path::new(place).canonicalize().with_context(|| format!("find {place}"))?;
            mount(Some(&file), &real, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("another {place}"))?;
        }
        let endpoint = format!("http://{NAME}:{}", address.port());
        self.change(|start| start.variable("OSS_ENDPOINT", endpoint));
        Ok(())
    }

    fn find_the_name_anew(&self) -> anyhow::Result<()> {
        let line = format!("{} {}.{NAME}\n", self.origin().address().ip(), self.origin().bucket());
        fs::write(self.names.path().join("hosts"), line).context("write the names")
    }

    /// Nobody knows the name any more, and every connection has to be made anew.
    pub(super) fn lose_the_name(&self) -> anyhow::Result<()> {
        fs::write(self.names.path().join("hosts"), "").context("write the names")?;
        self.origin().set_refusing(true)?;
        self.origin().set_refusing(false)
    }

    /// It is known again.
    pub(super) fn find_the_name(&self) -> anyhow::Result<()> {
        self.find_the_name_anew()
    }

    /// The credentials file has temporary keys of this number from now on.
    pub(super) fn use_token(&self, number: u32) -> anyhow::Result<()> {
        let (id, secret, token) =
            (key_id(number), format!("SKTOKEN{number:04}"), format!("CAIStoken{number}=="));
        self.origin().keys().add_temporary(&id, &secret, &token, None);
        let file = self.site.state_dir().join("credentials");
        let text = format!(
            "{{\"AccessKeyId\":\"{id}\",\"AccessKeySecret\":\"{secret}\",\"SecurityToken\":\"{token}\"}}"
        );
        let new = file.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(new, &file)).context("write the credentials")?;
        self.change(|start| {
            start
                .without("OSS_ACCESS_KEY_ID")
                .without("OSS_ACCESS_KEY_SECRET")
                .variable("ALIBABA_CLOUD_CREDENTIALS_FILE", &file)
        });
        Ok(())
    }

    /// OSS refuses the keys of this number from now on.
    pub(super) fn expire_token(&self, number: u32) {
        self.origin().keys().expire(&key_id(number));
    }
}

fn key_id(number: u32) -> String {
    format!("STS.TOKEN{number:04}")
}

fn wait_complete(agent: &Agent) -> anyhow::Result<()> {
    agent.log().wait_for(ALL_COMPLETE, LIMIT, |event| event.message() == ALL_COMPLETE)?;
    ensure!(agent.log().so_far().iter().any(|event| event.message() == FILE_COMPLETE), "no file by itself");
    Ok(())
}

fn is_error(event: &Event, says: &[&str]) -> bool {
    let is_error = event.field("level").is_some_and(|level| level == "ERROR");
    is_error && says.iter().all(|part| event.line().contains(part))
}

/// An event with all these words.
fn find(agent: &Agent, says: &[&str]) -> Option<Event> {
    agent.log().so_far().into_iter().find(|event| says.iter().all(|part| event.line().contains(part)))
}
