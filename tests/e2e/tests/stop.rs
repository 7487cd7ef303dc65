//! The stop gate: the process that maps missing bytes is stopped until they are there, on a tmpfs, and at mremap(2)
//! everywhere. What can happen to a stopped process: signals of others, its own death, the agent's.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, READER_HELD, Start, exit};
use e2e::events::Event;
use e2e::origin::{ModelFile, shards};
use e2e::process::Process;
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

/// Bytes a second: whoever maps a whole file has to wait until the test lets the load go on.
pub(crate) const RATE: u64 = 2_000_000;
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
        Self::of(file_system, shards(2, FILE), |start| start)
    }

    fn of(
        file_system: FileSystem,
        files: Vec<ModelFile>,
        adapt: impl Fn(Start) -> Start,
    ) -> anyhow::Result<Self> {
        let site = Site::new(file_system, Config { rate: RATE, ..Config::default() }, files)?;
        let agent = adapt(site.start()).start()?;
        agent.wait_for(FILES_VISIBLE)?;
        Ok(Self { site, agent })
    }

    /// From now on the load goes as fast as it can.
    fn go_on(&self) {
        self.site.origin().server().set_rate(0);
    }

    /// Lets the load go on, and these readers finish.
    fn all_right(&self, readers: impl IntoIterator<Item = Reader>) -> anyhow::Result<()> {
        self.go_on();
        readers.into_iter().try_for_each(right)
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
        self.go_on();
        self.agent.wait_for(ALL_COMPLETE)?;
        let pid = self.agent.process().pid()?;
        eventually("the programs stay attached", || Ok((attached(pid)? == 0).then_some(())))?;
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

/// The state letter of a process or thread, by its folder (proc_pid_stat(5)).
fn state(folder: &Path) -> anyhow::Result<char> {
    let stat = std::fs::read_to_string(folder.join("stat")).context("the reader's state")?;
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.context("a state")
}

fn state_of(reader: &mut Reader) -> anyhow::Result<char> {
    state(Path::new(&format!("/proc/{}", reader.process().pid()?)))
}

pub(crate) fn stops(reader: &mut Reader) -> anyhow::Result<()> {
    eventually("the reader has not stopped", || Ok((state_of(reader)? == 'T').then_some(())))
}

/// Looks until there is something.
fn eventually<T>(missing: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{missing}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn right(reader: Reader) -> anyhow::Result<()> {
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
        scene.agent.interrupt()?.expect(exit::OK)?;
        no_keeper_left(&scene.site)?;
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
        // Where open(2) waits, it waits for what comes at this rate.
        let reading = reading("mremap", &site.copies()).at(0, FILE).ops(1);
        if file_system == FileSystem::Tmpfs {
            site.origin().server().set_rate(0);
        }
        match (reading.run(&site.targets()[1..], PATIENCE)?, file_system) {
            (Outcome::WrongByte(_), FileSystem::Ext4) | (Outcome::Right, FileSystem::Tmpfs) => {}
            (other, _) => bail!("{}: {other:?}", file_system.name()),
        }
        agent.interrupt()?.expect(exit::OK)?;
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
        scene.all_right([scene.stopped("mremap")?])?;
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
    scene.all_right(readers)?;
    scene.complete()
}

/// Several at once may take back the stop that answers one of them: who gets to missing bytes then is killed.
#[test]
fn shows_no_hole_in_a_storm_of_sigconts() -> anyhow::Result<()> {
    const SENDERS: usize = 3;
    const SIGNALS: usize = 5000;
    let _turn = turn::take();
    for (file_system, kinds) in [
        (FileSystem::Tmpfs, ["mmap-private", "mmap-shared", "mremap", "mmap-shared"]),
        (FileSystem::Ext4, ["mremap"; 4]),
    ] {
        let scene = Scene::on(file_system)?;
        let mut readers =
            kinds.map(|kind| scene.stopped(kind)).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let pids =
            readers.iter_mut().map(|reader| reader.process().pid()).collect::<anyhow::Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                // They have not been waited for: an id of one that was killed is not used again.
                scope.spawn(|| {
                    for pid in pids.iter().flat_map(|pid| std::iter::repeat_n(pid, SIGNALS)) {
                        nix::sys::signal::kill(*pid, Signal::SIGCONT).ok();
                    }
                });
            }
        });
        scene.go_on();
        let mut killed = 0;
        for reader in readers {
            let name = reader.name().to_owned();
            match reader.finish(PATIENCE)? {
                Outcome::Right => {}
                Outcome::Broken(how) if how.contains("signal: 9") => killed += 1,
                other => bail!("{name}: {other:?}"),
            }
        }
        eprintln!("{killed} of {} readers on {} were killed", kinds.len(), file_system.name());
        scene.complete()?;
    }
    Ok(())
}

#[test]
fn does_not_undo_a_users_stop() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let mut reader = scene.stopped("mmap-private")?;
    reader.process().signal(Signal::SIGSTOP)?;
    scene.go_on();
    scene.agent.wait_for(RELEASED_AND_STOPPED)?;
    ensure!(state_of(&mut reader)? == 'T', "the user's stop was undone");
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
    scene.all_right([second])?;
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
    scene.all_right([reader, late])?;
    drop(first);
    scene.complete()
}

