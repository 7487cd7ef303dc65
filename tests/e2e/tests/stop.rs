//! The stop gate: the process that maps missing bytes is stopped until they are there, on a tmpfs, and at mremap(2)
//! everywhere. What can happen to a stopped process: signals of others, its own death, the agent's.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, READER_HELD, exit};
use e2e::origin::shards;
use e2e::reader::{Outcome, Reader};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oss_server::Config;

use crate::keeper::{kill_agent, no_keeper_left};
use crate::{MIB, reading};

/// Bytes a second: whoever maps a whole file has to wait for seconds.
const RATE: u64 = 20_000_000;
const FILE: u64 = 48 * MIB + 77;
/// Said by the keeper.
const AGENT_DIED: &str = "the agent died: its readers are held until another one takes over";
const GAVE_UP: &str = "no agent took over in time: readers of incomplete files get an error";
const KILLED_BY_KEEPER: &str = "a process that mapped missing bytes is killed: no agent will bring them, and mmap(2) \
                                cannot fail any more";
/// Said by the agent.
const KILLED: &str =
    "a process that has mapped missing bytes is killed, because mmap(2) cannot fail any more";
const RELEASED_AND_STOPPED: &str = "reader released; it stays stopped, as somebody else wants it";
const CHOSEN: &str = "gate chosen";

struct Scene {
    site: Site,
    agent: Agent,
}

impl Scene {
    fn on(file_system: FileSystem) -> anyhow::Result<Self> {
        let site = Site::new(file_system, Config { rate: RATE, ..Config::default() }, shards(2, FILE))?;
        let agent = site.start().option("--takeover-deadline", "2").start()?;
        agent.wait_for(FILES_VISIBLE)?;
        Ok(Self { site, agent })
    }

    /// A reader that maps a whole file, and has stopped.
    fn stopped(&self, kind: &str) -> anyhow::Result<Reader> {
        let mut reader =
            reading(kind, &self.site.copies()).at(0, FILE).ops(1).start(&self.site.targets()[1..])?;
        self.agent.wait_for(READER_HELD)?;
        stops(&mut reader)?;
        Ok(reader)
    }

    /// Lets the load go to its end; then no program is left in the kernel.
    fn complete(mut self) -> anyhow::Result<()> {
        self.agent.wait_for(ALL_COMPLETE)?;
        let pid = self.agent.process().pid()?;
        let deadline = Instant::now() + PATIENCE;
        while attached(pid)? > 0 {
            ensure!(Instant::now() < deadline, "the programs stay attached");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.agent.stop()?.expect(exit::OK)?;
        self.site.check_files()?;
        no_keeper_left(&self.site)
    }
}

/// How many descriptors of this process keep a program at the entry of all system calls, where only the stop gate has
/// one (`bpf_raw_tp_link_show_fdinfo`). The probes' places have longer names.
fn attached(pid: Pid) -> anyhow::Result<usize> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fdinfo"))?;
    let about = descriptors.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    Ok(about.filter(|about| about.lines().any(|line| line == "tp_name:\tsys_enter")).count())
}

/// The state letter of a process (proc_pid_stat(5)).
fn state(reader: &mut Reader) -> anyhow::Result<char> {
    let pid = reader.process().pid()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the reader's state")?;
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.context("a state")
}

