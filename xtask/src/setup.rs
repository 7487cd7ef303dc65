//! `cargo xtask setup`: installs what a fresh Debian or Ubuntu machine lacks, and says what and why. It looks
//! first and changes only what is missing, so that other commands may call it each time.
//!
//! Debian packages go into the system; bpf-linker and the Python packages into this project's cache folder.
//! On another distribution nothing is installed: the error names what is needed.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Uid;

use crate::cmd;
use crate::toolchain::{Compiler, Toolchain, tools_dir, venv, venv_python};

/// A program that tests or builds run, the Debian package it comes in, and what it is for.
struct Need {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const NEEDS: [Need; 10] = [
    Need { program: "cc", package: "gcc", purpose: "links everything and compiles ring's C" },
    Need { program: "c++", package: "g++", purpose: "links bpf-linker with LLVM" },
    Need { program: "mkfs.ext4", package: "e2fsprogs", purpose: "ext4 for the reader tests" },
    Need { program: "mkfs.xfs", package: "xfsprogs", purpose: "xfs for the reader tests" },
    Need { program: "mkfs.btrfs", package: "btrfs-progs", purpose: "btrfs for the reader tests" },
    Need { program: "losetup", package: "mount", purpose: "loop devices for these file systems" },
    Need { program: "ip", package: "iproute2", purpose: "network namespaces and shaped links" },
    Need { program: "strace", package: "strace", purpose: "a second opinion on what a reader did" },
    Need { program: "curl", package: "curl", purpose: "plain HTTP readers" },
    Need { program: "python3", package: "python3", purpose: "readers and Alibaba Cloud's own clients" },
];

/// The distribution's Rust that may build for BPF: Debian keeps these current for its browsers.
const DISTRIBUTION_RUST: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The bpf-linker release the programs are built with; its `llvm-N` features choose the LLVM.
const BPF_LINKER: &str = "0.13.0";
/// Where the tracepoint events show once tracefs is mounted.
const TRACEFS: &str = "/sys/kernel/tracing";

/// Installs what is missing.
pub(crate) fn setup() -> Result<()> {
    programs()?;
    ebpf_toolchain()?;
    python()?;
    tracefs()?;
    println!("setup: all is there");
    Ok(())
}

fn programs() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| find(need.program).is_none()).collect();
    for Need { program, package, purpose } in &missing {
        println!("setup: {program} is missing (package {package}): {purpose}");
    }
    install(missing.iter().map(|need| need.package))
}

fn ebpf_toolchain() -> Result<()> {
    if Toolchain::find().is_ok() {
        return Ok(());
    }
    if Compiler::all().is_empty() {
        compiler()?;
    }
    if Toolchain::find().is_err() {
        linker()?;
    }
    Toolchain::find().map(drop).map_err(anyhow::Error::msg)
}

/// A compiler for the programs: rustup's nightly if its rust-src is to be had, else the distribution's.
fn compiler() -> Result<()> {
    println!("setup: the eBPF programs need a nightly Rust with rust-src; asking rustup for it");
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile=minimal", "--component=rust-src"]);
    rustup.args(["--no-self-update"]).stdout(Stdio::null()).stderr(Stdio::null());
    if rustup.status().is_ok_and(|status| status.success()) && !Compiler::all().is_empty() {
        return Ok(());
    }
    println!("setup: rustup has none; installing {} instead", DISTRIBUTION_RUST.join(" "));
    install(DISTRIBUTION_RUST)?;
    ensure!(!Compiler::all().is_empty(), "the distribution's Rust came without rust-src or cargo");
    Ok(())
}

/// bpf-linker for the first compiler whose LLVM the distribution has.
fn linker() -> Result<()> {
    for attempt in [None, Some(DISTRIBUTION_RUST)] {
        if let Some(packages) = attempt {
            println!("setup: no LLVM for that compiler; installing {} instead", packages.join(" "));
            install(packages)?;
        }
        for compiler in Compiler::all() {
            let package = format!("llvm-{}-dev", compiler.llvm);
            let prefix = PathBuf::from(format!("/usr/lib/llvm-{}", compiler.llvm));
            if prefix.join("bin/llvm-config").is_file() || is_available(&package)? {
                println!("setup: LLVM {} of {} for bpf-linker", compiler.llvm, compiler.name);
                install([package.as_str()])?;
                return build_linker(compiler.llvm, &prefix);
            }
        }
    }
    bail!(
        "no LLVM development package fits an installed Rust; install bpf-linker by hand \
         (https://github.com/aya-rs/bpf-linker#installation)"
    )
}

