//! Packs the tree with the distributions' own programs: dpkg-deb, rpmbuild, tar. They come as packages in seconds, they
//! are what defines each format, and all of them keep to SOURCE_DATE_EPOCH; cargo-deb and cargo-generate-rpm would be
//! compiled for minutes and want the list of files once more each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Release;
use super::tree::{self, CONFIG, DOC, ZSH};
use crate::cmd;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const EXECUTABLE: u32 = 0o755;
const PLAIN: u32 = 0o644;
/// Where Debian's zsh looks for completions of packages.
const DEBIAN_ZSH: &str = "usr/share/zsh/vendor-completions";

/// A copy of the tree with a name of its own, which keeps links to the same bytes.
fn copy(tree: &Path, to: &Path) -> Result<()> {
    cmd::quietly(Command::new("cp").args(["-a", "--link"]).arg(tree).arg(to))
}

/// The .deb.
pub(super) fn deb(release: &Release, tree: &Path, scratch: &Path, out: &Path) -> Result<PathBuf> {
    let root = scratch.join("deb");
    copy(tree, &root)?;
    let packaging = cmd::root().join("packaging/debian");
    fs::create_dir_all(root.join(DEBIAN_ZSH)).context("cannot make a folder")?;
    fs::rename(root.join(ZSH).join("_ossc-agent"), root.join(DEBIAN_ZSH).join("_ossc-agent"))
        .context("cannot move the completions for zsh")?;
    fs::remove_dir(root.join(ZSH)).context("cannot remove a folder")?;
    tree::install(&packaging.join("copyright"), &root.join(DOC).join("copyright"), PLAIN)?;
    let size = cmd::output(
        Command::new("du").args(["--apparent-size", "--summarize", "--block-size=1K"]).arg(&root),
    )?;
    let size = size.split_whitespace().next().unwrap_or("0").to_owned();
    let md5sums = "cd \"$1\" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    let md5sums = cmd::output(Command::new("sh").args(["-ec", md5sums, "-"]).arg(&root))?;
    let control = packaging.join("control.in");
    let control =
        fs::read_to_string(&control).with_context(|| format!("cannot read {}", control.display()))?;
    let control = control
        .replace("@VERSION@", &release.version)
        .replace("@SIZE@", &size)
        .replace("@DEPENDS@", &libraries(&root, scratch)?);
    let about = root.join("DEBIAN");
    tree::write(&about.join("control"), &control)?;
    tree::write(&about.join("conffiles"), &format!("/{CONFIG}\n"))?;
    tree::write(&about.join("md5sums"), &md5sums)?;
    for script in SCRIPTS {
        tree::install(&packaging.join(script), &about.join(script), EXECUTABLE)?;
    }
    let package = out.join(format!("ossc_{}_amd64.deb", release.version));
    let mut command = Command::new("dpkg-deb");
    // How xz cuts its blocks depends on the number of threads.
    command.env("SOURCE_DATE_EPOCH", &release.epoch).env("DPKG_DEB_THREADS_MAX", "1");
    cmd::run(
        command
            .args(["-Zxz", "--root-owner-group", "--build"])
            .arg(&root)
            .arg(&package)
            .stdout(std::process::Stdio::null()),
    )?;
    Ok(package)
}

/// The packages with the libraries that the program is linked with, in the versions it needs.
fn libraries(root: &Path, scratch: &Path) -> Result<String> {
    // It insists on a source package around it.
    tree::write(&scratch.join("debian/control"), "Source: ossc\n\nPackage: ossc\nArchitecture: amd64\n")?;
    let mut command = Command::new("dpkg-shlibdeps");
    let depends = cmd::output(command.arg("-O").arg(root.join("usr/bin/ossc-agent")).current_dir(scratch))?;
    let depends = depends.trim().strip_prefix("shlibs:Depends=");
    depends.map(str::to_owned).context("dpkg-shlibdeps named no library")
}

/// The .rpm.
pub(super) fn rpm(release: &Release, tree: &Path, scratch: &Path, out: &Path) -> Result<PathBuf> {
    let top = scratch.join("rpm");
    let mut command = Command::new("rpmbuild");
    command.env("SOURCE_DATE_EPOCH", &release.epoch).args(["-bb", "--quiet", "--target=x86_64"]);
    let define = [
        ("_topdir", top.display().to_string()),
        ("tree", tree.display().to_string()),
        ("version", release.version.clone()),
        ("_buildhost", "ossc".to_owned()),
        ("use_source_date_epoch_as_buildtime", "1".to_owned()),
        ("clamp_mtime_to_source_date_epoch", "1".to_owned()),
        ("_binary_payload", "w6.xzdio".to_owned()),
        ("_build_id_links", "none".to_owned()),
        // No stripping and the like: the files are as they should be.
        ("__os_install_post", "%{nil}".to_owned()),
        ("debug_package", "%{nil}".to_owned()),
    ];
    for (name, value) in define {
        command.arg("--define").arg(format!("{name} {value}"));
    }
    cmd::run(command.arg(cmd::root().join("packaging/rpm/ossc.spec")))?;
    let name = format!("ossc-{}-1.x86_64.rpm", release.version);
    let package = out.join(&name);
    fs::copy(top.join("RPMS/x86_64").join(&name), &package).context("rpmbuild left no package")?;
    Ok(package)
}

/// The .tar.gz, to be unpacked at `/` without its first folder.
pub(super) fn tarball(release: &Release, tree: &Path, scratch: &Path, out: &Path) -> Result<PathBuf> {
    let name = format!("ossc-{}-x86_64", release.version);
    copy(tree, &scratch.join(&name))?;
    let package = out.join(format!("{name}.tar.gz"));
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--hard-dereference"]);
    command.args(["--format=gnu", "--use-compress-program=gzip --best --no-name"]);
    command.arg(format!("--mtime=@{}", release.epoch)).arg("--directory").arg(scratch);
    cmd::run(command.arg("--create").arg("--file").arg(&package).arg(&name))?;
    Ok(package)
}
