//! `cargo xtask dist`: what users install. The release agent, its manual pages, completions, units, sample settings and
//! documents are laid out once as a tree (`tree`), and the distributions' own packers make a .deb, an .rpm and a
//! .tar.gz of it (`pack`), into target/dist with their sums.
//!
//! Two runs on one commit at one path with one toolchain give the same bytes: times are the commit's, owners are
//! root, and the packers are told to keep to that. Another path gives another program, for its panics name source
//! files. `--try` shows all of it on a fresh Debian with a real systemd (`trial`).

mod notices;
mod pack;
mod tree;
mod trial;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{build, cmd, setup};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also install, start, upgrade and remove the .deb on a fresh Debian in namespaces of its own, with readers (root)
    #[arg(long = "try")]
    trial: bool,
    /// Also write a list of all that the agent is made of (CycloneDX); compiles cargo-cyclonedx the first time
    #[arg(long)]
    sbom: bool,
}

/// One version of the packages.
#[derive(Debug)]
struct Release {
    version: String,
    /// Seconds since 1970 that every file gets.
    epoch: String,
}

/// Packs, and shows the packages.
pub(crate) fn dist(args: &Args) -> Result<()> {
    if args.trial {
        cmd::require_root("dist --try")?;
    }
    setup::packers()?;
    build::build()?;
    let release = Release { version: env!("CARGO_PKG_VERSION").to_owned(), epoch: epoch()? };
    let out = cmd::root().join("target/dist");
    let packages = packages(&release, &out)?;
    if args.sbom {
        sbom(&release, &out)?;
    }
    for package in &packages {
        println!("dist: {}", package.display());
    }
    if args.trial { trial::trial(&release, &packages) } else { Ok(()) }
}

/// Makes all packages of a release in a directory, which is emptied first.
fn packages(release: &Release, out: &Path) -> Result<Vec<PathBuf>> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let scratch = tempfile::tempdir().context("a directory for the packages' files")?;
    let tree = scratch.path().join("tree");
    tree::lay_out(&tree)?;
    let packages = [
        pack::deb(release, &tree, scratch.path(), out)?,
        pack::rpm(release, &tree, scratch.path(), out)?,
        pack::tarball(release, &tree, scratch.path(), out)?,
    ];
    let names: Vec<_> = packages.iter().filter_map(|package| package.file_name()).collect();
    let sums = cmd::output(Command::new("sha256sum").args(names).current_dir(out))?;
    fs::write(out.join("SHA256SUMS"), sums).context("cannot write SHA256SUMS")?;
    Ok(packages.into())
}

/// The time of the commit, unless the environment says another one (https://reproducible-builds.org/specs).
fn epoch() -> Result<String> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    let time = cmd::output(git.args(["log", "-1", "--format=%ct"]).current_dir(cmd::root()));
    Ok(time.context("no time for the packages' files; set SOURCE_DATE_EPOCH")?.trim().to_owned())
}

/// The list has no word of when and where it was made, so it is the same each time.
fn sbom(release: &Release, out: &Path) -> Result<()> {
    let tool = setup::cargo_tool("cargo-cyclonedx", "0.5.9")?;
    let manifest = cmd::root().join("ossc-agent/Cargo.toml");
    let mut command = Command::new(tool);
    command.env("SOURCE_DATE_EPOCH", &release.epoch).args([
        "cyclonedx",
        "--format=json",
        "--spec-version=1.5",
        "--quiet",
        "--override-filename=ossc-sbom",
    ]);
    cmd::run(command.arg("--manifest-path").arg(&manifest).current_dir(cmd::root()))?;
    // It writes beside the manifest of each member, and takes no other place.
    for member in ["ossc-common", "ossc-ebpf", "ossc-agent", "xtask", "tests/oss-server", "tests/e2e"] {
        let written = cmd::root().join(member).join("ossc-sbom.json");
        if member == "ossc-agent" {
            let list = fs::read_to_string(&written).context("no list was written")?;
            let list = list.replace(&format!("{}/", cmd::root().display()), "/");
            fs::write(out.join("ossc-sbom.json"), list).context("cannot write the list")?;
        }
        fs::remove_file(&written).ok();
    }
    Ok(())
}
