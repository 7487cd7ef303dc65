//! Limits that a node sets, and sizes that a model has: little memory, few descriptors, many readers, many files. All is
//! complete, and every byte right.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, Start, exit};
use e2e::content::Target;
use e2e::origin::{ModelFile, shards};
use e2e::scratch::{FileSystem, Scratch};
use e2e::site::Site;
use e2e::turn;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oss_server::Config;

use crate::MIB;

/// Bytes of memory that an agent and its page cache may have.
const MEMORY: u64 = 256 * MIB;
/// Six times that.
const LARGE: u64 = 1536 * MIB;
const READERS: u64 = 1000;
/// Fewer descriptors than readers.
const FEW_DESCRIPTORS: &str = "--nofile=1400:1400";
/// Too few for the agent's own connections.
const TOO_FEW_DESCRIPTORS: &str = "--nofile=900:900";
const FILES: u64 = 10_000;

/// The files of a memory cgroup that are used here, by version.
struct CgroupFiles {
    limit: &'static str,
    most: &'static str,
    kills: &'static str,
}

const VERSION_1: CgroupFiles = CgroupFiles {
    limit: "memory.limit_in_bytes",
    most: "memory.max_usage_in_bytes",
    kills: "memory.oom_control",
};
const VERSION_2: CgroupFiles =
    CgroupFiles { limit: "memory.max", most: "memory.peak", kills: "memory.events" };

/// A memory cgroup of its own, which goes with the handle.
struct Cgroup {
    path: PathBuf,
    files: &'static CgroupFiles,
}

impl Cgroup {
    /// In the hierarchy that this machine uses for memory.
    fn with_limit(bytes: u64) -> anyhow::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let (parent, files) = if root.join("memory").is_dir() {
            (root.join("memory"), &VERSION_1)
        } else {
            fs::write(root.join("cgroup.subtree_control"), "+memory").context("the memory controller")?;
            (root.to_owned(), &VERSION_2)
        };
        let path = parent.join(format!("ossc-e2e-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let cgroup = Self { path, files };
        fs::write(cgroup.path.join(files.limit), bytes.to_string())?;
        Ok(cgroup)
    }

    /// Most bytes used so far.
    fn most(&self) -> anyhow::Result<u64> {
        self.number(self.files.most, "")
    }

    /// Processes killed for want of memory.
    fn kills(&self) -> anyhow::Result<u64> {
        self.number(self.files.kills, "oom_kill ")
    }

    fn number(&self, file: &str, field: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.path.join(file))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)).context("no such number")?;
        line.trim().parse().context("a number")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Empty by now, unless the test failed: then its agent is killed before this runs.
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

#[test]
fn of_memory_far_below_the_model_are_enough() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cgroup = Cgroup::with_limit(MEMORY)?;
    // On the machine's own disk: a loop device would cache every byte a second time.
    let site = Site::on(Scratch::directory()?, Config::default(), shards(2, LARGE / 2))?;
    let procs = cgroup.path.join("cgroup.procs");
    let join = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
    let agent = site.start().through(["sh", "-c", &join]).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    ensure!(cgroup.kills()? == 0, "something was killed");
    let most = cgroup.most()?;
    ensure!(most <= MEMORY, "{most} bytes were used");
    agent.stop()?.expect(exit::OK)?;
    crate::keeper::no_keeper_left(&site)?;
    site.check_files()
}

/// Opens, reads and compares in `readers` threads that begin together, each somewhere else.
fn read_all_at_once(targets: &[Target], size: u64, readers: u64) -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let barrier = Barrier::new(usize::try_from(readers)?);
    let read = |reader: u64| -> anyhow::Result<()> {
        let target = &targets[usize::try_from(reader)? % targets.len()];
        let offset = (size - 4096) / readers * reader;
        barrier.wait();
        let mut bytes = vec![0; 4096];
        fs::File::open(target.path())?.read_exact_at(&mut bytes, offset)?;
        Ok(target.check(offset, &bytes)?)
    };
    std::thread::scope(|scope| {
        let builder = || std::thread::Builder::new().stack_size(256 << 10);
        let thread = |reader| builder().spawn_scoped(scope, move || read(reader));
        let threads = (0..readers).map(thread).collect::<Result<Vec<_>, _>>()?;
        for thread in threads {
            thread.join().ok().context("a reader panicked")??;
        }
        Ok(())
    })
}

/// A model that takes a second or two, read by all at once.
fn load_for_all(arrange: impl FnOnce(&Site) -> anyhow::Result<Start>) -> anyhow::Result<()> {
    let _turn = turn::take();
    let (config, size) = (Config { rate: 40_000_000, ..Config::default() }, 48 * MIB);
    let site = Site::new(FileSystem::Ext4, config, shards(2, size))?;
    let agent = arrange(&site)?.start()?;
    agent.wait_for(FILES_VISIBLE)?;
    read_all_at_once(&site.targets(), size, READERS)?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()
}

#[test]
fn of_readers_are_none() -> anyhow::Result<()> {
    load_for_all(|site| Ok(site.start()))
}

#[test]
fn of_descriptors_delay_readers_and_deny_none() -> anyhow::Result<()> {
    load_for_all(|site| {
        let ended = site.start().through(["prlimit", TOO_FEW_DESCRIPTORS]).run()?;
        ended.expect(exit::KERNEL)?;
        ensure!(ended.text().contains("LimitNOFILE"), "{}", ended.text());
        Ok(site.start().through(["prlimit", FEW_DESCRIPTORS]))
    })
}

#[test]
fn of_files_are_none() -> anyhow::Result<()> {
    let _turn = turn::take();
    let files =
        (0..FILES).map(|at| ModelFile::synthetic(&format!("{:02}/{at:05}.bin", at % 100), 3000 + at % 3000));
    let site = Site::new(FileSystem::Ext4, Config::default(), files.collect())?;
    let agent = site.start().start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()
}
