//! `-- COMMAND`: started once the files are visible, given the signals, and its status is the agent's.
//!
//! The commands are the reader binary, a shell and a Python of a few lines. What a COMMAND does with the files while
//! they fill is left to `readers`.

use anyhow::ensure;
use e2e::agent::{PATIENCE, exit};
use e2e::origin::shards;
use e2e::python;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use nix::sys::signal::Signal;
use oss_server::Config;

use crate::{MIB, READER};

/// Takes the first signal it gets, whenever it comes, and ends with 100 plus its number. A shell's `trap` and `wait`
/// may miss one that comes between them.
const TELLS_ITS_SIGNAL: &str = "
import signal, sys
signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print('ready', flush=True)
sys.exit(100 + signal.sigwait(signals))
";

fn site() -> anyhow::Result<Site> {
    Site::new(FileSystem::Ext4, Config::default(), shards(2, 8 * MIB))
}

#[test]
fn finds_the_files_and_reads_them() -> anyhow::Result<()> {
    let site = site()?;
    let mut command = vec![READER.to_owned(), "--kind=sha256sum".to_owned(), "--ops=4".to_owned()];
    command.extend(site.targets().iter().map(ToString::to_string));
    let ended = site.start().command(command).run()?;
    ended.expect(exit::OK)?;
    ensure!(ended.output.contains("kind=sha256sum reads=4"), "its output is passed on: {:?}", ended.output);
    Ok(())
}

#[test]
fn gives_its_status() -> anyhow::Result<()> {
    let site = site()?;
    // 128 + 9: the shell's way to tell of a signal.
    for (script, status) in [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$", 137)] {
        site.start().command(["sh", "-c", script]).run()?.expect(status)?;
    }
    Ok(())
}

#[test]
fn gets_the_signals() -> anyhow::Result<()> {
    let site = site()?;
    let python = python::interpreter()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        let command = [python.as_os_str(), "-c".as_ref(), TELLS_ITS_SIGNAL.as_ref()];
        let mut agent = site.start().command(command).start()?;
        agent.output().wait_for("ready", PATIENCE, |line| line.line() == "ready")?;
        agent.process().signal(signal)?;
        agent.finish()?.expect(100 + signal as i32)?;
    }
    Ok(())
}
