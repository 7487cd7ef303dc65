//! `cargo xtask fuzz`: runs the programs of `tests/fuzz` with libFuzzer and the address sanitizer, each for some
//! time from its kept corpus. What a run learns stays below `target/fuzz`; an input that breaks a parser is written
//! there too, and its path ends the run.
//!
//! Needs a Rust that takes nightly options and has the sanitizer's runtime: rustup's nightly, or the stable one
//! with RUSTC_BOOTSTRAP. cargo-fuzz is compiled into the project's cache folder when it is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cmd;
use crate::toolchain::tools_dir;

/// The cargo-fuzz release the targets are built with.
const CARGO_FUZZ: &str = "0.13.2";
/// Longest input, in bytes: longer ones find nothing that shorter ones do not, and are slow.
const LONGEST: u32 = 4096;
/// Most memory of a run, in MiB: a parser that takes more for such inputs has a fault.
const MEMORY_MIB: u32 = 1024;
/// Most time for one input, in seconds.
const HANG_SECONDS: u32 = 10;

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Targets, by the names of the files in tests/fuzz/fuzz_targets; all when none is given
    targets: Vec<String>,
}

/// Fuzzes every target named; ends with the first finding of each.
pub(crate) fn fuzz(args: &Args) -> Result<()> {
    let known = known_targets()?;
    for target in &args.targets {
        ensure!(known.contains(target), "there is no target {target}; there are {}", known.join(", "));
    }
    let targets = if args.targets.is_empty() { &known } else { &args.targets };
    let toolchain = toolchain()?;
    install_cargo_fuzz()?;
    let mut findings = Vec::new();
    for target in targets {
        findings.extend(run(target, args.seconds, toolchain)?);
    }
    println!("fuzz: {} target(s), {} s each, {} finding(s)", targets.len(), args.seconds, findings.len());
    if !findings.is_empty() {
        let paths: Vec<_> = findings.iter().map(|path| path.display().to_string()).collect();
        bail!("found by fuzzing, to be kept in tests/fuzz/corpus when mended: {}", paths.join(" "));
    }
    Ok(())
}

fn known_targets() -> Result<Vec<String>> {
    let folder = cmd::root().join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The toolchain that can, as rustup names it.
fn toolchain() -> Result<&'static str> {
    ["nightly", "stable"].into_iter().find(|toolchain| has_sanitizer(toolchain)).context(
        "fuzzing needs a Rust with the address sanitizer's runtime: \
         `rustup toolchain install nightly --profile=minimal`",
    )
}

fn has_sanitizer(toolchain: &str) -> bool {
    let mut ask = Command::new("rustup");
    // Without this, asking for a toolchain that is not there would download it.
    ask.args(["run", toolchain, "rustc", "--print", "target-libdir"]).env("RUSTUP_AUTO_INSTALL", "0");
    let folder = ask.output().ok().filter(|output| output.status.success());
    let folder = folder.and_then(|output| String::from_utf8(output.stdout).ok());
    let runtime = folder.and_then(|folder| fs::read_dir(folder.trim()).ok());
    runtime.is_some_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a")))
    })
}

fn cargo_fuzz() -> PathBuf {
    tools_dir().join("bin/cargo-fuzz")
}

fn install_cargo_fuzz() -> Result<()> {
    if cargo_fuzz().is_file() {
        return Ok(());
    }
    println!("fuzz: compiling cargo-fuzz {CARGO_FUZZ} into {}; about a minute", tools_dir().display());
    let mut install = Command::new("cargo");
    install.args(["install", "cargo-fuzz", "--locked", "--quiet", "--version", CARGO_FUZZ, "--root"]);
    // Outside of the workspace, whose settings are not for this build.
    cmd::quietly(install.arg(tools_dir()).current_dir("/").env_remove("CARGO_TARGET_DIR"))
}

/// One target; the input that broke it, if there is one.
fn run(target: &str, seconds: u32, toolchain: &str) -> Result<Option<PathBuf>> {
    let root = cmd::root();
    let work = root.join("target/fuzz");
    let (learned, found) = (work.join("corpus").join(target), work.join("found").join(target));
    for folder in [&learned, &found] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let before = inputs(&found)?;
    let mut fuzzer = Command::new(cargo_fuzz());
    fuzzer.args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--target-dir"]).arg(&work).arg(target);
    // The first corpus takes what is learned, the second is only read.
    fuzzer.arg(&learned).arg(root.join("tests/fuzz/corpus").join(target));
    fuzzer.arg("--").arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}"));
    fuzzer.arg(format!("-timeout={HANG_SECONDS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    fuzzer.args(["-print_final_stats=1", "-verbosity=0"]);
    fuzzer.arg(format!("-artifact_prefix={}/", found.display()));
    fuzzer.current_dir(&root).env("RUSTUP_TOOLCHAIN", toolchain).env("RUSTC_BOOTSTRAP", "1");
    // Those of the cargo that runs us are another toolchain's.
    for outer in ["CARGO", "RUSTC", "RUSTDOC", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        fuzzer.env_remove(outer);
    }
    let outcome = cmd::run(&mut fuzzer);
    let new = inputs(&found)?.into_iter().find(|path| !before.contains(path));
    match (outcome, new) {
        (_, Some(path)) => Ok(Some(path)),
        (outcome, None) => outcome.map(|()| None),
    }
}

fn inputs(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    list().with_context(|| format!("cannot list {}", folder.display()))
}