#[test]
fn ends_in_death_when_no_agent_comes() -> anyhow::Result<()> {
    let _turn = turn::take();
    let mut scene =
        Scene::of(FileSystem::Tmpfs, shards(2, FILE), |start| start.option("--takeover-deadline", "1"))?;
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
    scene.agent.interrupt()?;
    no_keeper_left(&scene.site)
}

/// Every thread, also those that map nothing.
#[test]
fn stops_all_threads() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let script = "import mmap,os,sys,threading\n\
                  def spin():\n while not done: pass\n\
                  done=False; ts=[threading.Thread(target=spin) for _ in range(3)]; [t.start() for t in ts]\n\
                  f=os.open(sys.argv[1],os.O_RDONLY); m=mmap.mmap(f,0,mmap.MAP_SHARED,mmap.PROT_READ)\n\
                  done=True; sys.stdout.buffer.write(m[-1:])";
    let target = &scene.site.targets()[1];
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(target.path()).stdout(Stdio::piped());
    let mut reader = Process::spawn(&mut command)?;
    scene.agent.wait_for(READER_HELD)?;
    let pid = reader.pid()?;
    let stopped = eventually("not every thread has stopped", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?;
        let states: Vec<_> = threads.map(|thread| state(&thread?.path())).collect::<anyhow::Result<_>>()?;
        Ok(states.iter().all(|state| *state == 'T').then_some(states.len()))
    })?;
    ensure!(stopped == 4, "{stopped} threads have stopped, not 4");
    scene.go_on();
    ensure!(reader.wait(PATIENCE)?.success(), "the reader failed");
    let mut byte = Vec::new();
    reader.child().stdout.take().context("what it printed")?.read_to_end(&mut byte)?;
    ensure!(byte.len() == 1, "{byte:?}");
    target.check(FILE - 1, &byte)?;
    scene.complete()
}

#[test]
fn holds_all_processes_that_map_one_file() -> anyhow::Result<()> {
    let _turn = turn::take();
    let scene = Scene::on(FileSystem::Tmpfs)?;
    let kinds = ["mmap-private", "mmap-shared", "map-populate", "mmap-forked", "mmap-shared"];
    let mut readers =
        kinds.map(|kind| scene.stopped(kind)).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for reader in &mut readers {
        stops(reader)?;
    }
    scene.all_right(readers)?;
    scene.complete()
}

/// What a reader waits for, of a file of its own, as the log tells it.
fn held(scene: &Scene, at: usize) -> anyhow::Result<String> {
    let path = scene.site.targets()[at].path().display().to_string();
    let is_it = |event: &Event| {
        event.message() == READER_HELD
            && event.field("path").is_some_and(|field| field.as_str() == Some(&path))
    };
    let event = scene.agent.log().wait_for(READER_HELD, PATIENCE, is_it)?;
    Ok(event.field("range").and_then(|range| range.as_str()).context("a range")?.to_owned())
}

/// FAN_ACCESS_PERM says no range; the programs know it of these calls, and of nothing that io_uring does.
#[test]
fn knows_the_ranges_of_reads_and_not_those_of_io_uring() -> anyhow::Result<()> {
    const SIZE: u64 = 12 * MIB + 77;
    const START: u64 = 8 * MIB + 12_345;
    const LENGTH: u64 = 100_000;
    let _turn = turn::take();
    let kinds = ["read", "pread", "readv", "preadv2", "io-uring", "io-uring-registered", "sendfile"];
    // The load itself begins with the first file.
    let scene = Scene::of(FileSystem::Tmpfs, shards(kinds.len() + 1, SIZE), |start| start)?;
    let mut waiting = Vec::new();
    for (at, kind) in (1..).zip(kinds) {
        let reader = reading(kind, &scene.site.copies()).at(START, LENGTH).ops(1);
        let reader = reader.start(&scene.site.targets()[at..=at])?;
        let whole = kind.starts_with("io-uring") || kind == "sendfile";
        let wanted = if whole { 0..SIZE } else { START..START + LENGTH };
        let range = held(&scene, at)?;
        ensure!(range == format!("{}..{}", wanted.start, wanted.end), "{kind} waits for {range}");
        waiting.push(reader);
    }
    scene.all_right(waiting)?;
    scene.complete()
}

/// A process that could be stopped and not continued would stay so.
#[test]
fn is_not_chosen_without_the_capabilities_for_it() -> anyhow::Result<()> {
    let _turn = turn::take();
    let without = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
    let scene = Scene::of(FileSystem::Tmpfs, shards(1, FILE), |start| start.through(without))?;
    let event = scene.agent.wait_for(CHOSEN)?;
    ensure!(event.field("mode").is_some_and(|mode| mode.as_str() == Some("open")), "{event:?}");
    scene.agent.interrupt()?.expect(exit::OK)?;
    no_keeper_left(&scene.site)
}