fn stops(reader: &mut Reader) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while state(reader)? != 'T' {
        ensure!(Instant::now() < deadline, "the reader has not stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn right(reader: Reader) -> anyhow::Result<()> {
    let name = reader.name().to_owned();
    match reader.finish(PATIENCE)? {
        Outcome::Right => Ok(()),
        other => bail!("{name}: {other:?}"),
    }
}

fn killed(reader: Reader) -> anyhow::Result<()> {
    let name = reader.name().to_owned();
    match reader.finish(PATIENCE)? {
        Outcome::Broken(how) if how.contains("signal: 9") => Ok(()),
        other => bail!("{name}: {other:?}"),
    }
}

#[test]
fn is_the_gate_of_a_tmpfs_and_backs_the_others() -> anyhow::Result<()> {
    let _turn = turn::take();
    for (file_system, mode) in [(FileSystem::Tmpfs, "stop"), (FileSystem::Ext4, "pre-content")] {
        let scene = Scene::on(file_system)?;
        let event = scene.agent.wait_for(CHOSEN)?;
        let field = |name| event.field(name).map(ToString::to_string).unwrap_or_default();
        ensure!(field("mode").contains(mode), "{}: {}", file_system.name(), field("mode"));
        ensure!(field("holds_growth") == "true", "{}", file_system.name());
        let mut scene = scene;
        ensure!(attached(scene.agent.process().pid()?)? > 0, "{}", file_system.name());
        scene.agent.stop()?.expect(exit::OK)?;
    }
    Ok(())
}

/// What the mode is worth, and that the other tests would notice if nobody were stopped.
#[test]
fn needs_the_kernels_types() -> anyhow::Result<()> {
    let _turn = turn::take();
    for (file_system, mode) in [(FileSystem::Ext4, "pre-content"), (FileSystem::Tmpfs, "open")] {
        let config = Config { rate: RATE, ..Config::default() };
        let site = Site::new(file_system, config, shards(2, FILE))?;
        // In the mount namespace of this test's thread, which the site has made.
        mount(Some("none"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        let agent = site.start().start()?;
        let event = agent.wait_for(CHOSEN)?;
        let field = |name| event.field(name).map(ToString::to_string).unwrap_or_default();
        ensure!(field("mode").contains(mode) && field("holds_growth") == "false", "{event:?}");
        agent.wait_for(FILES_VISIBLE)?;
        let reading = reading("mremap", &site.copies()).at(0, FILE).ops(1);
        match (reading.run(&site.targets()[1..], PATIENCE)?, file_system) {
            (Outcome::WrongByte(_), FileSystem::Ext4) | (Outcome::Right, FileSystem::Tmpfs) => {}
            (other, _) => bail!("{}: {other:?}", file_system.name()),
        }
        agent.stop()?;
        no_keeper_left(&site)?;
        umount2("/sys/kernel/btf", MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Private copies of holes would stay zeros whatever is fetched.
#[test]
fn kills_who_has_copied_missing_bytes() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let script = "import mmap,os,sys; f=os.open(sys.argv[1],os.O_RDONLY); \
                  print(mmap.mmap(f,0,mmap.MAP_PRIVATE|mmap.MAP_POPULATE,mmap.PROT_READ|mmap.PROT_WRITE)[-1])";
    let output = Command::new("python3").args(["-c", script]).arg(scene.site.targets()[1].path()).output()?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    ensure!(signal == Some(9) && output.stdout.is_empty(), "{output:?}");
    scene.agent.wait_for(KILLED)?;
    scene.complete()
}

#[test]
fn of_a_growing_mapping_lasts_until_its_bytes_are_there() -> anyhow::Result<()> {
    let _turn = turn::take();
    for file_system in [FileSystem::Ext4, FileSystem::Tmpfs] {
        let scene = Scene::on(file_system)?;
        right(scene.stopped("mremap")?)?;
        scene.complete()?;
    }
    Ok(())
}

#[test]
fn outlasts_a_strangers_sigcont() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let mut readers = [scene.stopped("mmap-private")?, scene.stopped("mmap-shared")?];
    for reader in &mut readers {
        reader.process().signal(Signal::SIGCONT)?;
        stops(reader)?;
    }
    readers.into_iter().try_for_each(right)?;
    scene.complete()
}

#[test]
fn does_not_undo_a_users_stop() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let mut reader = scene.stopped("mmap-private")?;
    reader.process().signal(Signal::SIGSTOP)?;
    scene.agent.wait_for(RELEASED_AND_STOPPED)?;
    ensure!(state(&mut reader)? == 'T', "the user's stop was undone");
    reader.process().signal(Signal::SIGCONT)?;
    right(reader)?;
    scene.complete()
}

#[test]
fn ends_with_the_death_of_the_process() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let (mut first, second) = (scene.stopped("mmap-private")?, scene.stopped("mmap-shared")?);
    first.process().signal(Signal::SIGKILL)?;
    killed(first)?;
    right(second)?;
    scene.complete()
}

#[test]
fn outlives_the_agent_and_ends_with_the_next_one() -> anyhow::Result<()> {
    let _turn = turn::take();
    let mut scene = Scene::on(FileSystem::Tmpfs)?;
    let mut reader = scene.stopped("mmap-private")?;
    kill_agent(&mut scene.agent)?;
    scene.agent.wait_for(AGENT_DIED)?;
    // Who comes while no agent is there is stopped as well, and a stranger's SIGCONT changes nothing.
    let mut late =
        reading("mmap-shared", &scene.site.copies()).at(0, FILE).ops(1).start(&scene.site.targets()[..1])?;
    for reader in [&mut reader, &mut late] {
        stops(reader)?;
        reader.process().signal(Signal::SIGCONT)?;
        stops(reader)?;
    }
    let first = std::mem::replace(&mut scene.agent, scene.site.start().start()?);
    [reader, late].into_iter().try_for_each(right)?;
    drop(first);
    scene.complete()
}

#[test]
fn ends_in_death_when_no_agent_comes() -> anyhow::Result<()> {
    let _turn = turn::take();
    let mut scene = Scene::on(FileSystem::Tmpfs)?;
    let reader = scene.stopped("mmap-private")?;
    let open = std::fs::File::open(scene.site.targets()[0].path())?;
    kill_agent(&mut scene.agent)?;
    scene.agent.wait_for(GAVE_UP)?;
    scene.agent.wait_for(KILLED_BY_KEEPER)?;
    killed(reader)?;
    // Whoever maps the file later, through a descriptor that is still open.
    let pid = std::process::id();
    let path = format!("/proc/{pid}/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
    let script = "import mmap,os,sys; f=os.open(sys.argv[1],os.O_RDONLY); \
                  print(mmap.mmap(f,0,mmap.MAP_SHARED,mmap.PROT_READ)[-1])";
    let output = Command::new("python3").args(["-c", script, &path]).output()?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    ensure!(signal == Some(9) && output.stdout.is_empty(), "{output:?}");
    drop(open);
    no_keeper_left(&scene.site)
}

#[test]
fn ends_in_death_when_the_bytes_are_lost() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let reader = scene.stopped("mmap-private")?;
    for file in scene.site.origin().files() {
        scene.site.origin().server().delete(&file.key());
    }
    killed(reader)?;
    scene.agent.wait_for(KILLED)?;
    scene.agent.stop()?;
    no_keeper_left(&scene.site)
}
