//! What the machine does to the disk under a load: power loss, a file system that shuts down or turns read-only, a
//! full disk, state files that were damaged. Never a wrong byte, and the next load makes everything good.
//!
//! Power loss is tried in two ways. A reflink copy of the disk's image, taken at a random moment of the load, has
//! what a disk that keeps its writes in order had then. A forced shutdown of the file system (ext4, xfs) loses
//! every page that was not written yet, and then the device is mounted again in the same boot. A disk that loses
//! or reorders writes it had taken (dm-flakey, dm-log-writes) needs a kernel with device mapper and is not tried.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::{ModelFile, Origin, shards};
use e2e::reader::Outcome;
use e2e::scratch::{FileSystem, Scratch, run};
use e2e::site::Site;
use e2e::turn;
use nix::sys::signal::{Signal, kill};
use oss_server::Config;

use crate::keeper::{keepers, kill_agent, no_keeper_left, no_keeper_of};
use crate::{MIB, reading};

const SHARD: u64 = 24 * MIB + 55;
/// Bytes a second: a load of some two seconds.
const RATE: u64 = 24_000_000;
/// Moments of a load at which the power goes, in percent of what was sent.
const MOMENTS: [u64; 5] = [5, 30, 55, 80, 97];
/// xfsprogs refuses less than 300 MiB.
const DISK: u64 = 320 * MIB;

/// Resumes the load of a model directory on a disk that is mounted now, with a reader throughout.
fn resumes(site: &Site, model_dir: &Path) -> anyhow::Result<()> {
    let agent = site.start().variable("MODEL_DIR", model_dir).start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let targets = site.origin().targets(model_dir);
    let copies = Scratch::directory()?;
    let reader = reading("pread", copies.path()).ops(200).start(&targets)?;
    agent.wait_for(ALL_COMPLETE)?;
    match reader.finish(PATIENCE)? {
        Outcome::Right => {}
        other => anyhow::bail!("a reader of the resumed load: {other:?}"),
    }
    for (file, target) in site.origin().files().iter().zip(&targets) {
        target.check_whole(file.size)?;
    }
    agent.stop()?.expect(exit::OK)
}

#[test]
fn a_power_loss_at_any_moment_shows_no_wrong_byte() -> anyhow::Result<()> {
    let _turn = turn::take();
    for file_system in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
        // Its images can be copied at one moment in time.
        let outer = Scratch::mounted(FileSystem::Xfs, 8 << 30)?;
        let disk = Scratch::mounted_in(outer.path(), file_system, DISK)?;
        let image = disk.image().context("the image of the disk")?;
        let config = Config { rate: RATE, ..Config::default() };
        let site = Site::on(disk, config, shards(2, SHARD))?;
        let mut snapshots = Vec::new();
        let agent = site.start().start()?;
        agent.wait_for(FILES_VISIBLE)?;
        for percent in MOMENTS {
            site.wait_percent(percent, PATIENCE)?;
            snapshots.push(snapshot(&image, outer.path(), percent)?);
        }
        agent.wait_for(ALL_COMPLETE)?;
        snapshots.push(snapshot(&image, outer.path(), 100)?);
        agent.stop()?.expect(exit::OK)?;
        no_keeper_left(&site)?;
        site.origin().server().set_rate(0);
        // Two file systems of one UUID exclude each other.
        let site = site.without_disk()?;
        for snapshot in snapshots {
            let disk = Scratch::of_image(&snapshot, file_system)?;
            resumes(&site, &disk.path().join("model"))
                .with_context(|| format!("{file_system:?}, {}", snapshot.display()))?;
            no_keeper_of(&disk.path().join("model"))?;
        }
    }
    Ok(())
}

fn snapshot(image: &Path, beside: &Path, percent: u64) -> anyhow::Result<PathBuf> {
    let copy = beside.join(format!("at-{percent}"));
    run(std::process::Command::new("cp").arg("--reflink=always").args([image, &copy]))?;
    Ok(copy)
}

/// What happens to the file system under a load.
struct Blow {
    file_system: FileSystem,
    /// A program and its arguments; the mount point follows.
    command: &'static [&'static str],
}

const BLOWS: [Blow; 4] = [
    Blow { file_system: FileSystem::Ext4, command: &["xfs_io", "-x", "-c", "shutdown"] },
    Blow { file_system: FileSystem::Ext4, command: &["xfs_io", "-x", "-c", "shutdown -f"] },
    Blow { file_system: FileSystem::Xfs, command: &["xfs_io", "-x", "-c", "shutdown -f"] },
    // As ext4 does after an error with errors=remount-ro.
    Blow { file_system: FileSystem::Ext4, command: &["mount", "-o", "remount,abort"] },
];

