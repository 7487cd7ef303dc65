//! `cargo xtask vm`: the same checks of the agent on several kernels. Debian's kernels of older series are booted in
//! emulated machines that share this machine's programs; "local" is the kernel that runs here.
//!
//! `kernel` fetches them, `initramfs` and `machine` boot them, `ossc-kernel-check` of the end-to-end tests sees what
//! works, `expect` knows what should, and `document` makes docs/kernel-support.md of it. What the machines printed stays
//! in target/vm. Another command that wants a machine needs `kernel`, `initramfs` with a script of its own, `machine`.

pub(crate) mod document;
mod expect;
mod initramfs;
mod kernel;
mod machine;
#[path = "../../tests/e2e/src/bin/ossc-kernel-check/report.rs"]
mod report;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::cmd::{self, Guarded};
use crate::{build, setup, toolchain};
use kernel::Kernel;
use machine::{Machine, RESULT_PORT};
use report::Line;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels to check; all unless given, and then the results are written to docs/kernel-support.md
    #[arg(value_enum)]
    kernels: Vec<Choice>,
}

/// A kernel to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// The one that runs here.
    Local,
    /// Of Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Of Debian 13, also in Debian 12's updates.
    #[value(name = "6.12")]
    V6_12,
}

impl Choice {
    /// In the order in which they are checked: what takes least first.
    pub(crate) const ALL: [Self; 3] = [Self::Local, Self::V6_12, Self::V6_1];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// Ten times what the checks take in an emulated machine with nothing beside it.
const DEADLINE: Duration = Duration::from_secs(600);
/// MiB of memory of a machine: the files of the checks, Python, and the page cache of both.
const MEMORY: u32 = 2048;

/// Sets up, builds, runs the checks and judges them.
pub(crate) fn vm(args: &Args) -> Result<()> {
    cmd::require_root("vm")?;
    setup::setup()?;
    let agent = match env::var_os("OSSC_AGENT") {
        Some(agent) => PathBuf::from(agent),
        None => {
            build::build()?;
            cmd::root().join("target/release/ossc-agent")
        }
    };
    let all = args.kernels.is_empty();
    let results = run(if all { &Choice::ALL } else { &args.kernels }, &agent)?;
    if all { document::write(&results) } else { Ok(()) }
}

/// Runs the checks of this agent on these kernels; an error when one is not as expected. `setup` and `build` have run.
pub(crate) fn run(kernels: &[Choice], agent: &Path) -> Result<Vec<(Choice, Vec<Line>)>> {
    if kernels.iter().any(|kernel| *kernel != Choice::Local) {
        setup::machines()?;
    }
    let folder = cmd::root().join("target/vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Kernels first: who cannot get one hears it before anything is compiled.
    let kernels = kernels
        .iter()
        .map(|choice| match choice {
            Choice::Local => Ok((*choice, None)),
            older => Kernel::get(older.name()).map(|kernel| (*choice, Some(kernel))),
        })
        .collect::<Result<Vec<_>>>()?;
    cmd::run(&mut cmd::cargo(&["build", "-p", "e2e"]))?;
    let agent = agent.canonicalize().with_context(|| format!("no agent at {}", agent.display()))?;
    let check = Check { program: cmd::root().join("target/debug/ossc-kernel-check"), agent, folder };
    let (mut results, mut failures) = (Vec::new(), 0);
    for (choice, kernel) in kernels {
        let lines = check.on(choice, kernel.as_ref());
        failures += print(&lines);
        results.push((choice, lines));
    }
    ensure!(failures == 0, "{failures} checks are not as expected");
    Ok(results)
}

/// Prints what came of each check, and counts those that are not as expected.
fn print(lines: &[Line]) -> usize {
    let verdicts = expect::verdicts(lines);
    for (name, outcome) in &verdicts {
        match outcome {
            Ok(()) => println!("  ok      {name}"),
            Err(why) => println!("  FAILED  {name}: {why}"),
        }
    }
    verdicts.iter().filter(|(_, outcome)| outcome.is_err()).count()
}

/// The checks, as each kernel runs them.
struct Check {
    /// `ossc-kernel-check`.
    program: PathBuf,
    agent: PathBuf,
    /// For what the machines print.
    folder: PathBuf,
}

impl Check {
    /// What the checks told on this kernel.
    fn on(&self, choice: Choice, kernel: Option<&Kernel>) -> Vec<Line> {
        let started = Instant::now();
        let name = choice.name();
        let result = self.folder.join(format!("{name}.json"));
        let console = self.folder.join(format!("{name}.log"));
        let what = kernel
            .map_or("the kernel that runs here".to_owned(), |kernel| format!("Linux {}", kernel.release()));
        println!("vm: {name}: {what}; its output goes to {}", console.display());
        let outcome = match kernel {
            None => self.here(&console, &result),
            Some(kernel) => self.in_machine(kernel, console, &result),
        };
        println!("vm: {name}: {:.0} s", started.elapsed().as_secs_f64());
        if let Err(error) = &outcome {
            // What was told before it is worth more than the error alone.
            println!("vm: {name}: {error:#}");
        }
        let text = fs::read(&result).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // A machine that was ended may have been about to tell something.
        let broken = |line: &str| Line::Broken { name: "report".to_owned(), error: format!("told {line:?}") };
        let told = text.lines().filter(|line| !line.trim().is_empty());
        told.map(|line| serde_json::from_str(line).unwrap_or_else(|_| broken(line))).collect()
    }

    fn here(&self, console: &Path, result: &Path) -> Result<()> {
        let log = fs::File::create(console).with_context(|| format!("cannot write {}", console.display()))?;
        let mut command = cmd::tied(&self.program);
        command.arg("--output").arg(result).env("OSSC_AGENT", &self.agent);
        command.env("OSSC_TEST_PYTHON", toolchain::venv_python()?);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        match machine::wait(&mut Guarded::spawn(&mut command)?, DEADLINE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the checks ended with {status}"),
            None => bail!("the checks have not ended within {DEADLINE:?}"),
        }
    }

    fn in_machine(&self, kernel: &Kernel, console: PathBuf, result: &Path) -> Result<()> {
        let initramfs = console.with_extension("initramfs");
        initramfs::write(kernel, &self.script()?, &initramfs)?;
        let image = kernel.image();
        Machine { kernel: &image, initramfs: &initramfs, memory: MEMORY, console, deadline: DEADLINE }
            .run(result)
    }

    /// What a machine runs. The paths are those of this machine, whose root it shares.
    fn script(&self) -> Result<String> {
        let python = toolchain::venv_python()?;
        let [agent, python, program] = [&self.agent, &python, &self.program].map(|path| quoted(path));
        Ok(format!(
            "OSSC_AGENT={agent} OSSC_TEST_PYTHON={python} {program} --output {RESULT_PORT} --lock-down"
        ))
    }
}

/// A path as a word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
