//! Finds what compiles `ossc-ebpf`: a Rust compiler that may build `core` for the BPF machine (nightly, or
//! any with RUSTC_BOOTSTRAP), its `rust-src`, and a bpf-linker that reads the same LLVM's bitcode.
//!
//! One file for two users: `ossc-agent/build.rs` builds with the result, `xtask setup` installs what is
//! missing. Both must judge alike, or setup would end content and the build would fail.
//! rustup's nightly is preferred; the distribution's Rust serves machines where nightly has no rust-src.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine `ossc-ebpf` is compiled for: BPF in the byte order of x86-64 and arm64.
const TARGET: &str = "bpfel-unknown-none";

/// A Rust compiler as new as this workspace asks for (rust-version), with the source of `core`, which the BPF
/// target has no prebuilt copy of.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    /// What a person calls it.
    pub(crate) name: &'static str,
    /// Major version of the LLVM in it; bpf-linker's must be the same.
    pub(crate) llvm: u32,
    cargo: PathBuf,
    rustc: PathBuf,
}

impl Compiler {
    /// The usable ones on this machine, the preferred first.
    pub(crate) fn all() -> Vec<Self> {
        let nightly = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]))
            .map(PathBuf::from)
            .and_then(|rustc| Self::with_source("rustup's nightly", rustc));
        let distribution = Self::with_source("the distribution's Rust", PathBuf::from("/usr/bin/rustc"));
        nightly.into_iter().chain(distribution).collect()
    }

    /// The compiler at `rustc` if it runs and its rust-src is installed.
    fn with_source(name: &'static str, rustc: PathBuf) -> Option<Self> {
        let cargo = rustc.with_file_name("cargo");
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        let about = output(Command::new(&rustc).arg("-vV"))?;
        let version = |name| about.lines().find_map(|line| numbers(line.strip_prefix(name)?));
        let ((llvm, _), release) = (version("LLVM version: ")?, version("release: ")?);
        let is_new = Some(release) >= numbers(env!("CARGO_PKG_RUST_VERSION"));
        (is_new && cargo.is_file() && core.is_file()).then_some(Self { name, llvm, cargo, rustc })
    }
}

/// A compiler and the linker that goes with it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// The first compiler for which there is a linker; the error says what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let compilers = Compiler::all();
        let linkers = linkers();
        let missing = match (compilers.is_empty(), linkers.is_empty()) {
            (true, _) => "no recent Rust with rust-src (neither rustup's nightly nor the distribution's)",
            (false, true) => "no bpf-linker",
            (false, false) => "no bpf-linker for the LLVM of an installed compiler",
        };
        for compiler in compilers {
            // A linker that does not tell its LLVM is taken at its word: it was installed by hand.
            let fits = |linker: &PathBuf| linker_llvm(linker).is_none_or(|llvm| llvm == compiler.llvm);
            if let Some(linker) = linkers.iter().find(|linker| fits(linker)) {
                return Ok(Self { compiler, linker: linker.clone() });
            }
        }
        Err(format!("the eBPF programs cannot be compiled: {missing}; run `cargo xtask setup`"))
    }

    /// A cargo command that compiles `ossc-ebpf` for the BPF machine when run in the workspace.
    ///
    /// It inherits nothing of a cargo that runs us: that one's RUSTC, RUSTFLAGS or wrapper are for the
    /// host, and its target folder is locked while it waits for us.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.compiler.cargo);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(belongs_to_outer_cargo) {
                command.env_remove(&name);
            }
        }
        // `-Z build-std` is a nightly option; RUSTC_BOOTSTRAP makes a release compiler take it.
        command.env("RUSTC", &self.compiler.rustc).env("RUSTC_BOOTSTRAP", "1");
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command.args([subcommand, "--package=ossc-ebpf", "--target", TARGET, "-Zbuild-std=core", "--locked"]);
        command
    }

    /// The folder where a release build into `target_dir` leaves the object files.
    pub(crate) fn objects(target_dir: &Path) -> PathBuf {
        target_dir.join(TARGET).join("release")
    }
}

/// The folder of tools that set-up installs for this project alone, nothing in the user's own PATH.
pub(crate) fn tools_dir() -> PathBuf {
    cache_dir().join("tools")
}

/// Where this project keeps what can be installed again: `$XDG_CACHE_HOME/ossc` or `~/.cache/ossc`.
pub(crate) fn cache_dir() -> PathBuf {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"))
        .join("ossc")
}

/// Each bpf-linker there is, the user's own first.
fn linkers() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([tools_dir().join("bin")])
        .map(|folder| folder.join("bpf-linker"))
        .filter(|linker| linker.is_file())
        .collect()
}

/// The LLVM that `cargo install` built a linker for, from the record it keeps beside its bin folder.
fn linker_llvm(linker: &Path) -> Option<u32> {
    let record = fs::read_to_string(linker.parent()?.parent()?.join(".crates2.json")).ok()?;
    let (_, entry) = record.split_once("\"bpf-linker ")?;
    let (_, feature) = entry.split_once("\"llvm-")?;
    feature.split('"').next()?.parse().ok()
}

/// Whether a variable was set by, or is meant for, the cargo that runs this process.
fn belongs_to_outer_cargo(name: &str) -> bool {
    let user_wide = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    let for_host = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "MAKEFLAGS"];
    for_host.iter().any(|prefix| name.starts_with(prefix))
        && !user_wide.iter().any(|prefix| name.starts_with(prefix))
}

/// Major and minor number of a version such as `1.97.0-nightly`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Trimmed standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    // Without this, asking rustup for a toolchain that is not there would download it.
    let output = command.env("RUSTUP_AUTO_INSTALL", "0").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
