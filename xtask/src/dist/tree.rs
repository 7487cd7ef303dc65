//! The files as they are installed, below a directory: what all packages have in common. Modes are set here and nowhere
//! else; times and owners are the packers'.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::stat::{Mode, umask};

use super::notices;
use crate::cmd;

/// Where documents go.
pub(super) const DOC: &str = "usr/share/doc/ossc";
/// What the administrator edits, which an upgrade keeps.
pub(super) const CONFIG: &str = "etc/oss-connector/config.json";
/// Completions for zsh, where rpm's distributions look for them.
pub(super) const ZSH: &str = "usr/share/zsh/site-functions";
/// Where the program goes.
const PROGRAM: &str = "usr/bin/ossc-agent";
const UNITS: &str = "usr/lib/systemd/system";
/// Of a program, and of everything else.
const EXECUTABLE: u32 = 0o755;
const PLAIN: u32 = 0o644;

/// Fills the directory, which is made.
pub(super) fn lay_out(tree: &Path) -> Result<()> {
    // Of folders; files get theirs one by one.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let root = cmd::root();
    let program = tree.join(PROGRAM);
    install(&root.join("target/release/ossc-agent"), &program, EXECUTABLE)?;
    // Names of functions stay, for what a panic says.
    cmd::quietly(Command::new("strip").arg("--strip-debug").arg(&program))?;
    install(&root.join("packaging/config.json"), &tree.join(CONFIG), PLAIN)?;
    for unit in ["ossc-agent.service", "ossc-agent@.service"] {
        install(&root.join("packaging").join(unit), &tree.join(UNITS).join(unit), PLAIN)?;
    }
    manual(tree)?;
    documents(tree)
}

/// What the program says of itself: manual pages and completions.
fn manual(tree: &Path) -> Result<()> {
    let written = tempfile::tempdir().context("a directory for manual pages")?;
    let mut writer = cmd::cargo(&["run", "--quiet", "--package=ossc-agent", "--example=manual", "--"]);
    cmd::quietly(writer.arg(written.path()))?;
    for file in fs::read_dir(written.path()).context("cannot list manual pages")? {
        let file = file.context("cannot list manual pages")?;
        let name = file.file_name().to_string_lossy().into_owned();
        let to = match name.as_str() {
            "ossc-agent.bash" => "usr/share/bash-completion/completions/ossc-agent".to_owned(),
            "_ossc-agent" => format!("{ZSH}/{name}"),
            "ossc-agent.fish" => format!("usr/share/fish/vendor_completions.d/{name}"),
            page => format!("usr/share/man/man1/{page}"),
        };
        let to = tree.join(to);
        install(&file.path(), &to, PLAIN)?;
        if name.ends_with(".1") {
            // Without name and time of the file in the result.
            cmd::quietly(Command::new("gzip").args(["--best", "--no-name"]).arg(&to))?;
        }
    }
    Ok(())
}

fn documents(tree: &Path) -> Result<()> {
    let (root, doc) = (cmd::root(), tree.join(DOC));
    for name in ["README.md", "README.zh-CN.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        install(&root.join(name), &doc.join(name), PLAIN)?;
    }
    copy_folder(&root.join("docs"), &doc.join("docs"))?;
    copy_folder(&root.join("packaging/examples"), &doc.join("examples"))?;
    write(&doc.join("THIRD-PARTY"), &notices::text()?)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            install(&entry.path(), &target, PLAIN)?;
        }
    }
    Ok(())
}

/// Copies a file, makes the folders above it, and sets the mode.
pub(super) fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    folder_of(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    set_mode(to, mode)
}

/// Writes a file that only packages have.
pub(super) fn write(to: &Path, text: &str) -> Result<()> {
    folder_of(to)?;
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))?;
    set_mode(to, PLAIN)
}

fn folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_of_one_and_of_many_models_differ_in_names_alone() {
        let read = |name: &str| {
            let text = fs::read_to_string(cmd::root().join("packaging").join(name)).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        let many = read("ossc-agent@.service").into_iter().map(|line| {
            let line = line.replace(" (%i)", "").replace(" --config /etc/oss-connector/%i.json", "");
            line.replace("%i.environment", "environment").replace("ossc:ossc.%i", "ossc")
        });
        assert_eq!(read("ossc-agent.service"), many.collect::<Vec<_>>());
    }
}