/// All access fails (shutdown), or all writes do (read-only): readers get an errno, the agent ends with a message,
/// and after the file system was mounted again, from the same device in the same boot, the load goes on.
#[test]
fn a_file_system_that_fails_under_a_load_shows_no_wrong_byte() -> anyhow::Result<()> {
    let _turn = turn::take();
    for blow in BLOWS {
        let config = Config { rate: RATE, ..Config::default() };
        let disk = Scratch::mounted(blow.file_system, DISK)?;
        let device = disk.device()?;
        let site = Site::on(disk, config, shards(2, SHARD))?;
        let mut agent = site.start().start()?;
        agent.wait_for(FILES_VISIBLE)?;
        site.wait_percent(40, PATIENCE)?;
        let readers: Vec<_> = (0..4)
            .map(|seed| {
                reading("pread", &site.copies()).seed(seed).ops(50).any_errno().start(&site.targets())
            })
            .collect::<Result<_, _>>()?;
        let (program, arguments) = blow.command.split_first().context("a command")?;
        run(std::process::Command::new(program).args(arguments).arg(site.disk().path()))?;
        agent.log().wait_for("an error", PATIENCE, |event| {
            event.field("level").is_some_and(|level| level == "ERROR") && event.line().contains("model-0000")
        })?;
        for reader in readers {
            // One whose scratch directory is on the broken file system cannot work, which is no wrong byte.
            let outcome = reader.finish(PATIENCE)?;
            ensure!(!matches!(outcome, Outcome::WrongByte(_)), "{:?}: {outcome:?}", blow.command);
        }
        // It cannot record what it has, and says so; what is wrong then is not the agent. The keeper cannot take the
        // names from incomplete files, so it would guard them for ever; who unmounts ends it.
        agent.process().signal(Signal::SIGTERM)?;
        agent.process().wait(PATIENCE)?;
        for keeper in keepers(&site.model_dir())? {
            kill(keeper, Signal::SIGKILL)?;
        }
        let ended = agent.finish()?;
        ensure!(
            matches!(ended.status.code(), Some(exit::OK | exit::LOCAL)),
            "{:?}: {}\n{}",
            blow.command,
            ended.status,
            ended.text()
        );
        no_keeper_left(&site)?;
        site.disk().mount_again()?;
        site.origin().server().set_rate(0);
        resumes(&site, &site.model_dir()).with_context(|| format!("{:?}", blow.command))?;
        no_keeper_left(&site)?;
        drop(device);
    }
    Ok(())
}

/// Space is reserved when the files are laid out, so a disk that others fill up afterwards does not matter.
#[test]
fn a_disk_that_fills_up_under_a_load_does_not_matter() -> anyhow::Result<()> {
    let _turn = turn::take();
    let disk = Scratch::mounted(FileSystem::Ext4, 160 * MIB)?;
    let site = Site::on(disk, Config { rate: RATE, ..Config::default() }, shards(2, SHARD))?;
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    site.wait_percent(30, PATIENCE)?;
    let filler = site.copies().join("filler");
    let mut file = File::create(&filler)?;
    let full = std::io::copy(&mut std::io::repeat(1), &mut file);
    ensure!(full.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull), "the disk took all");
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?;
    fs::remove_file(filler)?;
    site.start().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    site.check_files()?;
    no_keeper_left(&site)
}

/// Damages files of the state directory of an agent that was killed.
type Damage = fn(&mut Vec<u8>);

const DAMAGES: [(&str, Damage); 5] = [
    ("empty", Vec::clear),
    ("cut", |bytes| bytes.truncate(bytes.len() * 2 / 3)),
    ("a bit flipped", |bytes| {
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x10;
        }
    }),
    ("garbage", |bytes| bytes.iter_mut().for_each(|byte| *byte = 0xa5)),
    ("garbage behind", |bytes| bytes.extend([0xa5; 100])),
];

#[test]
fn damaged_state_costs_a_fetch_and_no_wrong_byte() -> anyhow::Result<()> {
    let _turn = turn::take();
    for (name, damage) in DAMAGES {
        let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(2, SHARD))?;
        let bystander = bystander(&site)?;
        let mut agent = site.start().option("--takeover-deadline", "1").start()?;
        agent.wait_for(FILES_VISIBLE)?;
        site.wait_percent(50, PATIENCE)?;
        kill_agent(&mut agent)?;
        no_keeper_left(&site)?;
        let mut damaged = 0;
        for directory in [site.model_dir().join(".ossc/ready"), site.state_dir().join("orders")] {
            for entry in fs::read_dir(&directory).into_iter().flatten() {
                let path = entry?.path();
                let mut bytes = fs::read(&path)?;
                damage(&mut bytes);
                fs::write(&path, bytes)?;
                damaged += 1;
            }
        }
        ensure!(damaged >= 2, "{name}: nothing to damage");
        fs::write(site.model_dir().join(".ossc/lock"), "not a number")?;
        site.origin().server().set_rate(0);
        resumes(&site, &site.model_dir()).context(name)?;
        bystander.target.check_whole(bystander.size).with_context(|| format!("{name}: the other model"))?;
        no_keeper_left(&site)?;
    }
    Ok(())
}

/// A complete file of another model in the same directory.
struct Bystander {
    target: e2e::content::Target,
    size: u64,
}

fn bystander(site: &Site) -> anyhow::Result<Bystander> {
    let file = ModelFile::synthetic("bystander.bin", 3 * MIB + 1);
    let origin = Origin::start(Config::default(), vec![file.clone()])?;
    let start = site.start().variable("OSS_ENDPOINT", origin.server().endpoint());
    start.argument("--exit-when-complete").run()?.expect(exit::OK)?;
    no_keeper_left(site)?;
    // A plain file from now on: reading it needs nobody.
    let target = file.target(&site.model_dir());
    let mut byte = [0];
    File::open(target.path())?.read_exact_at(&mut byte, 0)?;
    Ok(Bystander { target, size: file.size })
}
