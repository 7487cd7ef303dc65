//! Kernels to boot: Debian's cloud kernels of a series, fetched as packages and unpacked into the project's cache
//! folder. Nothing is installed on this machine, and what was unpacked once is used without asking anyone again.
//!
//! Driven by `vm` before any machine starts. A machine that cannot get a kernel gets an error that says where it is.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{cmd, setup, toolchain};

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    release: String,
    /// What the package was unpacked into.
    folder: PathBuf,
}

impl Kernel {
    /// The kernel of a series such as `6.12` that is in the cache, or else the newest one that apt offers.
    pub(crate) fn get(series: &str) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "the kernels and machines of `vm` are for x86_64 only");
        let cache = toolchain::cache_dir().join("kernels");
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let unpacked = fs::read_dir(&cache).with_context(|| format!("cannot list {}", cache.display()))?;
        let releases = unpacked.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let wanted = format!("{series}.");
        if let Some(release) = newest(releases.filter(|release| release.starts_with(&wanted))) {
            return Ok(Self { folder: cache.join(&release), release });
        }
        println!("setup: fetching Linux {series} of Debian's cloud images into {}", cache.display());
        let scratch = scratch(&cache)?;
        let package = match download(series, scratch.path()) {
            Ok(package) => package,
            Err(_) => {
                // The package lists may be missing, or older than what the mirror has.
                setup::update_package_lists();
                download(series, scratch.path())?
            }
        };
        unpack(&package, &cache)
    }

    /// As `uname -r` says it.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// The compressed kernel that a boot loader takes.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The files of these modules and of all they need, in the order in which they can be loaded. What is built into
    /// the kernel has no file.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join("lib/modules").join(&self.release);
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
        let mut files = Vec::new();
        for name in names {
            match in_order(&dependencies, name) {
                Some(paths) => files.extend(paths.iter().map(|path| folder.join(path))),
                None => ensure!(
                    builtin.lines().any(|path| module_name(path) == *name),
                    "Linux {} has no module {name}",
                    self.release
                ),
            }
        }
        let mut seen = BTreeSet::new();
        files.retain(|file| seen.insert(file.clone()));
        Ok(files)
    }
}

/// A module with what it needs, from `modules.dep`: `PATH: PATH...`, where the last one is to be loaded first
/// (modules.dep(5)).
fn in_order<'a>(dependencies: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (module, needs) = dependencies.lines().find_map(|line| {
        let (module, needs) = line.split_once(':')?;
        (module_name(module) == name).then_some((module, needs))
    })?;
    Some(needs.split_whitespace().rev().chain([module]).collect())
}

/// `kernel/fs/fuse/virtiofs.ko.xz` is virtiofs; dashes count as underscores.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Fetches the newest package of the series into this folder.
fn download(series: &str, folder: &Path) -> Result<PathBuf> {
    let prefix = format!("linux-image-{series}.");
    let names = cmd::output(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let kernels = names.lines().filter(|name| name.starts_with(&prefix) && name.ends_with("-cloud-amd64"));
    let Some(package) = newest(kernels.map(str::to_owned)) else {
        bail!(
            "no package {prefix}*-cloud-amd64 in the package lists of this machine; Debian 12 has 6.1, and 6.12 with \
             its security updates or backports: add them to apt's sources, or leave this kernel out"
        );
    };
    let mut apt = Command::new("apt-get");
    // apt's own user may not enter root's cache folder, and apt would say so each time.
    apt.args(["--quiet=2", "--option=APT::Sandbox::User=root", "download", &package]).current_dir(folder);
    cmd::quietly(&mut apt).with_context(|| format!("cannot fetch {package}"))?;
    let file = fs::read_dir(folder)?.next().with_context(|| format!("apt-get left no {package}"))??;
    Ok(file.path())
}

/// A folder on the cache's file system that removes itself.
fn scratch(cache: &Path) -> Result<TempDir> {
    tempfile::tempdir_in(cache).with_context(|| format!("cannot make a folder in {}", cache.display()))
}

/// Unpacks a package, and gives it its place only when it is whole.
fn unpack(package: &Path, cache: &Path) -> Result<Kernel> {
    let scratch = scratch(cache)?;
    cmd::quietly(Command::new("dpkg-deb").arg("--extract").arg(package).arg(scratch.path()))?;
    let modules = scratch.path().join("lib/modules");
    let release = fs::read_dir(&modules)?.next().context("the kernel package has no modules")??;
    let release = release.file_name().into_string().ok().context("the kernel's release is no UTF-8")?;
    // Packages come without this index, since the distribution makes it when it installs them.
    cmd::quietly(Command::new("busybox").args(["depmod", "-b"]).arg(scratch.path()).arg(&release))?;
    let folder = cache.join(&release);
    fs::rename(scratch.path(), &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(Kernel { release, folder })
}

/// The one with the highest numbers, compared one after the other.
fn newest(names: impl Iterator<Item = String>) -> Option<String> {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    names.min_by_key(|name| Reverse(numbers(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_has_the_highest_numbers() {
        let names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"];
        assert_eq!(newest(names.map(str::to_owned).into_iter()).unwrap(), names[1]);
        assert_eq!(newest(std::iter::empty()), None);
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/fuse/fuse.ko:\n\
            kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio-ring.ko.xz\n";
        let order = in_order(dependencies, "virtio_pci").unwrap();
        let names: Vec<_> = order.into_iter().map(module_name).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_pci"]);
        assert_eq!(in_order(dependencies, "loop"), None);
    }
}