fn build_linker(llvm: u32, prefix: &Path) -> Result<()> {
    println!("setup: compiling bpf-linker {BPF_LINKER} into {}; about a minute", tools_dir().display());
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([prefix.join("bin")].into_iter().chain(env::split_paths(&path)))?;
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "bpf-linker", "--locked", "--force", "--quiet", "--version", BPF_LINKER]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"]).arg(tools_dir());
    // Outside of the workspace, whose settings are not for this build; and with the LLVM of our choice.
    cargo.current_dir("/").env("PATH", path).env("LLVM_PREFIX", prefix);
    for outer in
        ["CARGO", "CARGO_TARGET_DIR", "RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
    {
        cargo.env_remove(outer);
    }
    cmd::quietly(&mut cargo)
}

/// A Python environment with exactly the pinned packages; a copy of the list in it tells whether it is current.
fn python() -> Result<()> {
    let wanted = cmd::root().join("tests/requirements.txt");
    let installed = venv().join("requirements.txt");
    let list = fs::read(&wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    let current = fs::read(&installed).is_ok_and(|installed| installed == list);
    if current && venv_python().is_ok() {
        return Ok(());
    }
    println!("setup: Python packages of tests/requirements.txt into {}", venv().display());
    if !succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        println!("setup: python3 cannot make environments (package python3-venv)");
        install(["python3-venv"])?;
    }
    cmd::quietly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv()))?;
    let mut pip = Command::new(venv_python()?);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--requirement",
    ]);
    cmd::quietly(pip.arg(&wanted))?;
    fs::write(&installed, list).with_context(|| format!("cannot write {}", installed.display()))
}

/// The agent mounts nothing by itself; its tests need the tracepoints.
fn tracefs() -> Result<()> {
    if Path::new(TRACEFS).join("events").is_dir() {
        return Ok(());
    }
    println!("setup: mounting tracefs at {TRACEFS}: eBPF programs attach to its tracepoints");
    require_root(&format!("mount -t tracefs tracefs {TRACEFS}"))?;
    cmd::quietly(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]))
}

/// Installs Debian packages; nothing happens when all are installed.
fn install<'a>(packages: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let packages: BTreeSet<&str> = packages.into_iter().filter(|package| !is_installed(package)).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
    ensure!(
        find("apt-get").is_some(),
        "set-up can install on Debian and Ubuntu only; this machine needs what there is in the packages {list}"
    );
    require_root(&format!("apt-get install {list}"))?;
    // A fresh image has no package lists, an old one has lists of packages that are gone.
    let stale = packages.iter().any(|package| !is_available(package).unwrap_or(false));
    if stale || !apt_get(["install", "--yes", "--no-install-recommends"]).args(&packages).status()?.success()
    {
        println!("setup: apt-get update");
        cmd::quietly(&mut apt_get(["update"]))?;
        println!("setup: apt-get install {list}");
        cmd::quietly(apt_get(["install", "--yes", "--no-install-recommends"]).args(&packages))?;
    }
    Ok(())
}

fn apt_get<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet=2").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command.stdout(Stdio::null());
    command
}

fn is_installed(package: &str) -> bool {
    let status =
        Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    status.is_ok_and(|status| status.stdout == b"installed")
}

/// Whether the package lists have it.
fn is_available(package: &str) -> Result<bool> {
    let policy =
        Command::new("apt-cache").args(["policy", package]).output().context("cannot run apt-cache")?;
    let policy = String::from_utf8_lossy(&policy.stdout);
    Ok(policy.lines().any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)")))
}

fn require_root(command: &str) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "set-up needs root for `{command}`: run that as root, or this as root"
    );
    Ok(())
}

/// A program of the PATH, or of the folders of administrators, which are not in everyone's PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
